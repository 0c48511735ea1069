"""The Perceiver: a few latents read the tokens of all modalities by cross-attention, again and again.

After Jaegle et al., Perceiver: General Perception with Iterative Attention (ICML 2021, arXiv 2103.03206).

Legend: B rows, N tokens of all modalities together (and a null token), L latents, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import at_least_1
from crossmodal.fusion.layers import TransformerLayer
from crossmodal.fusion.tokens import TokenFusion
from experts.base import ExpertTokens


class PerceiverFusion(TokenFusion):
    """Learned latents; each round they read all tokens by cross-attention, then go through a latent transformer.

    Args:
        modalities: Their names.
        width: D.
        slots: L.
        rounds: How often the tokens are read.
        layers: Of the latent transformer that follows each reading.
        share_weights: All rounds have the same latent transformer, and all but the first the same cross-attention.
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
        slots: int = 8,
        rounds: int = 2,
        layers: int = 1,
        share_weights: bool = True,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(modalities, width=width)
        at_least_1(slots=slots, rounds=rounds, layers=layers)

        def stack(count: int) -> nn.ModuleList:
            return nn.ModuleList(TransformerLayer(width, num_heads=num_heads, dropout=dropout) for _ in range(count))

        self.rounds = rounds
        self.latents_LD = nn.Parameter(nn.init.trunc_normal_(torch.empty(slots, width), std=0.02))
        self.readings = stack(min(rounds, 2) if share_weights else rounds)
        self.transformers = nn.ModuleList(stack(layers) for _ in range(1 if share_weights else rounds))

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to the latents after the last round, shape (B, L, D)."""
        tokens_BND, mask_BN = self.all_tokens(tokens)
        latents_BLD = self.latents_LD.expand(len(tokens_BND), -1, -1)
        for number in range(self.rounds):  # with fewer weights than rounds the last ones serve the rest
            latents_BLD = self.readings[min(number, len(self.readings) - 1)](latents_BLD, tokens_BND, mask_BN)
            for layer in self.transformers[min(number, len(self.transformers) - 1)]:  # type: ignore[attr-defined]
                latents_BLD = layer(latents_BLD, latents_BLD)
        return latents_BLD
