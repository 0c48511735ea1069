"""Attention bottlenecks: modalities learn of each other only through a few tokens that all of them attend to.

After Nagrani et al., Attention Bottlenecks for Multimodal Fusion (NeurIPS 2021, arXiv 2107.00135). All layers fuse:
those of the paper that come before and see one modality each are the experts here.

Legend: B rows, N tokens of one modality (with the bottleneck: L + N), L bottleneck tokens, D width, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import Fusion, at_least_1
from crossmodal.fusion.layers import TransformerLayer
from experts.base import ExpertTokens


class BottleneckFusion(Fusion):
    """Each modality's transformer reads its tokens and the bottleneck, whose mean over the modalities is the next.

    The mean is over the modalities that a row has. A row without any has the bottleneck as it was learned. A modality
    that joins counts as much as each other.

    Args:
        modalities: Their names.
        width: D.
        slots: L.
        layers: Of each modality's transformer.
        num_heads: H of all attention.
        dropout: In the feed-forward layers.

    Raises:
        ValueError: The width is not a multiple of the number of heads, or a count is too small.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        width: int = 128,
        slots: int = 4,
        layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(modalities, width=width)
        at_least_1(slots=slots, layers=layers)
        self.num_layers = layers
        self.num_heads = num_heads
        self.dropout = dropout
        self.bottleneck_LD = nn.Parameter(0.02 * torch.randn(slots, width))
        self.transformers = nn.ModuleDict()
        for modality in self.modalities:
            self.add(modality)

    def add(self, modality: str) -> None:
        """Add a modality's transformer."""
        self.transformers[modality] = nn.ModuleList(
            TransformerLayer(self.width, num_heads=self.num_heads, dropout=self.dropout) for _ in range(self.num_layers)
        )

    def imitate(self, modality: str, like: str) -> None:
        """Copy the other's transformer."""
        self.transformers[modality].load_state_dict(self.transformers[like].state_dict())

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to the bottleneck after the last layer, shape (B, L, D)."""
        there = {modality: tokens[modality] for modality in self.transformers if modality in tokens}
        # attention gives what is masked a weight of zero; zero times NaN would still be NaN
        own = {name: one.tokens_BND.masked_fill(~one.mask_BN.unsqueeze(-1), 0) for name, one in there.items()}
        present_BM = torch.stack([one.mask_BN.any(1) for one in there.values()], dim=1)
        slots = len(self.bottleneck_LD)
        bottleneck_BLD = self.bottleneck_LD.expand(len(present_BM), -1, -1)
        for number in range(self.num_layers):
            said = []
            for modality, tokens_BND in own.items():
                both_BND = torch.cat([bottleneck_BLD, tokens_BND], dim=1)
                mask_BN = nn.functional.pad(there[modality].mask_BN, (slots, 0), value=True)
                readers_BND = both_BND if number + 1 < self.num_layers else bottleneck_BLD  # no more is read of tokens
                layer: TransformerLayer = self.transformers[modality][number]  # type: ignore[index]
                read_BND = layer(readers_BND, both_BND, mask_BN)
                said.append(read_BND[:, :slots].flatten(1))
                own[modality] = read_BND[:, slots:]
            mean_BLD = ExpertTokens(torch.stack(said, dim=1), present_BM).mean().view_as(bottleneck_BLD)
            bottleneck_BLD = torch.where(present_BM.any(1)[:, None, None], mean_BLD, bottleneck_BLD)
        return bottleneck_BLD
