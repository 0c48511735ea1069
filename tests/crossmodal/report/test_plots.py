"""Each plot is one that Vega-Lite can draw, and says the same in words and numbers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import vl_convert

from crossmodal.report.plots import (
    CONFIG,
    MOST_POINTS,
    SCHEMA,
    Plot,
    curves,
    diagonal,
    heat_map,
    intervals,
    lines,
    shown,
    thinned,
)
from crossmodal.report.sweep_plots import Axis, Tried, bars, parallel_coordinates, slice_plot

HISTORY = {"train/loss": [(0, 2.0), (10, 1.0), (20, 0.5)], "val/loss": [(10, 1.5), (20, 0.75)]}


def drawn(plot: Plot | None) -> str:
    assert plot is not None
    json.dumps(plot.spec, allow_nan=False)
    spec: dict[str, Any] = {"$schema": SCHEMA, **plot.spec, "config": CONFIG, "width": 300}
    return str(vl_convert.vegalite_to_svg(spec))


def texts(svg: str) -> set[str]:
    return set(re.findall(r"<text[^>]*>([^<]*)</text>", svg))


def test_curves() -> None:
    plot = curves("Loss", {"run": HISTORY}, ["train/loss", "val/loss"])
    svg = drawn(plot)
    assert {"train/loss", "val/loss", "step"} <= texts(svg)
    assert svg.count('stroke="var(--c0)"') >= 1
    assert plot is not None
    assert plot.alt == "Over 20 steps: train/loss goes from 2 to 0.5; val/loss goes from 1.5 to 0.75."
    assert plot.rows[0] == ["train/loss", "2", "0.5", "0.5", "2", "20"]


def test_curves_of_several_runs_are_named_after_them() -> None:
    svg = drawn(curves("Loss", {"one/0": HISTORY, "two/0": HISTORY, "empty/0": {}}, ["val/loss"]))
    assert {"one/0", "two/0"} <= texts(svg)
    assert "empty/0" not in texts(svg)
    assert curves("Loss", {"empty/0": {}}, ["val/loss"]) is None


@pytest.mark.parametrize("bars", [True, False])
def test_intervals(bars: bool) -> None:
    values = [
        ("image", "alone", 0.6, 0.5, 0.7),
        ("image", "left out", -0.1, -0.2, 0.0),
        ("text", "alone", 0.4, 0.3, 0.5),
    ]
    plot = intervals("Contributions", values, axis="accuracy", bars=bars)
    assert {"image", "text", "alone", "left out", "accuracy"} <= texts(drawn(plot))
    assert plot.alt == "accuracy. image, alone: 0.6; image, left out: -0.1; text, alone: 0.4."
    assert plot.rows[1] == ["image", "left out", "-0.1", "-0.2 to 0"]


def test_lines() -> None:
    plot = lines("Noise", {"image": [(0, 1.0), (1, 0.5)], "text": [(0, 1.0)]}, x="noise", y="accuracy")
    assert {"image", "text", "noise", "accuracy"} <= texts(drawn(plot))
    assert lines("Noise", {}, x="noise", y="accuracy") is None


@pytest.mark.parametrize("labelled", [True, False])
def test_heat_map(labelled: bool) -> None:
    names = [f"class {number}" for number in range(3 if labelled else 20)]
    values: list[list[float | None]] = [[float(a * b) for b in range(len(names))] for a in range(len(names))]
    values[0][1] = None
    plot = heat_map("Confusion", values, rows=names, columns=names, row_title="target", column_title="prediction")
    found = texts(drawn(plot))
    assert {"class 0", "class 2", "target", "prediction"} <= found
    assert ("4" in found) is labelled
    assert plot.rows[0][:3] == ["class 0", "0", ""]
    assert plot.alt == f"A matrix of target by prediction, {len(names)} by {len(names)}."


def test_a_heat_map_of_zeros_and_one_of_nothing_can_be_drawn() -> None:
    for values in ([[0.0]], [[None]]):
        drawn(heat_map("x", values, rows=["a"], columns=["b"], row_title="r", column_title="c"))


def test_reliability() -> None:
    plot = diagonal("Calibration", [0.5, 0.9], [0.4, 1.0])
    assert {"confidence", "share that is right"} <= texts(drawn(plot))
    assert plot.alt == "Share of answers that are right, by confidence: 0.4 at 0.5; 1 at 0.9."


@pytest.mark.parametrize(
    ("value", "text"), [(0.99876, "0.9988"), (0.0, "0"), (12345.0, "12,345"), (1e-7, "1e-07"), (-0.25, "-0.25")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert shown(value) == text


def test_parallel_coordinates_have_a_line_for_each_trial_and_the_best_in_its_colour() -> None:
    settings = [{"lr": 0.001, "kind": "one"}, {"lr": 0.1, "kind": "two"}, {"lr": 0.01, "kind": "one"}]
    trials = [Tried(number, number / 2, number != 0, one) for number, one in enumerate(settings)]
    axes = [
        Axis("lr", "lr", low=0.001, high=0.1, log=True), Axis("kind", "kind", ["one", "two"]),
        Axis("score", None, high=1.0),
    ]  # fmt: skip
    assert [axis.place(axis.of(trials[2])) for axis in axes] == [pytest.approx(0.5), 0.25, 1.0]
    plot = parallel_coordinates(trials, axes, trials[2], note="")
    svg = drawn(plot)
    assert svg.count('stroke="var(--c1)"') >= 1
    assert {"lr", "kind", "one", "two", "0.001", "0.1"} <= texts(svg)
    assert plot.alt == "3 trials; the best, number 2: lr 0.01; kind one; score 1."
    assert plot.rows[0] == ["2", "0.01", "one", "1"]


def test_slices_and_bars() -> None:
    trials = [Tried(0, 0.5, True, {"lr": 0.01, "kind": "one"}), Tried(1, 0.7, False, {"lr": 0.1, "kind": "two"})]
    for axis in (Axis("lr", "lr", low=0.001, high=0.1, log=True), Axis("kind", "kind", ["one", "two", "three"])):
        plot = slice_plot(trials, axis, metric="score")
        assert {axis.title, "score", "stopped early"} <= texts(drawn(plot))
        assert plot.rows[0][1] == "0.7"
    plot = bars("Importance", {"lr": 0.8, "kind": 0.2}, axis="share")
    assert {"lr", "kind", "share"} <= texts(drawn(plot))
    assert plot.alt == "share. lr: 0.8; kind: 0.2."


def test_a_long_curve_is_thinned_to_means_and_keeps_its_last_step() -> None:
    points = [(step, float(step)) for step in range(10 * MOST_POINTS + 3)]
    found = thinned(points)
    assert len(found) <= MOST_POINTS
    assert found[-1][0] == points[-1][0]
    size = found[0][0] + 1
    assert found[0][1] == sum(range(size)) / size
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]
