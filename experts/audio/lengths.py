"""Sounds of unequal lengths through one network, such that none depends on the others of its batch.

Legend: U inputs, T times of the input (samples or frames), X any further axes, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from experts.base import ExpertTokens

# kernel and stride of each, none of them padded
Convolutions = Sequence[tuple[int, int]]
# from inputs of shape (U, T, *X), and their lengths unless all are whole, to hidden states of shape (U, N, D)
Run = Callable[[Tensor, Tensor | None], Tensor]


def receptive_field(convolutions: Convolutions) -> int:
    """Return how many times of the input a first output needs."""
    field = 1
    for kernel, stride in reversed(convolutions):
        field = (field - 1) * stride + kernel
    return field


def num_outputs(lengths_U: Tensor, convolutions: Convolutions) -> Tensor:
    """Return how many outputs inputs of these lengths have."""
    for kernel, stride in convolutions:
        lengths_U = (lengths_U - kernel).div(stride, rounding_mode="floor") + 1
    return lengths_U


def masks_suffice(run: Run, convolutions: Convolutions) -> bool:
    """Try whether a network that is told the lengths gives a short sound the same beside a longer one as alone.

    Normalisation over time, or convolutions after the first that are not masked, let padding in: seen at once, as what
    leaks does so at a sound's end.

    Args:
        run: In eval mode, with samples as inputs.
        convolutions: Whose outputs the hidden states are.
    """
    # 5 outputs and 13, a part of one left over
    lengths_U = receptive_field(convolutions) + prod(stride for _, stride in convolutions) * torch.tensor([4, 12]) + 1
    inputs_UT = torch.randn(2, int(lengths_U[1]), generator=torch.Generator().manual_seed(0))
    inputs_UT[0, lengths_U[0] :] = 0
    with torch.no_grad():
        together_UND = run(inputs_UT, lengths_U)
        alone_ND = run(inputs_UT[:1, : lengths_U[0]], None)[0]
    if [len(alone_ND), together_UND.shape[1]] != num_outputs(lengths_U, convolutions).tolist():
        return False
    error = (together_UND[0, : len(alone_ND)] - alone_ND).abs().max()
    return bool(error <= 1e-5 * alone_ND.abs().max())


def by_length(run: Run, inputs_UTX: Tensor, lengths_U: Tensor) -> tuple[Tensor, Tensor]:
    """Run a network on inputs of equal length at a time, which is exact whatever it does.

    Returns:
        Hidden states of shape (U, N, D), zero behind each input's own, and how many are its own, of shape (U,).
    """
    groups, order = [], []
    for length in sorted(set(lengths_U.tolist())):
        rows_G = (lengths_U == length).nonzero().squeeze(1)
        groups.append(run(inputs_UTX[rows_G, :length], None))
        order.append(rows_G)
    most = max(group.shape[1] for group in groups)
    hidden_UND = torch.cat([F.pad(group, (0, 0, 0, most - group.shape[1])) for group in groups])
    num_tokens_U = torch.cat([lengths_U.new_full((len(group),), group.shape[1]) for group in groups])
    places_U = torch.cat(order).argsort()
    return hidden_UND[places_U], num_tokens_U[places_U]


def zero_padding(hidden_UND: Tensor, mask_UN: Tensor) -> Tensor:
    """Set what is not real to zero."""
    return hidden_UND.masked_fill(~mask_UN.unsqueeze(-1), 0)


def mask_of(num_tokens_U: Tensor, most: int) -> Tensor:
    """Return a mask of shape (U, N), true for each input's own tokens."""
    return torch.arange(most, device=num_tokens_U.device) < num_tokens_U.unsqueeze(1)


def as_tokens(hidden_UND: Tensor, mask_UN: Tensor, tokens: Literal["mean", "all"]) -> ExpertTokens:
    """Return all hidden states as tokens, those that are not real zero, or the mean of the real ones."""
    everything = ExpertTokens(zero_padding(hidden_UND, mask_UN), mask_UN)
    if tokens == "all":
        return everything
    return ExpertTokens(everything.mean().unsqueeze(1), mask_UN.any(1, keepdim=True))
