"""What a search may draw, and how that is written."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from crossmodal.sweep.search import Choice, Interval, Search, flags, scalar, short_names, written


def test_intervals_are_whole_where_both_ends_are() -> None:
    assert Interval(1, 8).is_whole
    assert not Interval(0, 0.5).is_whole
    assert not Interval(0, 1, step=0.25).is_whole


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
    size = search.size
    assert size is not None
    points = [tuple(search.point(number).items()) for number in range(size)]
    assert len(set(points)) == size
    assert all(value in search.parameters[key] for point in points for key, value in point)


def test_points_are_as_they_are_written() -> None:
    interval = Interval(0.0, 0.3, step=0.1)
    assert [interval.at(index) for index in range(interval.size or 0)] == [0.0, 0.1, 0.2, 0.3]  # 3 * 0.1 is more
    interval = Interval(0, 1, step=0.25)
    assert [interval.at(index) for index in range(interval.size or 0)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [type(Interval(1, 3).at(index)) for index in range(3)] == [int] * 3


@pytest.mark.parametrize(
    ("one", "size"), [(Interval(0.0, 1.0), None), (Interval(0, 3_000_000_000), 3_000_000_001), (Choice((1, 2)), 2)]
)
def test_points_are_counted_where_they_can_be(one: Choice | Interval, size: int | None) -> None:
    assert Search({"a": one, "b": Choice((1, 2))}).size == (size and 2 * size)


def test_names_are_as_short_as_tells_them_apart() -> None:
    keys = [
        "model.optimizer.init_args.lr",
        "model.fusion.init_args.dropout",
        "experts.text.init_args.dropout",
        "model.fusion.class_path",
    ]
    assert list(short_names(keys).values()) == ["lr", "fusion.dropout", "text.dropout", "fusion"]
