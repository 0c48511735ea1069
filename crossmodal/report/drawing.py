"""What a report draws: rows of a batch, and noise on what experts say.

Legend: U distinct inputs, N tokens, D width, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from datamodules.batch import PairedBatch
from experts.base import ExpertTokens

NOISE = (0.0, 0.5, 1.0, 2.0, 4.0)  # in deviations of the tokens


class Drawn:
    """What is drawn, apart from all else: rows, and noise on tokens, of a size that is the same for all batches."""

    def __init__(self, seed: int) -> None:
        self._draw = torch.Generator().manual_seed(seed)
        self._moments: dict[str, Tensor] = {}  # how many tokens, their sum, and that of their squares

    def rows(self, batch: PairedBatch, share: float) -> Tensor:
        """Return the numbers of a share of a batch's rows, in order."""
        if share >= 1:
            return torch.arange(len(batch))
        return (torch.rand(len(batch), generator=self._draw) < share).nonzero().flatten()

    def noisy(self, modality: str, tokens: ExpertTokens) -> Iterator[tuple[float, ExpertTokens]]:
        """Yield each strength of noise, in units of the deviation of all tokens until then, and the tokens with it."""
        own_UND = tokens.tokens_BND.float()
        known_ND = own_UND[tokens.mask_BN].double()
        known_ND = known_ND[known_ND.isfinite().all(1)]
        moments_3D = torch.stack([torch.ones_like(known_ND), known_ND, known_ND**2]).sum(1)
        self._moments[modality] = moments_3D = moments_3D + self._moments.get(modality, 0.0)
        count_D, sum_D, squares_D = moments_3D
        if not count_D.numel() or count_D[0] < 2:
            return  # of one token nobody knows how much is much
        deviation_D = (squares_D / count_D - (sum_D / count_D) ** 2).clamp_min(0).sqrt().float()
        for strength in NOISE[1:]:
            drawn_UND = torch.randn(own_UND.shape, generator=self._draw).to(own_UND.device)
            noisy_UND = own_UND + strength * deviation_D * drawn_UND
            yield strength, ExpertTokens(noisy_UND.to(tokens.tokens_BND.dtype), tokens.mask_BN)
