"""Heads: workspace tokens to one task's prediction, its loss and its metrics.

Legend: B rows of a batch, R of a split, L workspace tokens, D width, C outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from crossmodal import metrics
from crossmodal.opinions import Labels, Opinions, Probabilities, Quantities


class Head(nn.Module, ABC):
    """Reads the mean workspace token through one linear layer.

    Args:
        width: D.
        num_outputs: C.
    """

    reported = "probability"  # what `activate` gives, as predictions name it

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        if num_outputs < 1:
            raise ValueError("a head needs at least one output")
        self.num_outputs = num_outputs
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, num_outputs)
        self.prior_C: Tensor
        self.register_buffer("prior_C", torch.zeros(num_outputs))
        self.weights_C: Tensor | None
        self.register_buffer("weights_C", None, persistent=False)  # the data says it again

    def forward(self, workspace_BLD: Tensor, absent_B: Tensor | None = None) -> Tensor:
        """Return raw outputs (logits or values), shape (B, C); of rows without any modality, the prior."""
        outputs_BC = self.read(self.norm(workspace_BLD.mean(1)))
        if absent_B is None:
            return outputs_BC
        return torch.where(absent_B.unsqueeze(1), self.prior_C.to(outputs_BC.dtype), outputs_BC)

    def read(self, mean_BD: Tensor) -> Tensor:
        """Return raw outputs, shape (B, C), from the mean token, normalised."""
        outputs_BC: Tensor = self.linear(mean_BD)
        return outputs_BC

    def learn_names(self, names: Sequence[str]) -> None:
        """Learn what the outputs are called, once and before all else; by default nothing is made of it."""

    def learn_prior(self, targets: Tensor) -> None:
        """Take the outputs that are best where nothing is known of a row, from R targets."""
        self.prior_C.copy_(self.prior(targets))

    def weigh(self, weights_C: Tensor) -> None:
        """Weigh the classes or labels in the loss.

        Raises:
            ValueError: This kind of head has none.
        """
        raise ValueError(f"{type(self).__name__} takes no weights of classes")

    @abstractmethod
    def prior(self, targets: Tensor) -> Tensor:
        """Return, from R targets, the raw outputs (C,) of a row of which nothing is known."""

    @property
    @abstractmethod
    def expects(self) -> str:
        """What a row's target must be, in words."""

    @abstractmethod
    def valid(self, targets: Tensor) -> Tensor:
        """Return which of R rows have a target that can be learned from, bool of shape (R,).

        Raises:
            ValueError: None has: they are of another type or shape.
        """

    @abstractmethod
    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over the rows."""

    @abstractmethod
    def metrics(self) -> MetricCollection:
        """Return fresh metrics, which take what `activate` gives, and targets."""

    @abstractmethod
    def activate(self, outputs_BC: Tensor) -> Tensor:
        """Return what is reported for each output, shape (B, C)."""

    @abstractmethod
    def opinions(self) -> Opinions:
        """Return what compares several answers, as `activate` gives them."""

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
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing is a share, 0 to 1, not {label_smoothing}")
        self.label_smoothing = label_smoothing

    @property
    def expects(self) -> str:
        """A class number."""
        return f"a class number, 0 to {self.num_outputs - 1}"

    def valid(self, targets: Tensor) -> Tensor:
        """Return which rows have one of the classes."""
        if targets.dtype != torch.int64 or targets.dim() != 1:
            raise ValueError(f"targets must be int64 of shape (rows,), not {_described(targets)}")
        return (targets >= 0) & (targets < self.num_outputs)

    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return F.cross_entropy(outputs_BC, targets, self.weights_C, label_smoothing=self.label_smoothing)

    def weigh(self, weights_C: Tensor) -> None:
        """Weigh the classes in the loss."""
        self.weights_C = weights_C.to(self.prior_C)

    def prior(self, targets: Tensor) -> Tensor:
        """Return the logarithm of each class's share, one row more of each."""
        counts_C = torch.bincount(targets, minlength=self.num_outputs) + 1.0
        return (counts_C / counts_C.sum()).log()

    def metrics(self) -> MetricCollection:
        """Return accuracy and macro F1."""
        return metrics.classification(self.num_outputs)

    def activate(self, outputs_BC: Tensor) -> Tensor:
        """Return the softmax."""
        return outputs_BC.softmax(-1)

    def opinions(self) -> Opinions:
        """Return what compares probabilities of classes."""
        return Probabilities()

    def decide(self, outputs_BC: Tensor, names: list[str]) -> list[object]:
        """Return the name of the likeliest class."""
        return [names[number] for number in outputs_BC.argmax(-1).tolist()]


