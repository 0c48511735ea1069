"""Learning without a server by handing one model on: each round one node trains it, and a policy chooses who is next.

After Homogeneous Learning (Sun & Ochiai 2022, arXiv 2110.05290); as an environment of gymnasium it is in
`crossmodal.replicas.homogeneous`.

Legend: K nodes, M features of a node.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.engine import Engine, Job, Told
from crossmodal.replicas.method import Method, figures_of
from crossmodal.replicas.q_learning import BETTER, QLearning
from crossmodal.replicas.way import FARTHEST, GOAL, MORE, ROUNDS, Way, nearest, reward


class NextNode(ABC):
    """Chooses who trains next."""

    def begin(self, nodes: int, *, seed: int) -> None:
        """Begin with so many nodes."""
        return

    @abstractmethod
    def choose(self, way: Way, observed_KM: NDArray[np.float64], draw: np.random.Generator) -> int:
        """Return a node.

        Args:
            way: Of the model until now.
            observed_KM: What there is to know of nodes.
            draw: Of this round.
        """

    def learn(
        self,
        observed_KM: NDArray[np.float64],
        node: int,
        gained: float,
        then_KM: NDArray[np.float64],
        *,
        reached: bool,
        is_over: bool,
    ) -> None:
        """Learn from a round, as `QLearning.remember` does."""
        return

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept between rounds."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        return


class AtRandom(NextNode):
    """Any node, also the one that has the model."""

    def choose(self, way: Way, observed_KM: NDArray[np.float64], draw: np.random.Generator) -> int:
        """Draw one."""
        return int(draw.integers(way.nodes))


class InTurn(NextNode):
    """The node whose number is next."""

    def choose(self, way: Way, observed_KM: NDArray[np.float64], draw: np.random.Generator) -> int:
        """Return it; the first round is that of the node that begins."""
        return way.node if way.round == 0 else (way.node + 1) % way.nodes


class Nearest(NextNode):
    """The nearest of those that have trained least often.

    Args:
        stay: Rounds that the model stays at a node before it is handed on.
    """

    def __init__(self, stay: int = 1) -> None:
        if stay < 1:
            raise ValueError(f"stay: so many rounds at a node, at least 1, not {stay}")
        self.stay = stay

    def choose(self, way: Way, observed_KM: NDArray[np.float64], draw: np.random.Generator) -> int:
        """Return it."""
        far_K = observed_KM[:, 2]
        return nearest(way, far_K, self.stay)


class Learned(NextNode):
    """What is learned by deep Q-learning over many episodes; see `crossmodal.replicas.q_learning`."""

    def begin(self, nodes: int, *, seed: int) -> None:
        """Begin to learn."""
        self._learning = QLearning(nodes, MORE, BETTER, seed=seed)

    def choose(self, way: Way, observed_KM: NDArray[np.float64], draw: np.random.Generator) -> int:
        """Return the best, or by chance another, the more seldom the more episodes are over."""
        return self._learning.choose(observed_KM)

    def learn(
        self,
        observed_KM: NDArray[np.float64],
        node: int,
        gained: float,
        then_KM: NDArray[np.float64],
        *,
        reached: bool,
        is_over: bool,
    ) -> None:
        """Remember the round, and learn from some."""
        self._learning.remember(observed_KM, node, gained, then_KM, ended=reached, is_over=is_over)

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimizer, memory and random state."""
        return self._learning.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._learning.load_state_dict(state_dict)


