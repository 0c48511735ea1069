"""Who trains next in Homogeneous Learning, without learning it: at random, in turn, and by looking ahead.

Looking ahead trains at nodes that the model then does not go to. That is no policy for use, but says how good one can
be: `beam_search` knows all that will be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from crossmodal.replicas.homogeneous import HomogeneousLearning
from crossmodal.replicas.way import nearest

Policy = Callable[[HomogeneousLearning], int]


@dataclass
class Episode:
    """What an episode came to.

    Args:
        reached: The goal.
        rounds: That it took.
        distance: In all.
        reward: In all.
        path: The nodes.
        accuracies: After each round.
    """

    reached: bool = False
    rounds: int = 0
    distance: float = 0.0
    reward: float = 0.0
    path: list[int] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    def add(self, node: int, gained: float, distance: float, accuracy: float) -> None:
        """Add a round."""
        self.rounds += 1
        self.reward += gained
        self.distance += distance
        self.path.append(node)
        self.accuracies.append(accuracy)


def play(environment: HomogeneousLearning, policy: Policy, *, seed: int) -> Episode:
    """Return an episode of a policy.

    Args:
        environment: Is begun anew.
        policy: Chooses a node, given the environment, which it must leave as it is.
        seed: Of the episode.
    """
    environment.reset(seed=seed)
    found = Episode()
    while True:
        node = policy(environment)
        _, gained, found.reached, is_cut_off, told = environment.step(np.int64(node))
        found.add(node, gained, told["distance"], told["accuracy"])
        if found.reached or is_cut_off:
            return found


def at_random(draw: np.random.Generator) -> Policy:
    """Return the policy that draws any node, also the one that has the model."""
    return lambda environment: int(draw.integers(environment.nodes))


def round_robin(environment: HomogeneousLearning) -> int:
    """Return the node whose number is next."""
    return (environment.way.node + 1) % environment.nodes


def staying(rounds: int) -> Policy:
    """Return the policy that stays at a node for so many rounds, then goes to the nearest that trained least often."""
    return lambda environment: nearest(environment.way, environment.distances_KK[environment.way.node], rounds)


def greedy(environment: HomogeneousLearning) -> int:
    """Return the node that gives the best reward of the next round: all are tried."""
    gained = [environment.branch().step(np.int64(node))[1] for node in range(environment.nodes)]
    return int(np.argmax(gained))


def beam_search(environment: HomogeneousLearning, *, seed: int, beam: int = 3, most: int | None = None) -> Episode:
    """Return the best episode that is found by keeping some of all that can come of each round.

    Those are kept whose rewards until then, with what the rest would bring at the present accuracy, are most. It trains
    at all nodes from each: K times `beam` in a round.

    Args:
        environment: Is begun anew.
        seed: Of the episode.
        beam: How many are kept.
        most: Rounds to look through; by default those of an episode.
    """
    environment.reset(seed=seed)
    kept = [(environment.branch(), Episode())]
    best: Episode | None = None
    for _ in range(most or environment.rounds):
        tried: list[tuple[float, HomogeneousLearning, Episode]] = []
        for here, before in kept:
            for node in range(environment.nodes):
                there = here.branch()
                _, gained, reached, _, told = there.step(np.int64(node))
                after = Episode(
                    reached, before.rounds, before.distance, before.reward, [*before.path], [*before.accuracies]
                )
                after.add(node, gained, told["distance"], told["accuracy"])
                if reached and (best is None or after.reward > best.reward):
                    best = after
                tried.append((after.reward + gained, there, after))
        if best is not None:  # each further round costs: what is behind now does not come before
            return best
        tried.sort(key=lambda one: -one[0])
        kept = [(there, after) for _, there, after in tried[:beam]]
    return kept[0][1]
