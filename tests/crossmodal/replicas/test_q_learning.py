from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from crossmodal.replicas.homogeneous import HomogeneousLearning
from crossmodal.replicas.q_learning import BETTER, QLearning, Settings
from tests.crossmodal.replicas.test_policies import NODES, environment


def play(here: HomogeneousLearning, policy: QLearning, seed: int, *, learns: bool = True) -> int:
    observed, _ = here.reset(seed=seed)
    while True:
        node = policy.choose(observed, explores=learns)
        then, gained, ended, is_cut_off, _ = here.step(np.int64(node))
        if learns:
            policy.remember(observed, node, gained, then, ended=ended, is_over=ended or is_cut_off)
        observed = then
        if ended or is_cut_off:
            return here.way.round


def learned(settings: Settings, episodes: int, **more: object) -> tuple[HomogeneousLearning, QLearning]:
    here = environment(**more)
    policy = QLearning(NODES, here.features, settings, seed=0)
    for number in range(episodes):
        play(here, policy, number)
    return here, policy


def test_it_learns_to_go_where_it_has_not_been() -> None:
    here, policy = learned(BETTER, 30, width=0, observes_more=True)
    assert policy.exploration == pytest.approx(np.exp(-0.05 * 30))
    rounds = [play(here, policy, 1000 + number, learns=False) for number in range(10)]
    assert np.mean(rounds) < NODES + 1  # by chance 11


@pytest.mark.parametrize("settings", [Settings(), BETTER], ids=["paper", "better"])
def test_it_goes_on_to_the_last_bit(settings: Settings) -> None:
    here, policy = learned(settings, 6, width=NODES, observes_more=settings is BETTER)
    kept = copy.deepcopy(policy.state_dict())
    whole = [play(here, policy, number) for number in range(6, 12)]
    again = QLearning(NODES, here.features, settings, seed=99)
    again.load_state_dict(kept)
    assert [play(here, again, number) for number in range(6, 12)] == whole
    for one, other in zip(policy._network.parameters(), again._network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_rewards_of_several_rounds_are_summed() -> None:
    policy = QLearning(2, 1, Settings(rounds=3, gamma=0.5, batch_size=99), seed=0)
    rows = [np.array([float(number), 0.0]) for number in range(5)]
    for number, reward in enumerate((1.0, 2.0, 4.0, 8.0)):
        policy.remember(rows[number], 0, reward, rows[number + 1], ended=number == 3, is_over=number == 3)
    memory = policy._memory
    assert memory["reward"].tolist() == [1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8]
    assert memory["discount"].tolist() == [0.125, 0.125, 0.25, 0.5]
    assert memory["then_KF"][:, 0, 0].tolist() == [3, 4, 4, 4]
    # the goal is reached in the rounds that are summed: nothing comes after
    assert memory["goes_on"].tolist() == [1, 0, 0, 0]


def test_the_memory_has_an_end() -> None:
    policy = QLearning(2, 1, Settings(capacity=3, batch_size=99), seed=0)
    for number in range(5):
        policy.remember([0.0, 0.0], 0, float(number), [0.0, 0.0], ended=False, is_over=False)
    assert policy._memory["reward"].tolist() == [2, 3, 4]


def test_a_node_is_scored_by_what_it_is_not_by_its_number() -> None:
    policy = QLearning(4, 3, BETTER, seed=0)
    observed = torch.randn(1, 4, 3)
    order = torch.tensor([2, 0, 3, 1])
    scores = policy._network(observed)
    assert torch.allclose(policy._network(observed[:, order]), scores[:, order], atol=1e-6)
