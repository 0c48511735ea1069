from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossmodal.replicas.aggregation import (
    State,
    geometric_median,
    krum,
    krum_order,
    mean,
    median,
    trimmed_mean,
)

RULES: dict[str, Callable[[Sequence[State]], dict[str, Tensor]]] = {
    "mean": mean,
    "median": median,
    "trimmed_mean": lambda states: trimmed_mean(states, 0.2),
    "krum": lambda states: krum(states, 2),
    "multi_krum": lambda states: krum(states, 2, keep=len(states) - 2),
    "geometric_median": geometric_median,
}
ROBUST = [name for name in RULES if name != "mean"]


def replicas(count: int, seed: int = 0, spread: float = 0.1) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [
        {
            "weight": torch.ones(3, 2) + spread * torch.randn(3, 2, generator=draw),
            "bias": spread * torch.randn(4, generator=draw),
            "batches": torch.tensor(10),
        }
        for _ in range(count)
    ]


def vector(state: State) -> Tensor:
    return torch.cat([state[name].double().flatten() for name in ("weight", "bias")])


@pytest.mark.parametrize("rule", RULES)
def test_replicas_that_agree_are_left_as_they_are(rule: str) -> None:
    (one,) = replicas(1)
    found = RULES[rule]([one] * 7)
    for name, value in one.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(8)))
def test_the_order_of_replicas_does_not_matter(rule: str, seed: int, order: list[int]) -> None:
    states = replicas(8, seed)
    first, second = (RULES[rule](some) for some in (states, [states[number] for number in order]))
    torch.testing.assert_close(vector(first), vector(second), rtol=1e-6, atol=1e-7)


@given(st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda some: sum(some) > 0.1))
def test_the_mean_is_weighted(weights: list[float]) -> None:
    states = replicas(3)
    found = vector(mean(states, weights))
    wanted = np.average(torch.stack(list(map(vector, states))).numpy(), axis=0, weights=weights)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-7)


def test_what_a_replica_lacks_is_taken_from_those_that_have_it() -> None:
    states: list[dict[str, Tensor]] = [
        {"image": torch.tensor([1.0]), "shared": torch.tensor([1.0])},
        {"speech": torch.tensor([5.0]), "shared": torch.tensor([3.0])},
        {"image": torch.tensor([2.0]), "shared": torch.tensor([5.0])},
    ]
    found = mean(states, [1, 1, 3])
    wanted = {"image": 1.75, "shared": 3.8, "speech": 5.0}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(wanted)
    assert median(states)["image"].item() == 1.5
    for rule in (lambda: krum([*states, *states], 1), lambda: geometric_median(states)):
        with pytest.raises(ValueError, match="have not the same entries"):
            rule()


def test_counters_stay_whole() -> None:
    states = [{"batches": torch.tensor(count)} for count in (1, 2, 2)]
    assert mean(states)["batches"].item() == 2
    assert mean(states)["batches"].dtype == torch.int64


@pytest.mark.parametrize("size", [3, 4, 9, 10])
def test_median_and_trimmed_mean_are_those_of_each_number(size: int) -> None:
    states = replicas(size)
    values = torch.stack(list(map(vector, states))).numpy()
    np.testing.assert_allclose(vector(median(states)).numpy(), np.median(values, axis=0), rtol=1e-6, atol=1e-7)
    wanted = np.sort(values, axis=0)[1:-1].mean(0)
    np.testing.assert_allclose(vector(trimmed_mean(states, 1 / size)).numpy(), wanted, rtol=1e-6, atol=1e-7)


def test_trimming_leaves_out_at_least_what_is_asked_for() -> None:
    states = [{"weight": torch.tensor([float(number)])} for number in (*range(29), 1000)]
    assert trimmed_mean(states, 0.1)["weight"].item() == np.mean(range(3, 27))  # 0.1 * 30 is more than 3 in binary
    with pytest.raises(ValueError, match="of 3 replicas 2 are left out at either end, so that none is left"):
        trimmed_mean(states[:3], 0.4)


