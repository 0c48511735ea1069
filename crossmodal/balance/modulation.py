"""OGM-GE: the gradients of modalities that are ahead of the others are scaled down.

After Peng et al., Balanced Multimodal Learning via On-the-fly Gradient Modulation (CVPR 2022, arXiv 2203.15332), for
any number of modalities, of which rows may lack some.

Legend: B rows, E modalities.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from crossmodal.balance.base import Alone, Balance
from crossmodal.mixture import mean_of_others

LEAST = 1e-8  # as in the paper's code: added to the deviation of the noise; and the least score that divides


class GradientModulation(Balance):
    """Scales the gradients of a modality that is ahead by 1 - tanh(alpha * ratio), where its ratio is above 1.

    The ratio is the likelihood that it gives the true answer, over the mean of the others', by its own small network.

    Args:
        modalities: Their names.
        alpha: How strongly.
        noise: Whether Gaussian noise of each gradient's deviation is added (GE), for all modalities.
        first_epoch: From which on, counted from 0.
        last_epoch: Until which; null for all.

    Raises:
        ValueError: A number is out of range.
    """

    trains_modalities = False

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        alpha: float = 0.5,
        noise: bool = False,
        first_epoch: int = 0,
        last_epoch: int | None = None,
    ) -> None:
        super().__init__(modalities)
        if alpha <= 0:
            raise ValueError(f"model.balance: alpha must be above 0, not {alpha}")
        if first_epoch < 0 or (last_epoch is not None and last_epoch < first_epoch):
            raise ValueError(
                f"model.balance: first_epoch ({first_epoch}) must be at least 0, last_epoch ({last_epoch}) not earlier"
            )
        self.alpha = alpha
        self.noise = noise
        self.first_epoch = first_epoch
        self.last_epoch = last_epoch

    def after_backward(self, alone: Alone, epoch: int) -> dict[str, Tensor]:
        """Scale the gradients; return the factors."""
        factors_E = factors(ratios(alone.likelihoods_BE, alone.present_BE), self.alpha)
        if epoch < self.first_epoch or (self.last_epoch is not None and epoch > self.last_epoch):
            return dict(zip(self.modalities, torch.ones_like(factors_E), strict=True))
        by_name = dict(zip(self.modalities, factors_E, strict=True))
        for name, factor in by_name.items():
            modulate(alone.parameters[name], factor, noise=self.noise)
        return by_name


def ratios(scores_BE: Tensor, present_BE: Tensor) -> Tensor:
    """Return each modality's scores over the mean of the others', shape (E,); 1 where there is nothing to compare.

    Args:
        scores_BE: Of the true answer, 0 to 1.
        present_BE: Whether the row has the modality; rows that have it and another count.
    """
    scores_BE = scores_BE.masked_fill(~present_BE, 0)
    counts_BE = present_BE & (present_BE.sum(1, keepdim=True) > 1)
    others_BE = mean_of_others(scores_BE.unsqueeze(-1), present_BE).squeeze(-1)
    own_E, others_E = (one_BE.masked_fill(~counts_BE, 0).sum(0) for one_BE in (scores_BE, others_BE))
    return torch.where(counts_BE.any(0), own_E / others_E.clamp_min(LEAST), 1.0)


def factors(ratios_E: Tensor, alpha: float) -> Tensor:
    """Return by how much gradients are scaled, shape (E,): equation 10 of the paper."""
    return torch.where(ratios_E > 1, 1 - torch.tanh(alpha * ratios_E), 1.0)


@torch.no_grad()
def modulate(parameters: Iterable[nn.Parameter], factor: Tensor, *, noise: bool) -> None:
    """Scale gradients in place, and add noise of the deviation that each had before."""
    for parameter in parameters:
        if (gradient := parameter.grad) is None:
            continue
        deviation = gradient.std() if noise and gradient.numel() > 1 else None  # one number has none
        gradient.mul_(factor.to(gradient.dtype))
        if deviation is not None:
            gradient.add_(torch.randn_like(gradient) * (deviation + LEAST))
