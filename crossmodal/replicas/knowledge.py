"""Aligning what replicas of many domains know: the parts of FedKA, as pure functions and small modules.

Sun, Chong & Ochiai 2022, Feature Distribution Matching for Federated Domain Generalization, ACML, arXiv 2203.11635.
Where the paper leaves a detail open, what its authors' notebook does is followed (github.com/yuweisunn/
federated-knowledge-alignment), or it is said here that something else is chosen.

Legend: B rows of a batch, U rows without labels, K replicas, C classes, D width, S and T rows of two samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def adaptation(progress: float) -> float:
    """Return how much is adapted at a time of the training: alpha = 2 / (1 + e^(-5p)) - 1, from 0 to nearly 1.

    Args:
        progress: p, from 0 to 1 over all rounds.
    """
    return 2 / (1 + math.exp(-5 * progress)) - 1


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, alpha: float) -> Tensor:
        ctx.alpha = alpha
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.alpha * gradients[0], None


def reverse(values: Tensor, alpha: float) -> Tensor:
    """Return values as they are, whose gradient comes back negated and times alpha (Ganin & Lempitsky 2015)."""
    reversed_: Tensor = _Reversal.apply(values, alpha)  # type: ignore[no-untyped-call]
    return reversed_


class Disentangler(nn.Module):
    """Tells features of a node's own rows from those of the target; features learn that it cannot.

    Two layers. The authors have a batch norm between them; a layer norm here, since statistics of batches of one domain
    alone would tell the domains apart, and their mean over nodes belongs to none of them.

    Args:
        width: D.
        hidden: Of the layer between.
    """

    def __init__(self, width: int, hidden: int = 100) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, features_BD: Tensor, alpha: float) -> Tensor:
        """Return the logits of own and target, (B, 2)."""
        logits_B2: Tensor = self.network(reverse(features_BD, alpha))
        return logits_B2

    def loss(self, own_BD: Tensor, target_BD: Tensor, alpha: float) -> Tensor:
        """Return the cross-entropy of the node's own rows, and that of the target's, added."""
        found = [
            F.cross_entropy(self(features_BD, alpha).float(), torch.full((len(features_BD),), domain).to(own_BD.device))
            for domain, features_BD in enumerate((own_BD, target_BD))
        ]
        return found[0] + found[1]


def multi_kernel_mmd(one_SD: Tensor, other_TD: Tensor, *, kernels: int = 5, factor: float = 2.0) -> Tensor:
    """Return the squared maximum mean discrepancy of two samples under a sum of Gaussian kernels (Gretton et al. 2012;
    Long et al. 2015), as a mean over all pairs, which is never negative.

    The kernels' bandwidths are the mean squared distance of all pairs of both samples, and that times and divided by
    powers of a factor. No gradient goes through the bandwidths.

    Args:
        one_SD: S rows.
        other_TD: T rows.
        kernels: How many are added.
        factor: Between the bandwidths of neighbours.
    """
    both_ND = torch.cat([one_SD, other_TD]).float()
    # by matrix products near rows would lose their distance to rounding
    squares_NN = (both_ND.unsqueeze(0) - both_ND.unsqueeze(1)).square().sum(2)
    count = len(both_ND)
    middle = squares_NN.detach().sum() / max(1, count * (count - 1))
    middle = middle.clamp_min(torch.finfo(middle.dtype).tiny)  # all rows may be the same
    widths = [middle * factor ** (number - kernels // 2) for number in range(kernels)]
    kernel_NN = torch.stack([torch.exp(-squares_NN / width) for width in widths]).sum(0)
    first = len(one_SD)
    within = kernel_NN[:first, :first].mean() + kernel_NN[first:, first:].mean()
    return within - 2 * kernel_NN[:first, first:].mean()


def vote(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return what most replicas take rows for, int64 (U,), and the share of them that do, (U,).

    Between classes of as many votes the one that the replicas together give more probability to wins; the authors leave
    that to the order in which Python keeps a set.

    Args:
        outputs: Of K replicas, logits (U, C).

    Raises:
        ValueError: There is no replica.
    """
    if not outputs:
        raise ValueError("there is no replica that votes")
    logits_KUC = torch.stack(list(outputs)).float()
    votes_UC = F.one_hot(logits_KUC.argmax(2), logits_KUC.shape[2]).sum(0)
    sure_UC = logits_KUC.softmax(2).mean(0)  # at most 1: it decides only between classes of as many votes
    chosen_U = (votes_UC + 0.5 * sure_UC).argmax(1)
    share_U = votes_UC.gather(1, chosen_U.unsqueeze(1)).squeeze(1) / len(outputs)
    return chosen_U, share_U
