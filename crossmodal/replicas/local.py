"""All nodes in this process, one after the other, with one model: what differs between them is what they learned.

A model for each would take as much memory as many times; so it does for as many as train side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal.module import CrossModalModule
from crossmodal.replicas.aggregation import State
from crossmodal.replicas.compression import Compressor
from crossmodal.replicas.crossing import train_split
from crossmodal.replicas.engine import Job, Update
from crossmodal.replicas.node import LocalTraining, Memory, load_sent, seed_of, train_at
from crossmodal.replicas.together import alike, refuse_what_is_not_stacked, train_together
from crossmodal.replicas.unlabelled import Unlabelled
from datamodules.loading import ResumableLoader


class LocalEngine:
    """Lets nodes train in turn.

    Args:
        module: On its device; it is changed.
        loaders: Of each node's rows.
        how: Nodes train.
        compressor: Of what they send.
        unlabelled: Rows without targets: the server has them, and a job's `local` at each node may read them.
        tell: Called with the number of jobs that are done, and of all.
        val: The validation split.
        together: Nodes that train side by side, at most.

    Raises:
        ValueError: The model's nodes cannot train so.
    """

    def __init__(
        self,
        module: CrossModalModule,
        loaders: Sequence[ResumableLoader],
        how: LocalTraining,
        *,
        compressor: Compressor | None = None,
        unlabelled: Unlabelled | None = None,
        tell: Callable[[int, int], None] = lambda done, of: None,
        val: ResumableLoader | None = None,
        together: int = 1,
    ) -> None:
        if together > 1:
            refuse_what_is_not_stacked(module)
        self.nodes = len(loaders)
        self._module = module
        self._loaders = loaders
        self._how = how
        self._compressor = compressor
        self._unlabelled = unlabelled
        self._memories = [Memory() for _ in loaders]
        self._tell = tell
        self._val = val
        self._together = together

    def train(self, jobs: Sequence[Job]) -> list[Update]:
        """Train, in turn, or as many side by side as may."""
        done: dict[int, Update] = {}
        for numbers in alike(jobs, self._loaders, self._together):
            some = [jobs[number] for number in numbers]
            loaders = [self._loaders[job.node] for job in some]
            memories = [self._memories[job.node] for job in some]
            if len(some) > 1:
                updates = train_together(self._module, loaders, some, self._how, memories, self._compressor)
            else:
                updates = [self._train_alone(some[0])]
            done |= zip(numbers, updates, strict=True)
            self._tell(len(done), len(jobs))
        return [done[number] for number in range(len(jobs))]

    def _train_alone(self, job: Job) -> Update:
        loader, memory, further = self._loaders[job.node], self._memories[job.node], None
        if job.local is not None and self._unlabelled is not None:
            further = self._unlabelled.endless(seed_of(job, self._how))
        return train_at(self._module, loader, job, self._how, memory, self._compressor, further)

    def train_split(self, jobs: Sequence[Job], *, merge_every: int | None) -> tuple[list[Update], dict[str, Tensor]]:
        """Train with a server, which has the rest of the model."""
        return train_split(self._module, dict(enumerate(self._loaders)), jobs, self._how, merge_every=merge_every)

    def answer(self, states: Sequence[State]) -> list[dict[str, Tensor]]:
        """Answer, state by state."""
        unlabelled, module, found = self._there(), self._module, []
        module.eval()
        for state in states:
            load_sent(module, state)
            with torch.inference_mode(), self._how.context():
                outputs = [module(batch.to(module.device)) for batch in unlabelled.in_order()]
            found.append({task: torch.cat([one[task] for one in outputs]).float().cpu() for task in outputs[0]})
        return found

    def tune(self, job: Job, rows: NDArray[np.int64], targets: Mapping[str, Tensor]) -> Update:
        """Train at the server."""
        loader = self._there().labelled(rows, targets)
        return train_at(self._module, loader, job, replace(self._how, epochs=1), Memory())

    def _there(self) -> Unlabelled:
        if self._unlabelled is None:
            raise ValueError(
                "replicas.method wants rows without targets; the data has none (datamodules.digit_domains.DigitDomains "
                "has with left_out)"
            )
        return self._unlabelled

    def score(self, states: Sequence[tuple[int, State]]) -> list[float]:
        """Return the mean loss of each."""
        return [self._score(node, state) for node, state in states]

    def _score(self, node: int, state: State) -> float:
        module, loader = self._module, self._loaders[node]
        load_sent(module, state)
        module.eval()
        losses, rows = 0.0, 0
        loader.sampler.set_epoch(0)
        with torch.inference_mode(), self._how.context():
            for batch in loader:
                there = batch.to(module.device)
                terms = module.objective(dict(module.heads), module(there), there.targets)
                if terms:
                    losses += float(torch.stack(list(terms.values())).sum()) * len(there)
                    rows += len(there)
        return losses / rows if rows else float("nan")

    def measure(self, state: State) -> float:
        """Return the first figure of the first task.

        Raises:
            ValueError: The data has no val split, or the model no task.
        """
        module = self._module
        task, head = next(iter(module.heads), (None, None))
        if self._val is None or head is None:
            raise ValueError("replicas.method: measures the model, which needs a val split and a head")
        load_sent(module, state)
        module.eval()
        metrics = head.metrics().to(module.device)
        with torch.inference_mode(), self._how.context():
            for batch in self._val:
                there = batch.to(module.device)
                if task in there.targets and len(there):
                    metrics.update(head.activate(module(there)[task]), there.targets[task])
        return float(next(iter(metrics.compute().values())))

    def state_dict(self) -> dict[str, Any]:
        """Return what nodes keep between rounds."""
        return {"left": [memory.left for memory in self._memories]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        kept = state_dict.get("left")  # nodes on machines of their own have kept it there
        if kept is not None:
            self._memories = [Memory(dict(left)) for left in kept]
