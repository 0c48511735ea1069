"""MMPareto: the gradients of unimodal and multimodal losses, so combined that neither works against the other.

After Wei and Hu, MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance (ICML 2024,
arXiv 2405.17730).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossmodal.balance.base import Alone, Balance

STATIONARY = 1e-6  # so small, as a share of the sum, the combination is rounding, and points nowhere


class MMPareto(Balance):
    """Combines, for each modality, the gradient of its unimodal loss with that of all other losses.

    Where they conflict, by the combination of the least norm, which descends both; it is then made as long as their
    sum. There need not be `UnimodalLosses` beside it: without, the unimodal losses have a weight of 1.

    Args:
        modalities: Their names.
        gamma: What the result is multiplied by.

    Raises:
        ValueError: Gamma is not above 0.
    """

    def __init__(self, modalities: Sequence[str], *, gamma: float = 1.5) -> None:
        super().__init__(modalities)
        if gamma <= 0:
            raise ValueError(f"model.balance: gamma must be above 0, not {gamma}")
        self.gamma = gamma
        self._unimodal: dict[str, list[Tensor]] = {}

    def before_backward(self, alone: Alone) -> None:
        """Keep the gradients of the unimodal losses, all of them by one pass: they share no parameters."""
        parameters = [parameter for name in alone.losses for parameter in alone.parameters[name]]
        loss = torch.stack(list(alone.losses.values())).sum()
        gradients = iter(
            torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
        )
        self._unimodal = {name: [next(gradients) for _ in alone.parameters[name]] for name in alone.losses}

    @torch.no_grad()
    def after_backward(self, alone: Alone, epoch: int) -> dict[str, Tensor]:
        """Combine them with the rest; return how much the multimodal gradient counts: 1 where there is no conflict."""
        weights = {}
        for name, gradients in self._unimodal.items():
            pairs = zip(alone.parameters[name], gradients, strict=True)
            reached = [(whole, own) for one, own in pairs if (whole := one.grad) is not None]
            unimodal = [own for _, own in reached]
            combined, weights[name] = combine([whole - own for whole, own in reached], unimodal, self.gamma)
            for (whole, _), gradient in zip(reached, combined, strict=True):
                whole.copy_(gradient)
        self._unimodal = {}
        return weights

    def refuse(self, *, accumulates: bool, precision: str, devices: int) -> None:
        """Refuse several batches a step, several devices, and a loss that is scaled."""
        super().refuse(accumulates=accumulates, precision=precision, devices=devices)
        if precision == "16-mixed":
            raise ValueError(
                "model.balance: MMPareto compares gradients of losses, one of which trainer.precision 16-mixed scales: "
                "use bf16-mixed or 32-true"
            )


def combine(multimodal: Sequence[Tensor], unimodal: Sequence[Tensor], gamma: float) -> tuple[list[Tensor], Tensor]:
    """Return the gradient to descend, and twice the weight of the multimodal one in it.

    Args:
        multimodal: Gradient of the multimodal loss, by parameter.
        unimodal: Gradient of the unimodal loss, by parameter.
        gamma: What the result is multiplied by.
    """
    mm, mu, uu = (
        torch.stack([(one.float() * other.float()).sum() for one, other in zip(first, second, strict=True)]).sum()
        for first, second in ((multimodal, multimodal), (multimodal, unimodal), (unimodal, unimodal))
    )
    # of two gradients in conflict the least norm lies between them (Sener and Koltun 2018, arXiv 1810.04650)
    weight = torch.where(mu < 0, 2 * (uu - mu) / (mm + uu - 2 * mu), 1.0)
    directed = [
        weight.to(of_all.dtype) * of_all + (2 - weight).to(of_all.dtype) * own
        for of_all, own in zip(multimodal, unimodal, strict=True)
    ]
    norm = torch.stack([one.float().square().sum() for one in directed]).sum().sqrt()  # of what rounding has left
    of_sum = (mm + uu + 2 * mu).clamp_min(0).sqrt()
    scale = gamma * torch.where(norm > STATIONARY * (mm + uu).sqrt(), (of_sum / norm).clamp_min(1), 0.0)
    return [scale.to(one.dtype) * one for one in directed], weight
