"""What can be said of several answers to one question, by kind of task: how sure, how far apart, how right, the mean.

All work on what `Head.activate` gives.

Legend: any leading axes ..., C outputs.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST = 1e-30  # probability, in a logarithm


def for_each(targets_B: Tensor, members: int) -> Tensor:
    """Give each of several members' answers its row's target: (B, ...) to (B, members, ...)."""
    return targets_B.unsqueeze(1).expand(-1, members, *targets_B.shape[1:])


class Opinions(ABC):
    """Answers to one task."""

    score = "accuracy"  # what `scores` gives, as metrics name it
    higher_is_better = True

    @abstractmethod
    def raw(self, answers: Tensor) -> Tensor:
        """Return raw outputs that are activated to these answers."""

    @abstractmethod
    def certainty(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Return confidence, and entropy as a share of the most that there can be, both 0 to 1, shape (...)."""

    @abstractmethod
    def distance(self, answers: Tensor, others: Tensor) -> Tensor:
        """Return how far apart answers are, 0 to 1, shape (...)."""

    @abstractmethod
    def losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return each answer's loss; the targets have the answers' leading axes."""

    @abstractmethod
    def right(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return how right each answer is, 0 to 1, shape (...)."""

    def scores(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return what the task's first metric is the mean of, shape (...)."""
        return self.right(answers, targets)


class Probabilities(Opinions):
    """Of classes, one of which is right."""

    def raw(self, answers: Tensor) -> Tensor:
        """Return logarithms."""
        return answers.clamp_min(LEAST).log()

    def certainty(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the greatest probability, and the entropy."""
        most = math.log(max(2, answers.shape[-1]))
        return answers.amax(-1), -torch.xlogy(answers, answers).sum(-1) / most

    def distance(self, answers: Tensor, others: Tensor) -> Tensor:
        """Return the total variation."""
        return (answers - others).abs().sum(-1) / 2

    def losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy."""
        return -self.raw(answers).gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    def right(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return whether the likeliest class is the right one."""
        return (answers.argmax(-1) == targets).float()


class Labels(Opinions):
    """Of labels, any of which may be right."""

    def raw(self, answers: Tensor) -> Tensor:
        """Return logits."""
        return answers.clamp_min(LEAST).log() - (1 - answers).clamp_min(LEAST).log()

    def certainty(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean probability of what is decided, and the mean entropy."""
        against = 1 - answers
        entropy = -(torch.xlogy(answers, answers) + torch.xlogy(against, against)).mean(-1) / math.log(2)
        return torch.maximum(answers, against).mean(-1), entropy

    def distance(self, answers: Tensor, others: Tensor) -> Tensor:
        """Return the mean difference."""
        return (answers - others).abs().mean(-1)

    def losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the mean binary cross-entropy."""
        is_on = targets.bool()
        return -torch.where(is_on, answers, 1 - answers).clamp_min(LEAST).log().mean(-1)

    def right(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the share of the labels that are decided rightly."""
        return ((answers > 0.5) == targets.bool()).float().mean(-1)


class Quantities(Opinions):
    """Of numbers; what is far is said in units of the deviation.

    Args:
        scale_C: The deviation of each.
    """

    score = "mae"
    higher_is_better = False

    def __init__(self, scale_C: Tensor) -> None:
        self.scale_C = scale_C

    def raw(self, answers: Tensor) -> Tensor:
        """Return the answers."""
        return answers

    def certainty(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Return zeros: a number does not tell how sure it is."""
        none = torch.zeros_like(answers[..., 0])
        return none, none

    def distance(self, answers: Tensor, others: Tensor) -> Tensor:
        """Return how far apart they are, nearly linear as long as that is little."""
        return torch.tanh(((answers - others).abs() / self.scale_C).mean(-1))

    def losses(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the mean squared error."""
        return F.mse_loss(answers / self.scale_C, targets.to(answers.dtype) / self.scale_C, reduction="none").mean(-1)

    def right(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the share of the variance that is explained, at least 0."""
        return (1 - self.losses(answers, targets)).clamp_min(0)

    def scores(self, answers: Tensor, targets: Tensor) -> Tensor:
        """Return the absolute error, the mean of all quantities."""
        return (answers - targets).abs().mean(-1)
