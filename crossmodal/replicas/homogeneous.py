"""Homogeneous Learning (Sun & Ochiai 2022, arXiv 2110.05290): no server; a model goes from node to node.

Each round one node trains the model that it was handed, and a policy chooses who is next, until the model is good
enough. That is an environment of gymnasium, so that any policy, and any library's learner of one, can be put in.

Legend: K nodes, P numbers of a model, C components.
"""

from __future__ import annotations

import copy
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.way import GOAL, MORE, ROUNDS, Way, reward


class Learner(Protocol):
    """What is trained, with the data of all nodes."""

    def begin(self, seed: int) -> State:
        """Return a model that nobody has trained."""

    def train(self, state: State, node: int, seed: int) -> State:
        """Return the model after a node has trained it for a round."""

    def accuracy(self, state: State) -> float:
        """Return how good a model is on rows that no node trains on, 0 to 1."""


@runtime_checkable
class TellsOfNodes(Protocol):
    """A learner that also says how good a model is with the rows of each node."""

    def accuracies(self, state: State) -> list[float]:
        """Return K numbers, 0 to 1."""


class HomogeneousLearning(gymnasium.Env[NDArray[np.float32], np.int64]):
    """Chooses which node trains next.

    An action is a node, which is handed the model, trains it and measures it. An observation has, for each node, the
    components of the model as the node last left it (`components`), K by C, in one row. Where more is observed, each
    node has besides what `Way.observed` says. The reward is 32^(accuracy - goal) - distance - 1. An episode ends
    at the goal, or is cut off after so many rounds.

    Args:
        learner: Of the model.
        distances_KK: Between nodes, at least 0; what it costs to hand the model over.
        goal: The accuracy that is wanted.
        rounds: Of an episode, at most.
        width: C; by default K.
        observes_more: More than the paper does.

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
        observes_more: bool = False,
    ) -> None:
        nodes = len(distances_KK)
        if distances_KK.shape != (nodes, nodes) or nodes < 2 or not (distances_KK >= 0).all():
            raise ValueError(f"expected distances of K by K, at least 0, with K at least 2, found {distances_KK}")
        self.learner = learner
        self.distances_KK = distances_KK
        self.goal = goal
        self.rounds = rounds
        self.nodes = nodes
        self.way = Way(nodes, 0)
        self._width = nodes if width is None else width
        self._observes_more = observes_more
        self.features = self._width + (MORE if observes_more else 0)
        self.action_space = Discrete(nodes)
        self.observation_space = Box(-np.inf, np.inf, (nodes * self.features,), np.float32)
        self._began_P = torch.empty(0)  # the model that nobody has trained
        self._changes_KP = torch.empty(0)  # of each node's since, and their products with each other
        self._products_KK = torch.empty(0)
        self._state: State = {}
        self._episode = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin with a model that nobody has trained, at a node that is drawn.

        Args:
            seed: Of the model, of the node, and of all training until the next one is given.
            options: `node`, where it begins.
        """
        super().reset(seed=seed)
        self._episode = int(self.np_random.integers(2**31))
        self._state = self.learner.begin(self._episode)
        if self._width:
            self._began_P = _flat(self._state)
            self._changes_KP = torch.zeros(self.nodes, len(self._began_P))
            self._products_KK = torch.zeros(self.nodes, self.nodes, dtype=torch.float64)
        node = int((options or {}).get("node", self.np_random.integers(self.nodes)))
        self.way = Way(self.nodes, node)
        return self._observation(), {"node": node}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Hand the model to a node, which trains it.

        What comes of it depends on the episode, the round, the model and the node alone, so that who looks ahead in a
        `branch` sees what will be.

        Returns:
            What is observed, the reward, whether the goal is reached, whether the rounds are over, and of the round
            `accuracy`, `distance` and `node`.
        """
        node = int(action)
        distance = float(self.distances_KK[self.way.node, node])
        seed = int(np.random.SeedSequence([self._episode, self.way.round, node]).generate_state(1)[0])
        self._state = self.learner.train(self._state, node, seed)
        if self._width:  # one row is another: nothing else is reckoned anew
            self._changes_KP[node] = _flat(self._state) - self._began_P
            products_K = (self._changes_KP @ self._changes_KP[node]).double()
            self._products_KK[node] = self._products_KK[:, node] = products_K
        accuracy = self.learner.accuracy(self._state)
        more = None
        if self._observes_more and isinstance(self.learner, TellsOfNodes):
            more = self.learner.accuracies(self._state)
        self.way.go(node, accuracy, more)
        told = {"accuracy": accuracy, "distance": distance, "node": node}
        gained = reward(accuracy, distance, goal=self.goal)
        return self._observation(), gained, accuracy >= self.goal, self.way.round >= self.rounds, told

    def branch(self) -> HomogeneousLearning:
        """Return a copy that goes on from here by itself."""
        other = copy.copy(self)
        other._changes_KP, other._products_KK = self._changes_KP.clone(), self._products_KK.clone()
        other.way = copy.deepcopy(self.way)
        return other

    def _observation(self) -> NDArray[np.float32]:
        found_KC: NDArray[Any] = np.zeros((self.nodes, 0))
        if self._width:
            found_KC = components_of(self._products_KK, self._width).numpy()
        if self._observes_more:
            found_KC = np.concatenate([found_KC, self.way.observed(self.distances_KK, self.rounds)], axis=1)
        return found_KC.astype(np.float32).flatten()


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
    flat_KP = torch.stack([_flat(state) for state in states])
    centred_KP = flat_KP - flat_KP.mean(0)
    return components_of((centred_KP @ centred_KP.T).double(), width)


def components_of(products_KK: Tensor, width: int) -> Tensor:
    """Return the principal components of models, as `components` does, by their products with each other.

    Args:
        products_KK: Of K models, less any model that all have in common.
        width: C.

    Returns:
        (K, C), float32.
    """
    centred_KK = products_KK - products_KK.mean(0) - products_KK.mean(1, keepdim=True) + products_KK.mean()
    values, vectors_KK = torch.linalg.eigh(centred_KK)
    scores_KK = (vectors_KK * values.clamp(min=0).sqrt()).flip(1)
    is_far_KK = scores_KK.abs() >= 0.5 * scores_KK.abs().max(0).values  # the farthest may be two, one on either side
    first_1K = scores_KK.gather(0, is_far_KK.int().argmax(0, keepdim=True))
    scores_KK = scores_KK * torch.where(first_1K < 0, -1.0, 1.0)
    found_KC = torch.zeros(len(products_KK), width)
    found_KC[:, : len(products_KK)] = scores_KK[:, :width]
    return found_KC


def _flat(state: State) -> Tensor:
    return torch.cat([value.flatten().float() for value in state.values()])
