"""Plots of a sweep's trials: what each tried, and what it came to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossmodal.report.plots import ROW, Plot, shown

GAP = 0.08  # beyond the ends of an axis, for its labels


@dataclass(frozen=True)
class Tried:
    """A trial as the plots show it.

    Args:
        number: Its own.
        value: What it came to; of one that was stopped, when it was.
        is_complete: Whether it was trained to its end.
        settings: By key.
    """

    number: int
    value: float
    is_complete: bool
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """A key that is searched, as an axis.

    Args:
        title: Beneath it.
        key: Of the YAML, or None for what trials came to.
        values: Of a choice, as texts; else none.
        low: The least number.
        high: The most.
        log: Whether it is logarithmic.
    """

    title: str
    key: str | None
    values: Sequence[str] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False

    def place(self, value: Any) -> float:
        """Return where a value lies, from 0 to 1."""
        if self.values:
            return (self.values.index(_text(value)) + 0.5) / len(self.values)
        low, high, at = (math.log(one) if self.log else one for one in (self.low, self.high, float(value)))
        return (at - low) / (high - low) if high > low else 0.5

    def labels(self) -> list[tuple[float, str]]:
        """Return what is written along it, and where."""
        if self.values:
            return [((index + 0.5) / len(self.values), text) for index, text in enumerate(self.values)]
        return [(-GAP, shown(self.low)), (1 + GAP, shown(self.high))]

    def of(self, trial: Tried) -> Any:
        """Return a trial's value."""
        return trial.value if self.key is None else trial.settings[self.key]


def parallel_coordinates(trials: Sequence[Tried], axes: Sequence[Axis], best: Tried, *, note: str) -> Plot:
    """Draw a line for each trial through what it tried to what it came to; the better, the darker.

    Args:
        trials: From the worst to the best.
        axes: From left to right.
        best: Which is drawn in a colour of its own.
        note: Beneath it.
    """
    order = [axis.title for axis in axes]
    data = [
        {
            "trial": trial.number,
            "axis": axis.title,
            "at": axis.place(axis.of(trial)),
            "value": _text(axis.of(trial)),
            "dark": (0.12 + 0.5 * rank / len(trials)) if trial is not best else 1.0,
            "kind": "best" if trial is best else "other" if trial.is_complete else "stopped early",
        }
        for rank, trial in enumerate(trials)
        for axis in axes
    ]
    labels = [{"axis": axis.title, "at": at, "text": text} for axis in axes for at, text in axis.labels()]
    x = {
        "field": "axis",
        "type": "nominal",
        "sort": order,
        "title": None,
        "axis": {"labelAngle": -20, "domain": False, "grid": True, "ticks": False},
    }
    y = {"field": "at", "type": "quantitative", "axis": None, "scale": {"domain": [-2 * GAP, 1 + 2 * GAP]}}
    kinds = ["best", "other", "stopped early"]
    line = {
        "data": {"values": data},
        "mark": {"type": "line", "tooltip": True, "strokeWidth": 2},
        "encoding": {
            "detail": {"field": "trial"},
            "opacity": {"field": "dark", "type": "quantitative", "scale": {"domain": [0, 1]}, "legend": None},
            "color": {
                "field": "kind",
                "type": "nominal",
                "scale": {"domain": kinds, "range": ["var(--c1)", "var(--c0)", "var(--quiet)"]},
            },
            "tooltip": [{"field": name, "type": "nominal"} for name in ("trial", "axis", "value")],
        },
    }
    text = {
        "data": {"values": labels},
        "mark": {"type": "text", "color": "var(--text)", "fontSize": 10, "align": "left", "dx": 4},
        "encoding": {"text": {"field": "text"}},
    }
    spec = {"encoding": {"x": x, "y": y}, "layer": [line, text], "height": 320}
    said = f"{len(trials)} trials; the best, number {best.number}: " + "; ".join(
        f"{axis.title} {_text(axis.of(best))}" for axis in axes
    )
    header = ["trial", *order]
    rows = [[str(one.number), *(_text(axis.of(one)) for axis in axes)] for one in reversed(trials)]
    return Plot("What was tried, and what it came to", f"{said}.", spec, header, rows, note, is_wide=True)


def bars(title: str, values: Mapping[str, float], *, axis: str, note: str = "") -> Plot:
    """Draw a bar for each name.

    Args:
        title: Above it.
        values: By name, in order.
        axis: What they are, in which unit.
        note: Beneath it.
    """
    spec = {
        "data": {"values": [{"name": name, "value": value} for name, value in values.items()]},
        "mark": {"type": "bar", "tooltip": True, "cornerRadius": 2, "color": "var(--c0)"},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "title": None, "sort": list(values)},
            "x": {"field": "value", "type": "quantitative", "title": axis},
        },
        "height": len(values) * ROW,
    }
    rows = [[name, shown(value)] for name, value in values.items()]
    said = "; ".join(f"{name}: {shown(value)}" for name, value in values.items())
    return Plot(title, f"{axis}. {said}.", spec, ["", axis], rows, note)


def slice_plot(trials: Sequence[Tried], axis: Axis, *, metric: str) -> Plot:
    """Draw what trials came to by one of the keys.

    Args:
        trials: All.
        axis: The key.
        metric: What they came to.
    """
    data = [
        {
            "x": _text(axis.of(one)) if axis.values else axis.of(one),
            "y": one.value,
            "trial": one.number,
            "kind": "trained to the end" if one.is_complete else "stopped early",
        }
        for one in trials
    ]
    scale = {"type": "log"} if axis.log else {"type": "linear", "zero": False}
    scale |= {"nice": False, "domain": [axis.low, axis.high]}
    x = (
        {"field": "x", "type": "nominal", "title": axis.title, "sort": list(axis.values), "axis": {"labelAngle": -20}}
        if axis.values
        else {
            "field": "x",
            "type": "quantitative",
            "title": axis.title,
            "scale": scale,
            "axis": {"tickCount": 5, "labelSeparation": 12},
        }
    )
    spec = {
        "data": {"values": data},
        "mark": {"type": "point", "filled": True, "size": 60, "tooltip": True, "opacity": 0.8},
        "encoding": {
            "x": x,
            "y": {"field": "y", "type": "quantitative", "title": metric, "scale": {"zero": False}},
            "color": {
                "field": "kind",
                "type": "nominal",
                "scale": {
                    "domain": ["trained to the end", "stopped early"],
                    "range": ["var(--c0)", "var(--quiet)"],
                },
            },
            "tooltip": [{"field": "trial"}, {"field": "x", "title": axis.title}, {"field": "y", "title": metric}],
        },
        "height": 220,
    }
    rows = [[_text(axis.of(one)), shown(one.value)] for one in sorted(trials, key=lambda one: -one.value)]
    return Plot(axis.title, f"{metric} by {axis.title}, of {len(trials)} trials.", spec, [axis.title, metric], rows)


def _text(value: Any) -> str:
    return shown(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
