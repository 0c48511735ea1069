"""What the optimizer is given, and how its learning rate goes."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


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
    """Split what trains into matrices, which decay, and vectors such as biases and norms, which do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() > 1]
    others = [parameter for parameter in trained if parameter.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
