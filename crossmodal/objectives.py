"""Objectives: predictions and targets to named loss terms.

Legend: B rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from crossmodal.heads import Head


class TaskObjective(nn.Module):
    """The loss of each task's head, weighted.

    Args:
        weights: By task; 1 where none is given.
    """

    def __init__(self, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.weights = weights or {}

    def forward(
        self, heads: Mapping[str, Head], predictions: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return a term for each task that has targets, already weighted: their sum is the loss."""
        return {
            task: self.weights.get(task, 1.0) * heads[task].loss(outputs_BC, targets[task])
            for task, outputs_BC in predictions.items()
            if task in targets
        }
