from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.homogeneous import HomogeneousLearning, components
from crossmodal.replicas.way import reward

DISTANCES = np.array([[0.0, 0.1, 0.2], [0.1, 0.0, 0.3], [0.2, 0.3, 0.0]])


class Collector:
    """A model that is as good as the share of the nodes that trained it."""

    def begin(self, seed: int) -> State:
        return {"seen": torch.zeros(3), "noise": torch.randn(4, generator=torch.Generator().manual_seed(seed))}

    def train(self, state: State, node: int, seed: int) -> State:
        noise = torch.randn(4, generator=torch.Generator().manual_seed(seed))
        seen = state["seen"].clone()
        seen[node] = 1.0
        return {"seen": seen, "noise": state["noise"] + 0.1 * noise}

    def accuracy(self, state: State) -> float:
        return float(state["seen"].mean())


def environment(**more: float) -> HomogeneousLearning:
    return HomogeneousLearning(Collector(), DISTANCES, **more)  # type: ignore[arg-type]


def test_it_is_an_environment_of_gymnasium() -> None:
    check_env(environment(), skip_render_check=True)


def test_an_episode_ends_at_the_goal_and_is_paid_as_in_the_paper() -> None:
    learning = environment(goal=0.9)
    _, told = learning.reset(seed=3, options={"node": 2})
    assert told == {"node": 2}
    found = [learning.step(np.int64(node)) for node in (0, 1, 1, 2)]
    assert [one[4]["accuracy"] for one in found] == pytest.approx([1 / 3, 2 / 3, 2 / 3, 1])
    assert [one[4]["distance"] for one in found] == [0.2, 0.1, 0.0, 0.3]
    assert [one[1] for one in found] == pytest.approx(
        [32 ** (1 / 3 - 0.9) - 1.2, 32 ** (2 / 3 - 0.9) - 1.1, 32 ** (2 / 3 - 0.9) - 1.0, 32**0.1 - 1.3]
    )
    assert [one[2] for one in found] == [False, False, False, True]
    assert [one[3] for one in found] == [False] * 4


def test_an_episode_is_cut_off_after_its_rounds() -> None:
    learning = environment(rounds=3)
    learning.reset(seed=0)
    assert [learning.step(np.int64(0))[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_the_seed_decides_all() -> None:
    def episode(seed: int) -> list[list[float]]:
        learning = environment()
        first, _ = learning.reset(seed=seed)
        return [first.tolist(), *(learning.step(np.int64(node))[0].tolist() for node in (1, 0, 2))]

    assert episode(5) == episode(5)
    assert episode(5) != episode(6)


def test_a_node_is_known_by_the_model_that_it_left() -> None:
    learning = environment(width=2)
    observed, _ = learning.reset(seed=1)
    assert not observed.any()  # all have the same
    observed, *_ = learning.step(np.int64(1))
    first, second, third = observed.reshape(3, 2)
    assert np.allclose(first, third, atol=1e-6)
    assert not np.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize(
    "distances", [np.zeros((2, 3)), np.zeros((1, 1)), np.full((2, 2), -1.0), np.full((2, 2), np.nan)]
)
def test_distances_are_those_of_nodes_to_each_other(distances: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected distances of K by K"):
        HomogeneousLearning(Collector(), distances)


def test_the_goal_is_worth_nothing_but_the_way() -> None:
    assert reward(0.8, 0.0) == 0.0
    assert reward(0.8, 0.05) == pytest.approx(-0.05)
    assert reward(1.0, 0.0) == pytest.approx(1.0)  # 32^0.2 is 2


@given(st.integers(2, 6), st.integers(1, 9), st.integers(0, 2**31))
def test_components_are_those_of_pca(nodes: int, numbers: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = [{"a": torch.randn(numbers, generator=generator), "b": torch.randn(2, 2, generator=generator)}] * nodes
    states = [
        {name: value + torch.randn(value.shape, generator=generator) for name, value in one.items()} for one in states
    ]
    found = components(states, nodes)

    def apart(points: Tensor) -> Tensor:
        return torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist")

    flat = torch.stack([torch.cat([one["a"], one["b"].flatten()]) for one in states])
    assert torch.allclose(apart(found), apart(flat), atol=1e-4)  # K points lie in K - 1 dimensions
    spread = found.double().square().sum(0)
    assert (spread[:-1] >= spread[1:] - 1e-6).all()
    assert torch.equal(components(states, 1), found[:, :1])
    wide = components(states, nodes + 3)
    assert torch.equal(wide[:, :nodes], found)
    assert not wide[:, nodes:].any()
    assert torch.allclose(components([{"a": -one["a"], "b": -one["b"]} for one in states], nodes), found, atol=1e-4)
