"""Late fusion: each modality's mean token, side by side, through a small network.

Legend: B rows, N tokens, D width, H hidden width, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import Fusion, at_least_1
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
        at_least_1(hidden=hidden)
        self.hidden = hidden
        self.absent_MD = nn.Parameter(torch.zeros(len(self.modalities), width))
        self.network = nn.Sequential(
            nn.Linear(len(self.modalities) * width, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )
        self.added = nn.ModuleDict()

    def add(self, modality: str) -> None:
        """Add a modality's share of the first layer; it begins with nothing."""
        self.added[modality] = nn.Linear(self.width, self.hidden)
        for parameter in self.added[modality].parameters():
            nn.init.zeros_(parameter)

    @torch.no_grad()
    def imitate(self, modality: str, like: str) -> None:
        """Copy the other's share; a row that has this one and lacks the other is read as if it had that."""
        layer: nn.Linear = self.added[modality]  # type: ignore[assignment]
        if like in self.added:
            layer.load_state_dict(self.added[like].state_dict())
            return
        place = self.modalities.index(like)
        whole_HD: Tensor = self.network[0].weight  # type: ignore[assignment]
        layer.weight.copy_(whole_HD.chunk(len(self.modalities), dim=1)[place])
        layer.bias.copy_(-layer.weight @ self.absent_MD[place])

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to one workspace token, shape (B, 1, D)."""
        means = [
            _or_else(tokens[modality], tokens[modality].mean(), absent_D)
            for modality, absent_D in zip(self.modalities, self.absent_MD, strict=True)
        ]
        hidden_BH = self.network[0](torch.cat(means, dim=-1))
        for modality in self.joined:
            if modality in tokens:
                own_BH = self.added[modality](tokens[modality].mean())
                hidden_BH = hidden_BH + _or_else(tokens[modality], own_BH, own_BH.new_zeros(()))
        fused_BD: Tensor = self.network[1:](hidden_BH)
        return fused_BD.unsqueeze(1)


def _or_else(tokens: ExpertTokens, values_BD: Tensor, absent: Tensor) -> Tensor:
    return torch.where(tokens.mask_BN.any(1, keepdim=True), values_BD, absent)
