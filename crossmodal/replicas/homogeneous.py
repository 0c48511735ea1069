"""Homogeneous Learning (Sun & Ochiai 2022, arXiv 2110.05290): no server; a model goes from node to node.

Each round one node trains the model that it was handed, and a policy chooses who is next, until the model is good
enough. That is an environment of gymnasium, so that any policy, and any library's learner of one, can be put in.

Legend: K nodes, P numbers of a model, C components.
"""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from crossmodal.replicas.aggregation import State

GOAL = 0.80
ROUNDS = 35
BASE = 32.0  # of the reward, so that it is steep near the goal


class Learner(Protocol):
    """What is trained, with the data of all nodes."""

    def begin(self, seed: int) -> State:
        """Return a model that nobody has trained."""

    def train(self, state: State, node: int, seed: int) -> State:
        """Return the model after a node has trained it for a round."""

    def accuracy(self, state: State) -> float:
        """Return how good a model is on rows that no node trains on, 0 to 1."""


class HomogeneousLearning(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Chooses which node trains next.

    An action is a node, which is handed the model, trains it and measures it. An observation has, for each node, the
    components of the model as the node last left it (`components`), K by C, in one row. The reward is
    32^(accuracy - goal) - distance - 1. An episode ends at the goal, or is cut off after so many rounds.

    Args:
        learner: Of the model.
        distances_KK: Between nodes, at least 0; what it costs to hand the model over.
        goal: The accuracy that is wanted.
        rounds: Of an episode, at most.
        width: C; by default K.

    Raises:
        ValueError: The distances are not those of nodes to each other.
    """

    def __init__(
        self,
        learner: Learner,
        distances_KK: NDArray[np.float64],
        *,
        goal: float = GOAL,
        rounds: int = ROUNDS,
        width: int | None = None,
    ) -> None:
        nodes = len(distances_KK)
        if distances_KK.shape != (nodes, nodes) or nodes < 2 or not (distances_KK >= 0).all():
            raise ValueError(f"expected distances of K by K, at least 0, with K at least 2, found {distances_KK}")
        self.learner = learner
        self.distances_KK = distances_KK
        self.goal = goal
        self.rounds = rounds
        self._width = width or nodes
        self.action_space = Discrete(nodes)
        self.observation_space = Box(-np.inf, np.inf, (nodes * self._width,), np.float32)
        self._models: list[State] = []
        self._state: State = {}
        self._node = 0
        self._round = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin with a model that nobody has trained, at a node that is drawn.

        Args:
            seed: Of the model, of the node, and of all training until the next one is given.
            options: `node`, where it begins.
        """
        super().reset(seed=seed)
        self._state = self.learner.begin(self._drawn_seed())
        self._models = [self._state] * len(self.distances_KK)
        self._node = int((options or {}).get("node", self.np_random.integers(len(self.distances_KK))))
        self._round = 0
        return self._observation(), {"node": self._node}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Hand the model to a node, which trains it.

        Returns:
            What is observed, the reward, whether the goal is reached, whether the rounds are over, and of the round
            `accuracy`, `distance` and `node`.
        """
        node = int(action)
        distance = float(self.distances_KK[self._node, node])
        self._state = self._models[node] = self.learner.train(self._state, node, self._drawn_seed())
        self._node = node
        self._round += 1
        accuracy = self.learner.accuracy(self._state)
        told = {"accuracy": accuracy, "distance": distance, "node": node}
        is_cut_off = self._round >= self.rounds
        return self._observation(), reward(accuracy, distance, goal=self.goal), accuracy >= self.goal, is_cut_off, told

    def _drawn_seed(self) -> int:
        return int(self.np_random.integers(2**31))

    def _observation(self) -> NDArray[np.float32]:
        return components(self._models, self._width).flatten().numpy()


def reward(accuracy: float, distance: float, *, goal: float = GOAL) -> float:
    """Return what a round is worth: little far from the goal, 0 at it, less the way that the model went."""
    return float(BASE ** (accuracy - goal) - distance - 1.0)


def components(states: list[State], width: int) -> Tensor:
    """Return the principal components of models, largest first.

    They follow from the models' distances to each other alone, K by K, which is quick for large models. Of either
    direction the one is taken in which the first node that is far out is positive.

    Args:
        states: K models of the same entries; a node's that has not trained is the one that all began with.
        width: C; beyond K - 1 there is nothing, and zeros stand.

    Returns:
        (K, C), float32.
    """
    flat_KP = torch.stack([torch.cat([value.flatten().float() for value in state.values()]) for state in states])
    centred_KP = flat_KP - flat_KP.mean(0)
    values, vectors_KK = torch.linalg.eigh((centred_KP @ centred_KP.T).double())
    scores_KK = (vectors_KK * values.clamp(min=0).sqrt()).flip(1)
    is_far_KK = scores_KK.abs() >= 0.5 * scores_KK.abs().max(0).values  # the farthest may be two, one on either side
    first_1K = scores_KK.gather(0, is_far_KK.int().argmax(0, keepdim=True))
    scores_KK = scores_KK * torch.where(first_1K < 0, -1.0, 1.0)
    found_KC = torch.zeros(len(states), width)
    found_KC[:, : len(states)] = scores_KK[:, :width]
    return found_KC
