from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crossmodal.errors import UsageError
from crossmodal.preflight import check
from crossmodal.sweep.search import Choice, Interval, Search, flags, read_search, scalar, short_names, written
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
        ("0..1:0.3", Interval(0, 0.8999999999999999, step=0.3)),
        ("2,4,8", Choice((2, 4, 8))),
        ("true,false", Choice((True, False))),
        ("null, a.b.C", Choice((None, "a.b.C"))),
        ("relu", Choice(("relu",))),
        ("-1e-3..1e-3", Interval(-1e-3, 1e-3)),
    ],
)
def test_values_of_the_command_line(text: str, found: object) -> None:
    assert read_search(f"{LR}={text}") == Search({LR: found})  # type: ignore[dict-item]


def test_intervals_are_whole_where_both_ends_are() -> None:
    assert Interval(1, 8).is_whole
    assert not Interval(0, 0.5).is_whole
    assert not Interval(0, 1, step=0.25).is_whole


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


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["a.b.C", "relu"]), st.lists(st.integers(), max_size=3),
)  # fmt: skip


@given(values)
def test_a_value_is_written_as_yaml_reads_it(value: object) -> None:
    text = written(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value
    assert type(scalar(text)) is type(value)


def test_a_class_stands_before_its_arguments() -> None:
    given = {"model.fusion.init_args.width": 8, "model.fusion.class_path": "A", "trainer.max_epochs": 1}
    assert next(iter(flags(given))) == "--model.fusion.class_path=A"
    assert set(flags(given)) == {
        "--model.fusion.init_args.width=8",
        "--model.fusion.class_path=A",
        "--trainer.max_epochs=1",
    }


@given(
    st.lists(
        st.one_of(
            st.lists(st.integers(), min_size=1, max_size=4, unique=True).map(lambda some: Choice(tuple(some))),
            st.tuples(st.integers(-3, 3), st.integers(1, 4)).map(lambda pair: Interval(pair[0], pair[0] + pair[1])),
            st.just(Interval(0.0, 1.0, step=0.25)),
            st.just(Interval(0.0, 0.3, step=0.1)),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_grid_has_each_point_once(parameters: list[Choice | Interval]) -> None:
    search = Search({f"k{number}": one for number, one in enumerate(parameters)}, method="grid")
    size = search.grid_size()
    assert size is not None
    points = [tuple(search.point(number).items()) for number in range(size)]
    assert len(set(points)) == size
    assert all(value in search.parameters[key] for point in points for key, value in point)


def test_points_of_a_grid_stay_within_its_ends() -> None:
    assert Interval(0.0, 0.3, step=0.1).points() == (0.0, 0.1, 0.2, 0.3)  # 3 * 0.1 is more than 0.3


def test_a_grid_wants_steps() -> None:
    with pytest.raises(UsageError, match=r"a: a grid of 0.0 to 1.0 wants steps, as 0.0..1.0:STEP"):
        Search({"a": Interval(0.0, 1.0)}, method="grid").grid_size()


def test_names_are_as_short_as_tells_them_apart() -> None:
    keys = [LR, "model.fusion.init_args.dropout", "experts.text.init_args.dropout", "model.fusion.class_path"]
    assert list(short_names(keys).values()) == ["lr", "fusion.dropout", "text.dropout", "fusion"]
