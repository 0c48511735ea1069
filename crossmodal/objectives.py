"""Objectives: predictions and targets to named loss terms.

Legend: B rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
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


def refuse_infinite(terms: Mapping[str, Tensor], step: int, ids: Sequence[str]) -> None:
    """Refuse a loss that is not finite.

    Args:
        terms: By name.
        step: Of the optimizer.
        ids: Of the batch's rows.

    Raises:
        ValueError: One is not.
    """
    if not torch.stack(list(terms.values())).isfinite().all():
        values = ", ".join(f"{name} {term.item():g}" for name, term in terms.items())
        raise ValueError(
            f"the loss is no longer finite at step {step} ({values}): lower the learning rate "
            "(model.optimizer.init_args.lr), or look at the inputs of the rows " + ", ".join(list(ids)[:3])
        )


def refuse_untargeted(terms: Mapping[str, Tensor], tasks: Iterable[str], ids: Sequence[str]) -> None:
    """Refuse predictions without any loss.

    Args:
        terms: By name.
        tasks: That were predicted.
        ids: Of the batch's rows.

    Raises:
        ValueError: There are tasks, and no terms.
    """
    if not terms and (tasks := list(tasks)):
        raise ValueError(f"rows {', '.join(list(ids)[:3])} have no targets for any of {', '.join(tasks)}")
