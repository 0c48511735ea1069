"""How fast a run is, what it holds, and how large its gradients are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer

from crossmodal.module import CrossModalModule
from crossmodal.observers.logging import log

MEBI = 2**20


class Pace(Callback):
    """Logs, where training logs: learning rates, steps and rows a second, memory, and norms of gradients.

    Validation is not counted as time. Norms are those before clipping: of all that trains, and of what trains of each
    modality's own, which is its expert, and the projection of its tokens to the workspace.
    """

    def __init__(self) -> None:
        self._steps = self._rows = 0
        self._seconds = self._mark = 0.0
        self._norms: dict[str, float] = {}
        self._parameters: dict[str, list[nn.Parameter]] = {}  # by what the figure's name ends with

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what was encoded, and start the clock."""
        assert isinstance(pl_module, CrossModalModule)
        counts: dict[str, float] = {}
        for one in pl_module.encoded:  # split by split
            for key, count in {"encoded": one.encoded, "reused": one.reused}.items() if one.reason is None else ():
                name = f"features/{key}/{one.modality}"
                counts[name] = counts.get(name, 0) + count
        log(trainer, counts)
        groups: dict[str, list[nn.Parameter]] = {"": []}
        for name, parameter in pl_module.named_parameters():
            groups[""].append(parameter)
            part, _, rest = name.removeprefix("model.").partition(".")
            if part in ("experts", "projections"):
                groups.setdefault(f"/{rest.partition('.')[0]}", []).append(parameter)
        self._parameters = groups
        self._mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; log where training logs."""
        now = time.perf_counter()
        self._seconds += now - self._mark
        self._mark = now
        self._steps += 1
        self._rows += len(batch)
        if not _is_logged(trainer) or self._seconds <= 0:
            return
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        figures = {f"train/lr/{number}": rate for number, rate in enumerate(rates)}
        figures = {"train/lr": rates[0]} if len(set(rates)) == 1 else figures
        figures |= {"train/steps_per_second": self._steps / self._seconds}
        figures |= {"train/rows_per_second": self._rows / self._seconds}
        log(trainer, figures | memory() | self._norms)
        self._steps = self._rows = 0
        self._seconds, self._norms = 0.0, {}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the time of a validation out."""
        self._mark = time.perf_counter()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure the gradients, where they are logged."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (trainer.global_step + 1) % every:
            return
        gradients = {
            name: [one.grad for one in parameters if one.grad is not None]
            for name, parameters in self._parameters.items()
        }
        of_groups = {name: torch.nn.utils.get_total_norm(of) for name, of in gradients.items() if of}
        if of_groups:  # a GPU is made to wait once
            norms = torch.stack([*of_groups.values()]).tolist()
            self._norms = {f"train/gradient_norm{name}": norm for name, norm in zip(of_groups, norms, strict=True)}


def memory() -> dict[str, float]:
    """Return what this process holds now, in MiB, and what it held at most on a GPU."""
    found = {}
    status = Path("/proc/self/statm")  # Linux
    if status.exists():
        pages = int(status.read_text().split()[1])
        found["memory/process_mib"] = pages * _page_size() / MEBI
    if torch.cuda.is_available():
        found["memory/gpu_mib"] = torch.cuda.max_memory_allocated() / MEBI
    return found


def _page_size() -> int:
    import resource

    return resource.getpagesize()


def _is_logged(trainer: Trainer) -> bool:
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every > 0 and trainer.global_step % every == 0 and not trainer.fit_loop._should_accumulate()