def test_krum_takes_the_closest_by_its_definition() -> None:
    states = replicas(9, spread=1.0)
    faulty = 2
    values = [vector(one) for one in states]
    scores = [
        sum(sorted(float((own - other).square().sum()) for j, other in enumerate(values) if j != i)[: 9 - faulty - 2])
        for i, own in enumerate(values)
    ]
    assert krum_order(states, faulty) == sorted(range(9), key=lambda number: scores[number])
    torch.testing.assert_close(vector(krum(states, faulty)), values[int(np.argmin(scores))])
    chosen = sorted(range(9), key=lambda number: scores[number])[:5]
    wanted = torch.stack([values[number] for number in chosen]).mean(0)
    torch.testing.assert_close(vector(krum(states, faulty, keep=5)), wanted, rtol=1e-6, atol=1e-7)


def test_krum_tells_near_replicas_apart() -> None:
    """Far from zero squares of large numbers would hide what they differ by."""
    states = [{"weight": torch.full((40,), 1e4, dtype=torch.float64) + 1e-4 * number} for number in (0, 1, 2, 3, 9)]
    assert krum_order(states, 1)[:2] in ([1, 2], [2, 1])
    assert krum_order(states, 1)[-1] == 4


@given(st.integers(0, 2**31))
def test_nothing_lies_closer_to_all_than_the_geometric_median(seed: int) -> None:
    states = replicas(7, seed, spread=1.0)
    values = torch.stack(list(map(vector, states)))

    def distance(at: Tensor) -> float:
        return float((values - at).norm(dim=1).sum())

    found = vector(geometric_median(states, iterations=500))
    draw = torch.Generator().manual_seed(seed)
    for scale in (1e-3, 1e-2, 1e-1):
        other = found + scale * torch.randn(found.shape, generator=draw, dtype=torch.float64)
        assert distance(found) <= distance(other) + 1e-6


ATTACKS: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "sign": lambda state: {name: -10 * value for name, value in state.items()},
    "scale": lambda state: {name: 1000 * value for name, value in state.items()},
    "nan": lambda state: {
        name: value * torch.nan if value.is_floating_point() else value for name, value in state.items()
    },
    "inf": lambda state: {
        name: value * torch.inf if value.is_floating_point() else value for name, value in state.items()
    },
}


@pytest.mark.parametrize(("rule", "attack"), itertools.product(ROBUST, ATTACKS))
def test_two_hostile_of_ten_change_little(rule: str, attack: str) -> None:
    honest = replicas(8)
    hostile = [ATTACKS[attack](one) for one in replicas(2, seed=1)]
    wanted = vector(mean(honest))
    found = vector(RULES[rule]([*hostile, *honest]))
    assert (found - wanted).abs().max() < 0.3  # of a spread of 0.1
    assert not (vector(mean([*hostile, *honest])) - wanted).abs().max() < 1  # which the mean does not bear


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean([]), "there is no replica"),
        (lambda: mean(replicas(2), [1.0]), "there are 2 replicas and 1 weights"),
        (lambda: mean(replicas(2), [1.0, -1.0]), "none below 0"),
        (lambda: mean(replicas(2), [0.0, 0.0]), "not all 0"),
        (lambda: mean(replicas(2), [1.0, float("nan")]), "must be finite"),
        (
            lambda: mean([{"a": torch.ones(2)}, {"a": torch.ones(3)}]),
            r"a has other shapes in other replicas: \(2,\), \(3,\)",
        ),
        (lambda: trimmed_mean(replicas(3), 0.5), "from 0 to below 0.5"),
        (lambda: krum(replicas(6), 2), "of 6 replicas 2 may not be faulty: there must be more than 6"),
        (lambda: krum(replicas(7), 2, keep=6), "keep must be from 1 to 5, not 6"),
        (lambda: geometric_median([{"a": torch.tensor([torch.nan])}]), "no replica that counts is finite"),
    ],
)
def test_what_cannot_be_merged_is_told(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
