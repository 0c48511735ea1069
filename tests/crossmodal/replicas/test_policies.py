from __future__ import annotations

import numpy as np
import pytest
import torch

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.policies import at_random, beam_search, greedy, play, round_robin, staying
from tests.crossmodal.replicas.test_homogeneous import Collector, HomogeneousLearning

# a ring: the neighbours on it are near
NODES = 5
DISTANCES = np.array([[min((i - j) % NODES, (j - i) % NODES) * 0.01 for j in range(NODES)] for i in range(NODES)])


class Collects(Collector):
    """A model that is as good as the share of five nodes that trained it."""

    def begin(self, seed: int) -> State:
        return {"seen": torch.zeros(NODES), "noise": torch.zeros(4)}


def environment(**more: object) -> HomogeneousLearning:
    return HomogeneousLearning(Collects(), DISTANCES, goal=1.0, **more)  # type: ignore[arg-type]


def test_who_goes_round_sees_all_on_the_shortest_way() -> None:
    found = play(environment(), round_robin, seed=3)
    assert found.reached
    assert (found.rounds, found.distance) == (NODES, pytest.approx(0.01 * NODES))
    assert sorted(found.path) == list(range(NODES))
    assert found.accuracies == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_who_stays_at_each_node_goes_half_as_far_in_as_many_rounds() -> None:
    found = play(environment(), staying(2), seed=3)
    assert found.path[::2][: NODES - 1] == found.path[1::2][: NODES - 1]
    assert (found.rounds, found.distance) == (2 * NODES - 1, pytest.approx(0.01 * (NODES - 1)))


def test_chance_takes_longer_and_is_repeated_by_its_seed() -> None:
    def rounds(seed: int) -> list[int]:
        draw = np.random.default_rng(seed)
        return [play(environment(), at_random(draw), seed=number).rounds for number in range(20)]

    assert np.mean(rounds(0)) > NODES + 2
    assert rounds(0) == rounds(0)
    assert rounds(0) != rounds(1)


def test_looking_ahead_leaves_the_episode_as_it_is() -> None:
    here = environment()
    here.reset(seed=0)
    before = here._observation()
    chosen = greedy(here)
    assert np.array_equal(before, here._observation())
    assert here.way.round == 0
    assert chosen == here.way.node  # it has not trained yet, and is nearest
    found = play(here, greedy, seed=0)
    assert (found.rounds, found.distance) == (NODES, pytest.approx(0.01 * (NODES - 1)))


def test_who_looks_one_round_ahead_stays_where_the_way_costs_more_than_the_next_round_brings() -> None:
    here = HomogeneousLearning(Collects(), 10 * DISTANCES, goal=1.0)
    assert set(play(here, greedy, seed=0).path) == {here.way.node}
    found = beam_search(here, seed=0, beam=4)
    assert (found.rounds, found.distance) == (NODES, pytest.approx(0.1 * (NODES - 1)))


def test_the_beam_finds_the_best_way_and_it_can_be_gone() -> None:
    found = beam_search(environment(), seed=5, beam=4)
    assert found.reached
    assert (found.rounds, found.distance) == (NODES, pytest.approx(0.01 * (NODES - 1)))
    here = environment()
    here.reset(seed=5)
    told = [here.step(np.int64(node)) for node in found.path]
    assert sum(one[1] for one in told) == pytest.approx(found.reward)
    assert [one[4]["accuracy"] for one in told] == found.accuracies


def test_more_is_observed_where_that_is_wanted() -> None:
    plain, more = environment(width=2), environment(width=2, observes_more=True)
    assert (plain.features, more.features) == (2, 9)
    more.reset(seed=1, options={"node": 0})
    observed = more.step(np.int64(1))[0].reshape(NODES, 9)
    often, lately, far, own, with_its_rows, good, over = observed[:, 2:].T
    assert often.tolist() == pytest.approx([0, 1 / 3, 0, 0, 0])
    assert lately.tolist() == [0, 1, 0, 0, 0]
    assert far == pytest.approx(10 * DISTANCES[1])
    assert own.tolist() == [0, 1, 0, 0, 0]
    assert good.tolist() == pytest.approx([0.2] * NODES)
    assert with_its_rows.tolist() == good.tolist()  # the learner does not tell
    assert over.tolist() == pytest.approx([1 / 35] * NODES)
    assert more.observation_space.contains(observed.flatten())
