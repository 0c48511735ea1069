"""An engine whose nodes each have a goal, to which training takes a model half the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.engine import Job, Update
from crossmodal.replicas.masking import hidden


class Goals:
    """Nodes and their goals; those that are `dead` do not answer."""

    def __init__(self, goals: Sequence[float], rows: Sequence[int] | None = None, dead: Sequence[int] = ()) -> None:
        self.goals = goals
        self.rows = rows or [1] * len(goals)
        self.nodes = len(goals)
        self.dead = set(dead)
        self.jobs: list[Job] = []

    def train(self, jobs: Sequence[Job]) -> list[Update]:
        self.jobs += jobs
        found = []
        for job in (job for job in jobs if job.node not in self.dead):
            goal = self.goals[job.node]
            state = {name: value + (goal - value) / 2 for name, value in job.state.items()}
            if job.hiding is not None:
                change = {name: value - job.state[name] for name, value in state.items()}
                weight = float(self.rows[job.node])
                state = hidden(change, job.state, weight=weight, node=job.node, hiding=job.hiding, secret="words")
            loss = float((job.state["w"] - goal).abs().mean())
            found.append(Update(job.node, state, self.rows[job.node], loss, num_bytes=8))
        return found

    def train_split(
        self, jobs: Sequence[Job], *, merge_every: int | None
    ) -> tuple[list[Update], dict[str, torch.Tensor]]:
        raise NotImplementedError

    def score(self, states: Sequence[tuple[int, State]]) -> list[float]:
        return [float((state["w"] - self.goals[node]).abs().mean()) for node, state in states]

    def measure(self, state: State) -> float:
        """Return how near a model is to the mean of all goals, 1 at it."""
        apart = float((state["w"] - sum(self.goals) / len(self.goals)).abs().mean())
        return 1 / (1 + apart)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        return


def zero() -> dict[str, torch.Tensor]:
    return {"w": torch.zeros(2)}
