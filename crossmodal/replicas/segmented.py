"""Segmented federated learning: nodes whose models are of no use to each other learn apart.

Sun, Ochiai & Esaki 2020 (IJCNN), Intrusion Detection with Segmented Federated Learning for Large-Scale Multiple LANs.

Legend: K nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmodal.replicas.aggregation import State, mean
from crossmodal.replicas.engine import Engine, Job, Told
from crossmodal.replicas.merging import Mean, Merge
from crossmodal.replicas.method import Method, figures_of


class Segmented(Method):
    """One global model for each segment of nodes; segments split and merge as nodes find others' models useful.

    After training, now and then, each node's model is scored with the rows of each other node. Nodes are in one segment
    where, in the mean over its pairs, a model loses less than `apart` by coming to the other node.

    Args:
        every: So many rounds nodes are grouped anew.
        apart: How much loss makes nodes strangers, as the loss is reckoned (nats a row, of classes).
        begins: Round, from 1, after which nodes are grouped first: before, models know too little to tell.
        merge: How one state is made of those of a segment; by default the mean by rows.
    """

    is_personal = True

    def __init__(self, every: int = 2, apart: float = 0.5, begins: int = 2, merge: Merge | None = None) -> None:
        if every < 1 or begins < 1 or not apart > 0:
            raise ValueError(f"every ({every}) and begins ({begins}) are at least 1, and apart ({apart}) is above 0")
        self.every = every
        self.apart = apart
        self.begins = begins
        self.merge = merge or Mean()
        self._states: list[State] = []  # of segments
        self._segments: list[int] = []  # of each node

    def begin(self, state: State, nodes: int, *, seed: int) -> None:
        """Begin with one segment."""
        self._states, self._segments = [state], [0] * nodes

    @property
    def state(self) -> State:
        """That of the largest segment."""
        return self._states[int(np.bincount(self._segments).argmax())]

    def state_of(self, node: int) -> State:
        """Return that of a node's segment."""
        return self._states[self._segments[node]]

    def round(self, engine: Engine, number: int) -> Told:
        """Train, group, and merge within each segment."""
        updates = engine.train([Job(node, self.state_of(node), number) for node in range(len(self._segments))])
        figures = figures_of(updates, [self.state_of(node) for node in range(len(self._segments))])
        own: dict[int, State] = {one.node: {**self.state_of(one.node), **one.state} for one in updates}
        rows = {one.node: float(one.rows) for one in updates}
        began = [self.state_of(node) for node in range(len(self._segments))]
        if number + 1 >= self.begins and (number + 1 - self.begins) % self.every == 0 and len(own) > 1:
            self._segments = self._grouped(engine, own)
        found: list[State] = []
        for segment in range(max(self._segments) + 1):
            members = [node for node, of in enumerate(self._segments) if of == segment]
            there = [node for node in members if node in own]
            states = [own[node] for node in there] or [mean([began[node] for node in members])]
            found.append(self.merge(states, [rows.get(node, 1.0) for node in there] or [1.0]))
        self._states = found
        return Told(
            figures | {"train/segments": float(len(found))},
            path=[one.node for one in updates],
            segments=list(self._segments),
        )

    def _grouped(self, engine: Engine, own: Mapping[int, State]) -> list[int]:
        """Return the segment of each node; who has not answered stays with those that it was with, if any did."""
        nodes = sorted(own)
        pairs = [(at, own[of]) for at in nodes for of in nodes]
        losses_KK = np.array(engine.score(pairs)).reshape(len(nodes), len(nodes))
        excess_KK = losses_KK - np.diag(losses_KK)[:, None]
        groups = grouped((excess_KK + excess_KK.T) / 2, self.apart)
        found = dict(zip(nodes, groups, strict=True))
        of_old = {self._segments[node]: found[node] for node in reversed(nodes)}
        for segment in sorted({*self._segments} - of_old.keys()):  # none of which has answered
            of_old[segment] = 1 + max(of_old.values())
        return [found.get(node, of_old[before]) for node, before in enumerate(self._segments)]

    def state_dict(self) -> dict[str, Any]:
        """Return the segments and their states."""
        return {"states": [dict(state) for state in self._states], "segments": self._segments}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._states, self._segments = list(state_dict["states"]), list(state_dict["segments"])


def grouped(distances_KK: NDArray[np.float64], apart: float) -> Sequence[int]:
    """Return the group of each, numbered by their first members: the nearest groups merge while they are near.

    Args:
        distances_KK: Between each two; groups are as far from each other as their members in the mean.
        apart: At which they stay apart.
    """
    distances_KK = np.nan_to_num(distances_KK, nan=np.inf, posinf=np.inf)  # a model that is not finite is no neighbour
    groups = [[number] for number in range(len(distances_KK))]
    while len(groups) > 1:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
        far = [float(distances_KK[np.ix_(groups[i], groups[j])].mean()) for i, j in pairs]
        best = int(np.argmin(far))
        if not far[best] < apart:
            break
        i, j = pairs[best]
        groups[j] = sorted(groups[j] + groups.pop(i))
    numbered = {number: place for place, group in enumerate(sorted(groups)) for number in group}
    return [numbered[number] for number in range(len(distances_KK))]
