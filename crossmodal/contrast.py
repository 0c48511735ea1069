"""What contrastive losses have in common.

Legend: B rows, U targets.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEEPEST = 100.0  # as in CLIP: above it training is no longer stable


def scale_of(log_scale: nn.Parameter, *, training: bool) -> Tensor:
    """Return what similarities are multiplied by, one over the temperature; in training, within a limit."""
    if training:
        with torch.no_grad():  # of the parameter: a limit of its exponential would have no gradient beyond it
            log_scale.clamp_(max=math.log(STEEPEST))
    return log_scale.exp()


def log_share_of_own(logits_UB: Tensor, is_own_UB: Tensor) -> Tensor:
    """Return for each of U targets the mean log-probability of its own rows among all, shape (U,)."""
    return logits_UB.log_softmax(1).masked_fill(~is_own_UB, 0).sum(1) / is_own_UB.sum(1)


def sigmoid_losses(logits_BU: Tensor, is_own_BU: Tensor) -> Tensor:
    """Return the loss of each pair, shape (B, U), which are told apart each by itself."""
    return -F.logsigmoid(torch.where(is_own_BU, logits_BU, -logits_BU))
