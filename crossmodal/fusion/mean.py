"""The plainest fusion: the mean of what the modalities say, and nothing that is learned.

Legend: B rows, D width, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crossmodal.fusion.base import Fusion
from experts.base import ExpertTokens


class MeanFusion(Fusion):
    """The mean of the modalities' mean tokens, of those that a row has; zeros where it has none.

    It has no parameters: the model's projections tell modalities apart, and a head reads the mean through one linear
    layer. That makes it the read-out of a linear probe, and the quickest to train for an expert alone.

    Args:
        modalities: Their names.
        width: D.
    """

    def __init__(self, modalities: Sequence[str], *, width: int = 128) -> None:
        super().__init__(modalities, width=width)

    def add(self, modality: str) -> None:
        """Add nothing: its projection is all that a modality has of its own."""

    def imitate(self, modality: str, like: str) -> None:
        """Do nothing: all modalities are read alike."""

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to one workspace token, shape (B, 1, D)."""
        there = [tokens[modality] for modality in (*self.modalities, *self.joined) if modality in tokens]
        means_BMD = torch.stack([one.mean() for one in there], dim=1)
        present_BM = torch.stack([one.mask_BN.any(1) for one in there], dim=1)
        return ExpertTokens(means_BMD, present_BM).mean().unsqueeze(1)
