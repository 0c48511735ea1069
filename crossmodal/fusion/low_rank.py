"""Low-rank tensor fusion: modalities multiply.

After Liu, Shen, Lakshminarasimhan, Liang, Zadeh and Morency, Efficient Low-rank Multimodal Fusion with
Modality-Specific Factors (ACL 2018, arXiv 1806.00064): h = Σ_r Π_m W_m^r [x_m; 1] is a linear map of the outer product
of all [x_m; 1], which is never built.

Legend: B rows, R rank, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import Fusion, at_least_1
from experts.base import ExpertTokens


class LowRankFusion(Fusion):
    """Product of what each modality's factor makes of its mean token, summed over ranks.

    The factor of a modality that a row lacks is 1. So is each factor's bias where training begins: a product of many
    neither vanishes nor explodes.

    Args:
        modalities: Their names.
        width: D.
        rank: R.

    Raises:
        ValueError: The rank is below 1.
    """

    def __init__(self, modalities: Sequence[str], *, width: int = 128, rank: int = 4) -> None:
        super().__init__(modalities, width=width)
        at_least_1(rank=rank)
        self.rank = rank
        self.factors = nn.ModuleDict({modality: self._factor() for modality in self.modalities})

    def _factor(self) -> nn.Linear:
        factor = nn.Linear(self.width, self.rank * self.width)
        nn.init.ones_(factor.bias)
        return factor

    def add(self, modality: str) -> None:
        """Add a modality's factor; it begins as 1."""
        self.factors[modality] = factor = self._factor()
        nn.init.zeros_(factor.weight)

    def imitate(self, modality: str, like: str) -> None:
        """Copy the other's factor; a row that has this one and lacks the other is read as if it had that."""
        self.factors[modality].load_state_dict(self.factors[like].state_dict())

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to one workspace token, shape (B, 1, D)."""
        factors = [
            torch.where(tokens[modality].mask_BN.any(1, keepdim=True), factor(tokens[modality].mean()), 1.0)
            for modality, factor in self.factors.items()
            if modality in tokens
        ]
        product_BRD = reduce(torch.mul, factors).view(-1, self.rank, self.width)
        return product_BRD.sum(1, keepdim=True)
