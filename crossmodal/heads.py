"""Heads: workspace tokens to one task's prediction, its loss and its metrics.

Legend: B rows, L workspace tokens, D width, C outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from crossmodal import metrics


class Head(nn.Module, ABC):
    """Reads the mean workspace token through one linear layer.

    Args:
        width: D.
        num_outputs: C.
    """

    reported = "probability"  # what `probabilities` gives, as predictions name it

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        if num_outputs < 1:
            raise ValueError("a head needs at least one output")
        self.num_outputs = num_outputs
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, num_outputs)

    def forward(self, workspace_BLD: Tensor) -> Tensor:
        """Return raw outputs (logits or values), shape (B, C)."""
        outputs_BC: Tensor = self.linear(self.norm(workspace_BLD.mean(1)))
        return outputs_BC

    @abstractmethod
    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the rows."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Return fresh metrics, which take `probabilities` and targets."""

    @abstractmethod
    def probabilities(self, outputs_BC: Tensor) -> Tensor:
        """Return what is reported for each output, shape (B, C)."""

    @abstractmethod
    def decide(self, outputs_BC: Tensor, names: list[str]) -> list[object]:
        """Return each row's prediction in words or numbers."""


class ClassificationHead(Head):
    """One of C classes. Targets: int64 class numbers, shape (B,).

    Args:
        width: D.
        num_outputs: C.
        label_smoothing: Share of the target that is spread over all classes.
    """

    def __init__(self, width: int, num_outputs: int, *, label_smoothing: float = 0.0) -> None:
        super().__init__(width, num_outputs)
        self.label_smoothing = label_smoothing

    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(outputs_BC, targets, label_smoothing=self.label_smoothing)

    def metrics(self) -> MetricCollection:
        """Return accuracy and macro F1."""
        return metrics.classification(self.num_outputs)

    def probabilities(self, outputs_BC: Tensor) -> Tensor:
        """Return the softmax."""
        return outputs_BC.softmax(-1)

    def decide(self, outputs_BC: Tensor, names: list[str]) -> list[object]:
        """Return the name of the likeliest class."""
        return [names[number] for number in outputs_BC.argmax(-1).tolist()]


class MultiLabelHead(Head):
    """Any of C labels. Targets: 0 or 1, shape (B, C)."""

    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(outputs_BC, targets.to(outputs_BC.dtype))

    def metrics(self) -> MetricCollection:
        """Return accuracy over all labels, macro F1 and mean average precision."""
        return metrics.multilabel(self.num_outputs)

    def probabilities(self, outputs_BC: Tensor) -> Tensor:
        """Return each label's probability."""
        return outputs_BC.sigmoid()

    def decide(self, outputs_BC: Tensor, names: list[str]) -> list[object]:
        """Return the names of the labels whose probability is above one half."""
        return [[name for name, on in zip(names, row, strict=True) if on] for row in (outputs_BC > 0).tolist()]


class RegressionHead(Head):
    """C quantities. Targets: floats, shape (B, C)."""

    reported = "value"

    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error."""
        if targets.shape != outputs_BC.shape:
            raise ValueError(f"targets must have shape {tuple(outputs_BC.shape)}, not {tuple(targets.shape)}")
        return F.mse_loss(outputs_BC, targets.to(outputs_BC.dtype))

    def metrics(self) -> MetricCollection:
        """Return mean absolute error, root mean squared error and R²."""
        return metrics.regression()

    def probabilities(self, outputs_BC: Tensor) -> Tensor:
        """Return the values themselves."""
        return outputs_BC

    def decide(self, outputs_BC: Tensor, names: list[str]) -> list[object]:
        """Return the value, or a list of them."""
        return list(outputs_BC.squeeze(-1).tolist()) if len(names) == 1 else list(outputs_BC.tolist())