class HandOn(Method):
    """One model goes from node to node, and each trains it; it begins anew at the goal, so that a policy can learn.

    How good it is is the first figure of the validation split.

    Args:
        policy: Chooses who is next; by default in turn.
        goal: How good the model is to be.
        rounds: Of an episode, at most.
        begins_anew: Episodes follow each other: at the goal, or after so many rounds, all begins anew, but for the
            policy. Else the model is trained on.
        distances: A file of as many lines as there are nodes, each of as many numbers, at least 0; null draws them
            from 0 to 0.1.
    """

    def __init__(
        self,
        policy: NextNode | None = None,
        goal: float = GOAL,
        rounds: int = ROUNDS,
        begins_anew: bool = False,
        distances: str | None = None,
    ) -> None:
        if rounds < 1:
            raise ValueError(f"rounds: of an episode, at least 1, not {rounds}")
        self.policy = policy or InTurn()
        self.goal = goal
        self.rounds = rounds
        self.begins_anew = begins_anew
        self.distances = distances
        self._began: State = {}
        self._state: State = {}
        self._seed = 0
        self._episode = 0
        self._distance = 0.0
        self._way = Way(1, 0)

    def begin(self, state: State, nodes: int, *, seed: int) -> None:
        """Begin with a state, at a node that is drawn."""
        self._began, self._state, self._seed, self._episode = state, state, seed, 0
        self.distances_KK = _distances(self.distances, nodes, seed)
        self.policy.begin(nodes, seed=seed)
        self._begin_episode(nodes)

    def _begin_episode(self, nodes: int) -> None:
        draw = np.random.default_rng([self._seed, 2, self._episode])
        self._state, self._way, self._distance = self._began, Way(nodes, int(draw.integers(nodes))), 0.0

    @property
    def state(self) -> State:
        """Of the model as the last node left it."""
        return self._state

    def round(self, engine: Engine, number: int) -> Told:
        """Hand the model on, and let it be trained. Who does not answer leaves it as it was."""
        way, draw = self._way, np.random.default_rng([self._seed, 3, number])
        if self.begins_anew and (way.accuracy >= self.goal or way.round >= self.rounds):
            self._episode += 1
            self._begin_episode(way.nodes)
            way = self._way
        observed_KM = way.observed(self.distances_KK, self.rounds)
        node = self.policy.choose(way, observed_KM, draw)
        distance = float(self.distances_KK[way.node, node])
        updates = engine.train([Job(node, self._state, number)])
        figures = figures_of(updates, [self._state] * len(updates))
        if updates:
            self._state = {**self._state, **updates[0].state}
        way.go(node, engine.measure(self._state))
        self._distance += distance
        gained, reached = reward(way.accuracy, distance, goal=self.goal), way.accuracy >= self.goal
        then_KM = way.observed(self.distances_KK, self.rounds)
        self.policy.learn(
            observed_KM, node, gained, then_KM, reached=reached, is_over=reached or way.round >= self.rounds
        )
        figures |= {
            "train/distance": distance,
            "train/reward": gained,
            "train/episode": float(self._episode),
            "train/episode_rounds": float(way.round),
            "train/episode_distance": self._distance,
        }
        return Told(figures, path=[one.node for one in updates])

    def state_dict(self) -> dict[str, Any]:
        """Return the model, its way, and what the policy keeps."""
        return {
            "state": dict(self._state),
            "began": dict(self._began) if self.begins_anew else {},
            "way": asdict(self._way),
            "episode": self._episode,
            "distance": self._distance,
            "policy": self.policy.state_dict(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._state, self._way = state_dict["state"], Way(**state_dict["way"])
        self._began = state_dict["began"] or self._began  # who goes on begins with the trained model
        self._episode, self._distance = state_dict["episode"], state_dict["distance"]
        if state_dict["policy"]:
            self.policy.load_state_dict(state_dict["policy"])


def _distances(path: str | None, nodes: int, seed: int) -> NDArray[np.float64]:
    if path is None:
        upper_KK = np.triu(np.random.default_rng([seed, 1]).uniform(0, FARTHEST, (nodes, nodes)), 1)
        found_KK: NDArray[np.float64] = upper_KK + upper_KK.T
        return found_KK
    try:
        found_KK = np.atleast_2d(np.loadtxt(Path(path)))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: no distances can be read: {error}") from error
    if found_KK.shape != (nodes, nodes) or not (found_KK >= 0).all():
        raise ValueError(f"{path}: expected {nodes} lines of {nodes} numbers, at least 0, found {found_KK.shape}")
    return found_KK
