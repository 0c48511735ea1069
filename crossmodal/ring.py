"""The sigmoid loss over the targets of all devices, which pass them on in a ring.

After Zhai et al., Sigmoid Loss for Language Image Pre-Training (ICCV 2023, arXiv 2303.15343, section 3.3): no device
ever holds more than its own rows and the targets of one device, nor their similarities to more.

Legend: B rows, U targets of this device, M the most that a device has, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from crossmodal.contrast import sigmoid_losses
from crossmodal.peers import most_of_all, num_devices, passed_on

NO_INPUT = -1  # the place of what only fills up a chunk


class RingLoss(torch.autograd.Function):
    """The sum of the losses of this device's rows with the targets of all other devices. Every device has to call it.

    The way back goes round once more, and computes the similarities anew: they are not kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        source_BD: Tensor,
        target_UD: Tensor,
        scale: Tensor,
        bias: Tensor,
        own_ids_B: Tensor,
        ids_U: Tensor,
        known_ids: Tensor,
    ) -> Tensor:
        """Return the sum.

        Args:
            ctx: Of the way back.
            source_BD: Unit vectors.
            target_UD: Unit vectors, which are passed on.
            scale: What similarities are multiplied by.
            bias: What is added then.
            own_ids_B: The id of each row's own target.
            ids_U: Of the targets.
            known_ids: Of candidates that are counted already; none is counted twice.
        """
        ctx.save_for_backward(source_BD, target_UD, scale, bias, own_ids_B, ids_U, known_ids)
        chunk_MD, ids_M = _filled_up(target_UD, ids_U)
        loss = source_BD.new_zeros(())
        for _ in range(num_devices() - 1):
            chunk_MD, ids_M = passed_on(chunk_MD), passed_on(ids_M)
            loss += _loss(source_BD, chunk_MD, scale, bias, own_ids_B, ids_M, known_ids)
            known_ids = torch.cat([known_ids, ids_M])
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Let each chunk gather its gradients on its way round."""
        source_BD, target_UD, scale, bias, own_ids_B, ids_U, known_ids = ctx.saved_tensors
        chunk_MD, ids_M = _filled_up(target_UD, ids_U)
        to_chunk_MD = torch.zeros_like(chunk_MD)
        of_device = [torch.zeros_like(one) for one in (source_BD, scale, bias)]
        for _ in range(num_devices() - 1):
            chunk_MD, ids_M, to_chunk_MD = passed_on(chunk_MD), passed_on(ids_M), passed_on(to_chunk_MD)
            with torch.enable_grad():
                leaves = [one.detach().requires_grad_() for one in (source_BD, scale, bias, chunk_MD)]
                loss = _loss(leaves[0], leaves[3], leaves[1], leaves[2], own_ids_B, ids_M, known_ids)
                *found, found_MD = torch.autograd.grad(loss, leaves, gradient.to(loss.dtype))
            for known, more in zip(of_device, found, strict=True):
                known += more
            to_chunk_MD = to_chunk_MD + found_MD
            known_ids = torch.cat([known_ids, ids_M])
        to_source_BD, to_scale, to_bias = of_device
        return to_source_BD, passed_on(to_chunk_MD)[: len(target_UD)], to_scale, to_bias, None, None, None


def _filled_up(target_UD: Tensor, ids_U: Tensor) -> tuple[Tensor, Tensor]:
    missing = most_of_all(target_UD) - len(target_UD)
    return F.pad(target_UD, (0, 0, 0, missing)), F.pad(ids_U, (0, missing), value=NO_INPUT)


def _loss(
    source_BD: Tensor,
    chunk_MD: Tensor,
    scale: Tensor,
    bias: Tensor,
    own_ids_B: Tensor,
    ids_M: Tensor,
    known_ids: Tensor,
) -> Tensor:
    with torch.autocast(source_BD.device.type, enabled=False):  # which the way back would not have
        logits_BM = scale * source_BD @ chunk_MD.T + bias
        losses_BM = sigmoid_losses(logits_BM, ids_M == own_ids_B.unsqueeze(1))
    counts_M = (ids_M != NO_INPUT) & ~torch.isin(ids_M, known_ids)
    return losses_BM.masked_fill(~counts_M, 0).sum()
