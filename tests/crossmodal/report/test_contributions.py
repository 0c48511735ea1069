from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossmodal.report.contributions import Worth, interactions, shapley, under_absence
from crossmodal.subsets import subsets

NAMES = ("a", "b", "c", "d")


@st.composite
def games(draw: st.DrawFn) -> tuple[list[str], dict[frozenset[str], np.ndarray]]:
    names = list(NAMES[: draw(st.integers(1, 4))])
    number = st.floats(-10, 10)
    return names, {some: np.array([draw(number), draw(number)]) for some in subsets(names)}


def by_all_orders(worth: Worth, names: list[str]) -> dict[str, np.ndarray]:
    """The definition, literally."""
    added: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for order in permutations(names):
        for place, name in enumerate(order):
            before = frozenset(order[:place])
            added[name].append(worth[before | {name}] - worth[before])
    return {name: np.mean(of, axis=0) for name, of in added.items()}


@given(games())
def test_values_are_the_mean_over_all_orders(game: tuple[list[str], Worth]) -> None:
    names, worth = game
    wanted = by_all_orders(worth, names)
    for name, value in shapley(worth, names).items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-9)


@given(games())
def test_values_sum_to_what_all_are_worth(game: tuple[list[str], Worth]) -> None:
    names, worth = game
    total = sum(shapley(worth, names).values())
    np.testing.assert_allclose(total, worth[frozenset(names)] - worth[frozenset()], atol=1e-9)


@given(games())
def test_who_adds_nothing_has_no_value_and_interacts_with_none(game: tuple[list[str], Worth]) -> None:
    names, worth = game
    with_null = {some | extra: worth[some] for some in worth for extra in (frozenset(), frozenset({"null"}))}
    found = shapley(with_null, [*names, "null"])
    np.testing.assert_allclose(found["null"], 0, atol=1e-9)
    np.testing.assert_allclose(found[names[0]], shapley(worth, names)[names[0]], atol=1e-9)
    for pair, value in interactions(with_null, [*names, "null"]).items():
        if "null" in pair:
            np.testing.assert_allclose(value, 0, atol=1e-9)


@given(games(), st.floats(-3, 3))
def test_values_are_linear(game: tuple[list[str], Worth], factor: float) -> None:
    names, worth = game
    sizes = {some: np.array([float(len(some)), 0.0]) for some in worth}
    mixed = {some: factor * worth[some] + sizes[some] for some in worth}
    for name, value in shapley(mixed, names).items():
        wanted = factor * shapley(worth, names)[name] + np.array([1.0, 0.0])
        np.testing.assert_allclose(value, wanted, atol=1e-8)


def worth_of(rule: dict[str, float]) -> Worth:
    return {frozenset(filter(None, key.split("+"))): np.array(value) for key, value in rule.items()}


@pytest.mark.parametrize(
    ("rule", "values", "together"),
    [
        ({"": 0.5, "a": 1.0, "b": 0.5, "a+b": 1.0}, (0.5, 0.0), 0.0),  # one alone
        ({"": 0.5, "a": 1.0, "b": 1.0, "a+b": 1.0}, (0.25, 0.25), -0.5),  # either
        ({"": 0.5, "a": 0.5, "b": 0.5, "a+b": 1.0}, (0.25, 0.25), 0.5),  # both together
    ],
)
def test_one_either_and_both_are_told_apart(
    rule: dict[str, float], values: tuple[float, float], together: float
) -> None:
    worth = worth_of(rule)
    found = shapley(worth, ["a", "b"])
    assert (float(found["a"]), float(found["b"])) == values
    assert float(interactions(worth, ["a", "b"])["a", "b"]) == together


def test_an_interaction_of_three_is_shared_by_its_pairs() -> None:
    worth = {some: np.array(float(len(some) == 3)) for some in subsets("abc")}
    assert {float(value) for value in interactions(worth, "abc").values()} == {0.5}


def test_absence_is_the_mean_over_which_are_there() -> None:
    worth = worth_of({"": 0.0, "a": 0.4, "b": 0.6, "a+b": 1.0})
    assert under_absence(worth, ["a", "b"], 0.0) == 1.0
    assert under_absence(worth, ["a", "b"], 1.0) == 0.0
    assert under_absence(worth, ["a"], 0.25) == pytest.approx(0.75 * 1.0 + 0.25 * 0.6)
    assert under_absence(worth, ["a", "b"], 0.5) == pytest.approx((0.0 + 0.4 + 0.6 + 1.0) / 4)
