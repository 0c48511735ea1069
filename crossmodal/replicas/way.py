"""The way of a model that goes from node to node, and what each round of it is worth; see `handing_on`.

Legend: K nodes, M features of a node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

GOAL = 0.80
ROUNDS = 35
BASE = 32.0  # of the reward, so that it is steep near the goal
FARTHEST = 0.1  # distances are drawn up to it
MORE = 7  # features that are observed of a node


def reward(accuracy: float, distance: float, *, goal: float = GOAL) -> float:
    """Return what a round is worth: little far from the goal, 0 at it, less the way that the model went."""
    return float(BASE ** (accuracy - goal) - distance - 1.0)


@dataclass
class Way:
    """The way of a model until now.

    Args:
        nodes: K.
        node: That has it.
        round: How many rounds are over.
        accuracy: After the last.
        trained: How often each node has trained it.
        last: In which round each did so last; 0 for never.
        good: How good the model is with the rows of each node, as far as that is known.
    """

    nodes: int
    node: int
    round: int = 0
    accuracy: float = 0.0
    trained: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)
    good: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trained = self.trained or [0] * self.nodes
        self.last = self.last or [0] * self.nodes
        self.good = self.good or [0.0] * self.nodes

    def go(self, node: int, accuracy: float, good: Sequence[float] | None = None) -> None:
        """Go on to a node, which trains the model.

        Args:
            node: That does.
            accuracy: After it.
            good: With the rows of each node; None where only the whole is known.
        """
        self.good = [accuracy] * self.nodes if good is None else list(good)
        self.node, self.accuracy = node, accuracy
        self.round += 1
        self.trained[node] += 1
        self.last[node] = self.round

    def observed(self, distances_KK: NDArray[np.float64], rounds: int) -> NDArray[np.float64]:
        """Return, of each node, what there is to know, (K, M).

        That is how often and how lately it has trained, how far it is, whether it has the model now, how good that is
        with its rows and altogether, and how many rounds are over.

        Args:
            distances_KK: Between nodes.
            rounds: At most.
        """
        trained_K, last_K, of_all_K = np.array(self.trained), np.array(self.last), np.ones(self.nodes)
        return np.stack(
            [
                trained_K / 3,
                np.where(trained_K > 0, np.exp(-(self.round - last_K) / 5), 0.0),
                distances_KK[self.node] / FARTHEST,
                np.arange(self.nodes) == self.node,
                np.array(self.good),
                of_all_K * self.accuracy,
                of_all_K * self.round / rounds,
            ],
            axis=1,
        )


def nearest(way: Way, far_K: NDArray[np.float64], stay: int) -> int:
    """Return the nearest of the nodes that have trained least often; before so many rounds, the node that has it."""
    if way.trained[way.node] % stay:
        return way.node
    return min(range(way.nodes), key=lambda node: (way.trained[node], far_K[node], node))