class MultiLabelHead(Head):
    """Any of C labels. Targets: 0 or 1, whole numbers or bool, shape (B, C)."""

    expects = "0 or 1 for each label"

    def valid(self, targets: Tensor) -> Tensor:
        """Return which rows have only zeros and ones."""
        _require_columns(targets, self.num_outputs)
        if targets.is_floating_point():
            raise ValueError(f"targets must be whole numbers or bool, not {_described(targets)}")
        return ((targets == 0) | (targets == 1)).all(1)

    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the binary cross-entropy."""
        return F.binary_cross_entropy_with_logits(outputs_BC, targets.to(outputs_BC.dtype), pos_weight=self.weights_C)

    def weigh(self, weights_C: Tensor) -> None:
        """Weigh the rows that have a label in the loss."""
        self.weights_C = weights_C.to(self.prior_C)

    def prior(self, targets: Tensor) -> Tensor:
        """Return the logit of each label's share, one row more with it and one without."""
        return ((targets.sum(0) + 1) / (len(targets) + 2)).logit()

    def metrics(self) -> MetricCollection:
        """Return accuracy over all labels, macro F1 and mean average precision."""
        return metrics.multilabel(self.num_outputs)

    def activate(self, outputs_BC: Tensor) -> Tensor:
        """Return each label's probability."""
        return outputs_BC.sigmoid()

    def opinions(self) -> Opinions:
        """Return what compares probabilities of labels."""
        return Labels()

    def decide(self, outputs_BC: Tensor, names: list[str]) -> list[object]:
        """Return the names of the labels whose probability is above one half."""
        return [[name for name, on in zip(names, row, strict=True) if on] for row in (outputs_BC > 0).tolist()]


class RegressionHead(Head):
    """C quantities. Targets: floats, shape (B, C).

    They are learned in units of the training split's deviation about its mean, and given in their own.
    """

    reported = "value"
    expects = "finite numbers"

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__(width, num_outputs)
        self.scale_C: Tensor
        self.register_buffer("scale_C", torch.ones(num_outputs))

    def forward(self, workspace_BLD: Tensor, absent_B: Tensor | None = None) -> Tensor:
        """Return values, shape (B, C); of rows without any modality, the mean."""
        outputs_BC = self.prior_C + self.scale_C * super().forward(workspace_BLD)
        return outputs_BC if absent_B is None else torch.where(absent_B.unsqueeze(1), self.prior_C, outputs_BC)

    def learn_prior(self, targets: Tensor) -> None:
        """Take the mean, and the deviation; 1 where all are the same."""
        super().learn_prior(targets)
        deviation_C = targets.double().std(0, correction=0)
        self.scale_C.copy_(torch.where(deviation_C > 0, deviation_C, 1.0))

    def valid(self, targets: Tensor) -> Tensor:
        """Return which rows have only finite numbers."""
        _require_columns(targets, self.num_outputs)
        return targets.isfinite().all(1)

    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error, in units of the training split's variance."""
        if targets.shape != outputs_BC.shape:
            raise ValueError(f"targets must have shape {tuple(outputs_BC.shape)}, not {tuple(targets.shape)}")
        return F.mse_loss(outputs_BC / self.scale_C, targets.to(outputs_BC.dtype) / self.scale_C)

    def prior(self, targets: Tensor) -> Tensor:
        """Return the mean."""
        return targets.double().mean(0)

    def metrics(self) -> MetricCollection:
        """Return mean absolute error, root mean squared error and R²."""
        return metrics.regression()

    def activate(self, outputs_BC: Tensor) -> Tensor:
        """Return the values themselves."""
        return outputs_BC

    def opinions(self) -> Opinions:
        """Return what compares quantities."""
        return Quantities(self.scale_C)

    def decide(self, outputs_BC: Tensor, names: list[str]) -> list[object]:
        """Return the value, or a list of them."""
        return list(outputs_BC.squeeze(-1).tolist()) if len(names) == 1 else list(outputs_BC.tolist())


def _require_columns(targets: Tensor, num_outputs: int) -> None:
    if targets.dim() != 2 or targets.shape[1] != num_outputs:
        raise ValueError(f"targets must have shape (rows, {num_outputs}), not {_described(targets)}")


def _described(targets: Tensor) -> str:
    return f"{str(targets.dtype).removeprefix('torch.')} of shape {tuple(targets.shape)}"
