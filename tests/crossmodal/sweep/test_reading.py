"""What a search says, as a file or as `--search KEY=VALUES`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from crossmodal.errors import UsageError
from crossmodal.preflight import check
from crossmodal.sweep.reading import read_search
from crossmodal.sweep.search import Choice, Interval, Search
from tests.conftest import ROOT

LR = "model.optimizer.init_args.lr"
SHIPPED = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1e-4..1e-2:log", Interval(1e-4, 1e-2, log=True)),
        ("0..0.5", Interval(0, 0.5)),
        ("1..8", Interval(1, 8)),
        ("0..1:0.25", Interval(0, 1, step=0.25)),
        ("0..1:0.3", Interval(0, 0.9, step=0.3)),
        ("0..10:3", Interval(0, 9, step=3)),
        ("2,4,8", Choice((2, 4, 8))),
        ("[0.9, 0.99],[0.8,0.9]", Choice(([0.9, 0.99], [0.8, 0.9]))),
        ("true,false", Choice((True, False))),
        ("null, a.b.C", Choice((None, "a.b.C"))),
        ("relu", Choice(("relu",))),
        ("[[1,2],[3,4]],[[5,6],[7]]", Choice(([[1, 2], [3, 4]], [[5, 6], [7]]))),
        (
            ",".join(f"crossmodal.fusion.concat.Fusion{n}" for n in range(9)),
            Choice(tuple(f"crossmodal.fusion.concat.Fusion{n}" for n in range(9))),
        ),
        ("-1e-3..1e-3", Interval(-1e-3, 1e-3)),
    ],
)
def test_values_of_the_command_line(text: str, found: object) -> None:
    assert read_search(f"{LR}={text}") == Search({LR: found})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("model.warmup", "model.warmup: no such file"),
        ("=1..2", "expected KEY=VALUES"),
        ("model.warmup=", "expected KEY=VALUES"),
        ("model.warmup=0.5..0.1", "the least, 0.5, must be below the most, 0.1"),
        ("model.warmup=0..1:log", "0 has no logarithm"),
        ("model.warmup=0..1:2", "steps of 2 do not lead from 0 to 1"),
        ("model.warmup=0..1:fast", "'fast' after the colon: expected a number, found 'fast'"),
        ("model.warmup=a..b", "expected a number, found 'a'"),
        ("model.warmup=1,2,1", "--search model.warmup: '1' stands twice"),
        ("model.warmup=[1,2", r"--search model.warmup: \[1,2 has brackets that do not open and close"),
        ("model.warmup=1,", "--search model.warmup: no value stands before or after a comma"),
    ],
)
def test_what_cannot_be_understood_is_named(given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_search(given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"parameter": {}}, "unknown key 'parameter'"),
        ({"parameters": {}}, "parameters: expected the YAML's keys"),
        ({"parameters": {"a": 3}}, "parameters.a: expected `value`"),
        ({"parameters": {"a": {"parameters": {"b": {"value": 1}}}}}, "write nested keys with dots, as a.KEY"),
        ({"parameters": {"a": {"distribution": "normal"}}}, "parameters.a.distribution: normal is not supported"),
        ({"parameters": {"a": {"min": 1}}}, "parameters.a.max: expected a number, found None"),
        ({"parameters": {"a": {"values": []}}}, "parameters.a.values: expected a list of values"),
        (
            {"parameters": {"a": {"values": [1]}}, "method": "hope"},
            "method: expected bayes, random, grid, found 'hope'",
        ),
        ({"parameters": {"a": {"value": 1, "values": [2]}}}, "parameters.a: 'values' is not supported here"),
        ({"parameters": {"a": {"distribution": "constant"}}}, "parameters.a: a constant has a `value`"),
        (
            {"parameters": {"a": {"valeus": [1]}}},
            "parameters.a: 'valeus' is not supported here; there are",
        ),
        (
            {"parameters": {"a": {"values": [1], "probabilities": [1]}}},
            "parameters.a: 'probabilities' is not",
        ),
        ({"parameters": {"a": {"distribution": ["uniform"]}}}, "parameters.a.distribution: .* is not supported"),
        (
            {"parameters": {"a": {"values": [1]}}, "metric": {"name": "x", "target": 0.9}},
            "metric: 'target' is not supported here",
        ),
        (
            {"parameters": {"a": {"values": [1]}}, "early_terminate": {"type": "hyperband", "min_iter": 1, "s": 2}},
            "early_terminate: 's' is not supported here",
        ),
        ({"parameters": {"a": {"values": ["1", 1]}}}, "parameters.a: '1' stands twice"),
        ({"parameters": {"a": {"values": [1]}}, "metric": "val/accuracy"}, "metric: expected its name, such as"),
        ({"parameters": {"a": {"values": [1]}}, "metric": {"name": 3}}, "metric: expected its name, such as"),
        (
            {"parameters": {"a": {"values": [1]}}, "metric": {"name": "x", "goal": "most"}},
            "metric.goal: expected minimize, maximize, found 'most'",
        ),
        ({"parameters": {"a": {"values": [1]}}, "run_cap": "20"}, "run_cap: expected a number of trials, at least 1"),
        ({"parameters": {"a": {"values": [1]}}, "run_cap": -1}, "run_cap: expected a number of trials, at least 1"),
        ({"parameters": {"a": {"values": [1]}}, "early_terminate": {"type": "x"}}, "early_terminate: expected type"),
    ],
)
def test_a_file_that_is_wrong_names_the_key(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match=message) as raised:
        read_search(str(path))
    assert str(raised.value).startswith(str(path))


def test_a_file_as_wandb_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(
        """
        {method: random, metric: {name: val/loss, goal: minimize}, run_cap: 7,
        early_terminate: {type: hyperband, min_iter: 3}, parameters: {a: {min: 1, max: 4}, b: {min: 1, max: 4.5},
        c: {distribution: log_uniform_values, min: 1e-4, max: 1}, d: {distribution: q_uniform, min: 0, max: 1, q: 0.5},
        e: {values: [x, [1, 2], null]}, f: {value: 3}}}
        """
    )
    found = read_search(str(path))
    assert found.parameters == {
        "a": Interval(1, 4),
        "b": Interval(1.0, 4.5),
        "c": Interval(1e-4, 1.0, log=True),
        "d": Interval(0.0, 1.0, step=0.5),
        "e": Choice(("x", [1, 2], None)),
    }
    assert [found.parameters[key].is_whole for key in "abc"] == [True, False, False]  # type: ignore[union-attr]
    assert (found.fixed, found.method, found.metric, found.goal) == ({"f": 3}, "random", "val/loss", "minimize")
    assert (found.early, found.trials) == ({"min_iter": 3, "eta": 3}, 7)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_searches_are_what_wandb_and_fit_can_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that wandb's agent makes of the file is one that `crossmodal fit` takes."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

    monkeypatch.chdir(ROOT)
    config = load_sweep_config(str(path))
    assert config is not None
    search = read_search(str(path))
    first = {key: {"value": one.examples()[0]} for key, one in search.parameters.items()}
    drawn = create_sweep_command_args({"args": {**first, **{key: {"value": v} for key, v in search.fixed.items()}}})
    command: list[str] = []
    for part in create_sweep_command(config["command"]):
        command += drawn["args"] if part == "${args}" else [part]
    assert command[:2] == ["crossmodal", "fit"]
    check("fit", command[2:])
    with pytest.raises(UsageError, match="unknown key"):
        check("fit", [*command[2:], "--model.fusion.init_args.slot=3"])


def test_a_list_instead_of_keys(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("[1, 2]")
    with pytest.raises(UsageError, match=r"expected keys such as method, metric and parameters, found a list"):
        read_search(str(path))


def test_what_is_given_later_wins() -> None:
    first = Search({"a": Choice((1, 2)), "b": Choice((1, 2))}, {"c": 1}, method="random", metric="x", goal="minimize")
    then = Search({"a": Choice((3, 4)), "c": Choice((5, 6))}, method="bayes")
    assert first | then == Search(
        {"a": Choice((3, 4)), "b": Choice((1, 2)), "c": Choice((5, 6))}, {}, "bayes", "x", "minimize"
    )
    assert Search({"a": Choice((1, 2)), "b": Choice((1, 2))}) | Search(fixed={"a": 3}) == Search(
        {"b": Choice((1, 2))}, {"a": 3}
    )


def test_numbers_of_a_file_are_numbers_however_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a=b.yaml"
    path.write_text("parameters: {lr: {values: [1e-3, 1e-2]}}")
    assert read_search(str(path)).parameters == {"lr": Choice((0.001, 0.01))}
