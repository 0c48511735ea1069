"""Federated learning: a server sends its model to nodes, which train it, and merges what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from secrets import token_hex
from types import NoneType
from typing import Any

import numpy as np
from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.engine import Engine, Hiding, Job, Local, Told, Update
from crossmodal.replicas.masking import opened
from crossmodal.replicas.merging import Adopt, Mean, Merge, Server
from crossmodal.replicas.method import Method, figures_of
from crossmodal.replicas.privacy import Privacy


class Federated(Method):
    """A server merges what replicas have learned: FedAvg, and with other arguments FedProx, FedAdam, DiLoCo, Krum, ...

    Args:
        merge: How one state is made of many; by default the mean by rows (FedAvg).
        server: What is made of that; by default it is taken as it is.
        share: Of the nodes, drawn each round, that train.
        proximal: How much nodes are kept near the state that they were given (FedProx, Li et al. 2020).
        privacy: Bounds what a node's rows can change, and adds noise.
        secure: Nodes hide what they send: the server sees the sum alone (`crossmodal.replicas.masking`). Where a node
            does not answer, the others train again.
    """

    takes_changes = True

    def __init__(
        self,
        merge: Merge | None = None,
        server: Server | None = None,
        share: float = 1.0,
        proximal: float = 0.0,
        privacy: Privacy | None = None,
        secure: bool = False,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share: of the nodes that train in a round, above 0 and at most 1, not {share}")
        if proximal < 0:
            raise ValueError(f"proximal: at least 0, not {proximal}")
        if privacy is not None and merge is not None and not (isinstance(merge, Mean) and not merge.by_rows):
            raise ValueError(
                "privacy: is reckoned for a mean in which all nodes count the same: merge Mean, by_rows false"
            )
        if secure and (privacy is not None or not isinstance(merge, Mean | NoneType)):
            raise ValueError("secure: the server sees a sum alone, so merge Mean, without privacy")
        self.merge = merge or Mean(by_rows=privacy is None)
        self.hides = secure
        self._by_rows = isinstance(self.merge, Mean) and self.merge.by_rows
        self.server = server or Adopt()
        self.share = share
        self.proximal = proximal
        self.privacy = privacy
        self._state: State = {}
        self._nodes = 0
        self._seed = 0

    def begin(self, state: State, nodes: int, *, seed: int) -> None:
        """Begin with a state."""
        self._state, self._nodes, self._seed = state, nodes, seed
        if self.hides and round(self.share * nodes) < 2:
            raise ValueError(
                f"replicas.method.secure: a sum of one node is that node's: of {nodes} nodes, share {self.share} is one"
            )

    @property
    def state(self) -> State:
        """The server's."""
        return self._state

    def round(self, engine: Engine, number: int) -> Told:
        """Let some nodes train, and merge."""
        draw = np.random.default_rng([self._seed, number])
        chosen = self._chosen(draw)
        clip = None if self.privacy is None else self.privacy.clip
        began, local = self._state, self.local()
        jobs = [Job(node, began, number, proximal=self.proximal, clip=clip, local=local) for node in chosen]
        if self.hides:
            jobs, updates = self._train_hidden(engine, jobs)
        else:
            updates = engine.train(jobs)
        figures = figures_of(updates, [job.state for job in jobs])
        merged = self._merged(updates, draw) if updates else {}
        if merged:
            self._state = self.server(began, merged)
            figures |= self.refine(engine, number, began, updates)
        if self.privacy is not None:
            figures["train/epsilon"] = self.privacy.epsilon(rounds=number + 1, share=self.share)
        return Told(figures, path=[one.node for one in updates])

    def _train_hidden(self, engine: Engine, jobs: list[Job]) -> tuple[list[Job], list[Update]]:
        """Let nodes train until all of those have answered among whom each is hidden, or there are not two."""
        while len(jobs) > 1:
            hiding = Hiding(tuple(job.node for job in jobs), token_hex(16), self._by_rows)
            updates = engine.train([replace(job, hiding=hiding) for job in jobs])
            if len(updates) == len(jobs):
                return jobs, updates
            there = {one.node for one in updates}
            jobs = [job for job in jobs if job.node in there]
        return jobs, []

    def local(self) -> Local | None:
        """Return what changes how nodes train; by default nothing."""
        return None

    def refine(self, engine: Engine, number: int, began: State, updates: list[Update]) -> dict[str, float]:
        """Go on at the server, from the state that was merged; by default nothing is done.

        Args:
            engine: That nodes trained on.
            number: Of the round.
            began: The state that nodes began with.
            updates: Of nodes.

        Returns:
            Figures to be logged, by name.
        """
        return {}

    def _chosen(self, draw: np.random.Generator) -> list[int]:
        if self.privacy is not None:  # each by itself, as the reckoning has it; perhaps none
            return np.flatnonzero(draw.random(self._nodes) < self.share).tolist()
        count = max(1, round(self.share * self._nodes))
        return sorted(draw.choice(self._nodes, count, replace=False).tolist())

    def _merged(self, updates: list[Update], draw: np.random.Generator) -> dict[str, Tensor]:
        states: list[State] = [one.state for one in updates]
        if self.hides:
            weight = float(sum(one.rows if self._by_rows else 1 for one in updates))
            return opened(states, self._state, weight=weight)
        if self.privacy is None:
            return self.merge(states, [float(one.rows) for one in updates])
        return self.privacy.noisy_mean(
            self._state, states, wanted=self.share * self._nodes, seed=int(draw.integers(2**63))
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the global state, and what the server keeps."""
        return {"state": dict(self._state), "server": self.server.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._state = state_dict["state"]
        self.server.load_state_dict(state_dict["server"])
