"""Late fusion: each modality's mean token, side by side, through a small network.

Legend: B rows, N tokens, D width, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import Fusion
from experts.base import ExpertTokens


class ConcatFusion(Fusion):
    """Late fusion: mean tokens side by side, then a two-layer network.

    Args:
        modalities: Their names.
        width: D.
        hidden: Width of the hidden layer.
        dropout: In the hidden layer.
    """

    def __init__(self, modalities: Sequence[str], *, width: int = 128, hidden: int = 256, dropout: float = 0.1) -> None:
        super().__init__(modalities, width=width)
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1, not {hidden}")
        self.absent_MD = nn.Parameter(torch.zeros(len(self.modalities), width))
        self.network = nn.Sequential(
            nn.Linear(len(self.modalities) * width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to one workspace token, shape (B, 1, D)."""
        means = [
            _mean_or(tokens[modality], absent_D)
            for modality, absent_D in zip(self.modalities, self.absent_MD, strict=True)
        ]
        fused_BD: Tensor = self.network(torch.cat(means, dim=-1))
        return fused_BD.unsqueeze(1)


def _mean_or(tokens: ExpertTokens, absent_D: Tensor) -> Tensor:
    return torch.where(tokens.mask_BN.any(1, keepdim=True), tokens.mean(), absent_D)
