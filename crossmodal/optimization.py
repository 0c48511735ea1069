"""What the optimizer is given, and how its learning rate goes."""

from __future__ import annotations

import math
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from experts.base import Expert


class WarmupCosine:
    """The learning rate's factor at a step: a line up from near 0 to 1, then a cosine down to 0.

    Args:
        total: Steps in all.
        warmup: Share of them that rises.
    """

    def __init__(self, total: int, *, warmup: float) -> None:
        self.total = total
        self.rising = max(1, round(warmup * total))

    def __call__(self, step: int) -> float:
        """Return the factor, from 0 to 1."""
        if step < self.rising:
            return (step + 1) / self.rising
        progress = (step - self.rising) / max(1, self.total - self.rising)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split what trains into matrices, which decay, and vectors such as biases and norms, which do not.

    Experts may want lower rates for some of their parameters: `with_scaled_rates` gives them.
    """
    scales = {
        f"{prefix}.{name}" if prefix else name: scale
        for prefix, module in model.named_modules()
        if isinstance(module, Expert)
        for name, scale in module.rate_scales().items()
    }
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter.dim() > 1, scales.get(name, 1.0)), []).append(parameter)
    return [
        {"params": parameters}
        | ({} if decays else {"weight_decay": 0.0})
        | ({} if scale == 1 else {"rate_scale": scale})
        for (decays, scale), parameters in groups.items()
        if parameters
    ]


def accumulates(trainer: Trainer) -> bool:
    """Return whether several batches make one step, now or in a later epoch."""
    schedules = [one for one in trainer.callbacks if isinstance(one, GradientAccumulationScheduler)]  # type: ignore[attr-defined]
    return trainer.accumulate_grad_batches > 1 or any(one.going_to_accumulate_grad_batches() for one in schedules)


def with_scaled_rates(optimizer: Optimizer) -> Optimizer:
    """Give each group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] *= group.pop("rate_scale", 1.0)
    return optimizer


def scheduled(optimizer: Optimizer, steps: float, *, warmup: float) -> dict[str, Any]:
    """Return an optimizer with warm-up and a cosine, per step, as Lightning takes them.

    Raises:
        ValueError: Training has no end.
    """
    if math.isinf(steps):
        raise ValueError("a schedule needs an end: set trainer.max_epochs or trainer.max_steps")
    schedule = WarmupCosine(max(1, int(steps)), warmup=warmup)
    # a function: LambdaLR would keep an object's length in the checkpoint, and a run that is resumed to go on for
    # longer would train at a rate of zero
    scheduler = LambdaLR(optimizer, lambda step: schedule(step))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
