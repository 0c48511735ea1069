"""Hostile replicas, to try methods against: what they send is not what they have trained.

They hide behind an engine, so that any method can be tried on any.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.engine import Engine, Job, Update, with_unlabelled


@dataclass(frozen=True)
class Attack:
    """What hostile replicas send.

    Args:
        nodes: Their numbers.
        kind: `flipped` sends the opposite of the change, `scaled` so many times the change, `random` noise as large as
            so many times the change.
        scale: How many times.
    """

    nodes: list[int]
    kind: Literal["flipped", "scaled", "random"] = "flipped"
    scale: float = 10.0


class HostileEngine:
    """An engine some of whose nodes are hostile.

    Args:
        engine: That they train on.
        attack: What they send instead.
        seed: Of noise.
    """

    def __init__(self, engine: Engine, attack: Attack, *, seed: int) -> None:
        self.nodes = engine.nodes
        self._engine = engine
        self._attack = attack
        self._seed = seed

    def train(self, jobs: Sequence[Job]) -> list[Update]:
        """Let nodes train; those that are hostile send something else."""
        began = {job.node: job for job in jobs}
        return [self._sent(one, began[one.node]) for one in self._engine.train(jobs)]

    def _sent(self, update: Update, job: Job) -> Update:
        is_hostile = update.node in self._attack.nodes
        return replace(update, state=self._forged(update.state, job)) if is_hostile else update

    def _forged(self, state: State, job: Job) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed} {job.node} {job.round}".encode()))
        found = {}
        for name, value in state.items():
            before = job.state[name].to(value)
            if not value.is_floating_point():
                found[name] = value
                continue
            change = value - before
            match self._attack.kind:
                case "flipped":
                    change = -self._attack.scale * change
                case "scaled":
                    change = self._attack.scale * change
                case "random":
                    size = change.square().mean().sqrt()
                    change = self._attack.scale * size * torch.randn(change.shape, generator=generator)
            found[name] = before + change
        return found

    def train_split(self, jobs: Sequence[Job], *, merge_every: int | None) -> tuple[list[Update], dict[str, Tensor]]:
        """Train; clients that are hostile send other parts of theirs."""
        updates, server = self._engine.train_split(jobs, merge_every=merge_every)
        began = {job.node: job for job in jobs}
        return [self._sent(one, began[one.node]) for one in updates], server

    def score(self, states: Sequence[tuple[int, State]]) -> list[float]:
        """Score; hostile nodes score honestly."""
        return self._engine.score(states)

    def measure(self, state: State) -> float:
        """Measure."""
        return self._engine.measure(state)

    def answer(self, states: Sequence[State]) -> list[dict[str, Tensor]]:
        """Answer; it is the server that does."""
        return with_unlabelled(self._engine).answer(states)

    def tune(self, job: Job, rows: NDArray[np.int64], targets: Mapping[str, Tensor]) -> Update:
        """Train at the server."""
        return with_unlabelled(self._engine).tune(job, rows, targets)

    def state_dict(self) -> dict[str, Any]:
        """Return what the engine's nodes keep."""
        return self._engine.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._engine.load_state_dict(state_dict)
