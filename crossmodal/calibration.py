"""Whether answers are as sure as they are right (Guo et al. 2017, arXiv 1706.04599).

Legend: R rows.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Answers in bins of about as many rows each, the least sure first.

    Args:
        confidence: The mean of each bin.
        accuracy: The share that is right of each bin.
        rows: Of each bin.
        error: The expected calibration error: the mean over rows of how far the two are apart in their bin.
    """

    confidence: list[float]
    accuracy: list[float]
    rows: list[int]
    error: float


def sure_of_labels(activated_RC: Tensor, targets_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Return how sure it is of each label of each row, that the row has it or has it not, and whether that is right."""
    has_RC = activated_RC > 0.5
    sure_RC = activated_RC.where(has_RC, 1 - activated_RC)
    return sure_RC.float().flatten(), (has_RC == (targets_RC > 0.5)).float().flatten()


def reliability(confidence_R: Tensor, right_R: Tensor, *, bins: int = BINS) -> Reliability:
    """Compare how sure answers are with how often they are right.

    Args:
        confidence_R: 0 to 1.
        right_R: 0 or 1.
        bins: At most.

    Raises:
        ValueError: There is no row.
    """
    if not len(confidence_R):
        raise ValueError("there is no row to compare")
    order = confidence_R.argsort(stable=True)
    parts = order.tensor_split(min(bins, len(order)))
    sure = [float(confidence_R[part].double().mean()) for part in parts]
    right = [float(right_R[part].double().mean()) for part in parts]
    rows = [len(part) for part in parts]
    apart = (abs(a - b) * count for a, b, count in zip(sure, right, rows, strict=True))
    return Reliability(sure, right, rows, sum(apart) / len(order))
