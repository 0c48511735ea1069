from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmodal.report.comparison import bootstrap, differences


def test_an_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    found = [bootstrap((draw.random(200) < 0.8).astype(float), seed=number) for number in range(200)]
    covered = sum(one.low <= 0.8 <= one.high for one in found)
    assert 0.90 * 200 <= covered <= 0.99 * 200


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_an_interval_lies_about_the_mean_and_within_the_values(values: list[float]) -> None:
    one = bootstrap(np.array(values))
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert one.value == pytest.approx(np.mean(values), abs=slack)
    assert min(values) - slack <= one.low <= one.high <= max(values) + slack


def test_it_is_the_same_each_time_and_of_one_value_sure() -> None:
    values = np.random.default_rng(1).random(50)
    assert bootstrap(values) == bootstrap(values)
    one = bootstrap(np.full(9, 0.25))
    assert (one.value, one.low, one.high, one.is_sure) == (0.25, 0.25, 0.25, True)
    with pytest.raises(ValueError, match="no row"):
        bootstrap(np.array([]))


def test_of_many_rows_few_are_drawn_at_a_time() -> None:
    one = bootstrap(np.random.default_rng(2).random(30_000) < 0.5)
    assert 0.0095 < one.high - one.low < 0.0131  # 2 * 1.96 * 0.5 / sqrt(30,000) = 0.0113


def test_rows_are_paired_by_name_whatever_their_order() -> None:
    ids = {"a": ["x", "y", "z"], "b": ["z", "x", "other"]}
    scores = {
        "a": {"answer": ("accuracy", np.array([0.0, 1.0, 1.0]))},
        "b": {"answer": ("accuracy", np.array([0.0, 1.0, 1.0])), "colour": ("accuracy", np.ones(3))},
    }
    (one,) = differences(ids, scores)
    assert (one.run, one.task, one.rows) == ("b", "answer", 2)
    assert one.interval.value == pytest.approx(((0.0 - 1.0) + (1.0 - 0.0)) / 2)


def test_paired_differences_are_surer_than_what_they_differ_by() -> None:
    draw = np.random.default_rng(3)
    hard = draw.random(2000) < 0.3  # both fail at the same rows
    first = np.where(hard, 0.0, 1.0)
    second = first.copy()
    second[np.flatnonzero(hard)[:20]] = 1.0
    ids = {"a": list(map(str, range(2000))), "b": list(map(str, range(2000)))}
    (one,) = differences(ids, {"a": {"t": ("accuracy", first)}, "b": {"t": ("accuracy", second)}})
    assert one.interval.value == pytest.approx(0.01)
    assert one.interval.is_sure
    apart = bootstrap(second).high - bootstrap(second).low
    assert one.interval.high - one.interval.low < apart / 3


def test_runs_without_a_row_or_a_score_in_common_are_not_compared() -> None:
    values = np.ones(2)
    assert not differences({"a": ["1", "2"], "b": ["3", "4"]}, {key: {"t": ("accuracy", values)} for key in "ab"})
    other = {"a": {"t": ("accuracy", values)}, "b": {"t": ("mae", values)}}
    assert not differences({"a": ["1", "2"], "b": ["1", "2"]}, other)
