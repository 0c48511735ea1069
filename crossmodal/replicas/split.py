"""Split learning of multimodal models: data and experts stay with clients, fusion and heads are the server's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crossmodal.replicas.aggregation import State, mean
from crossmodal.replicas.compression import num_bytes
from crossmodal.replicas.crossing import is_client
from crossmodal.replicas.engine import Engine, Job, Told
from crossmodal.replicas.method import Method, figures_of


class SplitLearning(Method):
    """Clients send tokens and get gradients back; what trains of their own parts is merged each round, or oftener.

    After BiCSL (Sun & Ochiai, AAAI 2024, arXiv 2208.11435), whose contrastive loss between fused features and answers
    is that of `crossmodal.answer_projection.AnswerProjectionHead`. The server learns what is right of each row.

    Args:
        merge_every: So many batches of each client their parts are merged; 0 for not before the round's end.
    """

    is_split = True

    def __init__(self, merge_every: int = 0) -> None:
        if merge_every < 0:
            raise ValueError(f"merge_every: batches of each client, at least 0, not {merge_every}")
        self.merge_every = merge_every
        self._state: State = {}
        self._nodes = 0

    def begin(self, state: State, nodes: int, *, seed: int) -> None:
        """Begin with a state."""
        self._state, self._nodes = state, nodes

    @property
    def state(self) -> State:
        """Of both sides."""
        return self._state

    def round(self, engine: Engine, number: int) -> Told:
        """Let all clients train with the server, and merge their parts."""
        jobs = [Job(node, self._state, number) for node in range(self._nodes)]
        updates, server = engine.train_split(jobs, merge_every=self.merge_every or None)
        own = {name: value for name, value in self._state.items() if is_client(name)}
        figures = figures_of(updates, [own] * len(updates))
        if updates:
            merged = mean([one.state for one in updates], [float(one.rows) for one in updates]) if own else {}
            self._state = {**self._state, **server, **merged}
        figures["train/bytes_of_models"] = float(2 * len(updates) * num_bytes(own))
        return Told(figures, path=[one.node for one in updates])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both sides."""
        return {"state": dict(self._state)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._state = state_dict["state"]
