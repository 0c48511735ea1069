"""Metrics by kind of task; torchmetrics computes them.

They take what `Head.activate` gives: torchmetrics would take logits that all lie in 0 to 1 for probabilities.

Legend: B rows, C outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelAccuracy,
    MultilabelAveragePrecision,
    MultilabelF1Score,
)


def classification(num_classes: int) -> MetricCollection:
    """Return accuracy and macro F1 of probabilities (B, C) against class numbers (B,)."""
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro", validate_args=False),
            "f1": MulticlassF1Score(num_classes, average="macro", validate_args=False),
        }
    )


def multilabel(num_labels: int) -> MetricCollection:
    """Return accuracy, macro F1 and mean average precision of probabilities (B, C) against 0 or 1 (B, C)."""
    return MetricCollection(
        {
            "accuracy": MultilabelAccuracy(num_labels, average="micro"),
            "f1": MultilabelF1Score(num_labels, average="macro"),
            "map": MultilabelAveragePrecision(num_labels),
        }
    )


class _R2(R2Score):
    """R², which one row has none of."""

    def compute(self) -> Tensor:
        """Return R², or NaN for a single row."""
        return super().compute() if self.total > 1 else torch.tensor(torch.nan)


def regression() -> MetricCollection:
    """Return mean absolute error, root mean squared error and R² of values (B, C)."""
    return MetricCollection(
        {
            "mae": MeanAbsoluteError(),
            "rmse": MeanSquaredError(squared=False),
            "r2": _R2(),
        }
    )
