"""Hierarchical fusion: each modality, then each pair of them, then all.

After Majumder, Hazarika, Gelbukh, Cambria and Poria, Multimodal Sentiment Analysis using Hierarchical Fusion with
Context Modeling (Knowledge-Based Systems 161, 2018, arXiv 1806.06228). As there, a pair is tanh(w_1 x_1 + w_2 x_2 + b),
channel by channel, and all together are tanh(Σ w_p x_p + b) over the pairs p. There, the context of an utterance is the
conversation, which a recurrent network reads at each level. Here, the context is the row's tokens of the modalities in
question, which have no order: attention reads them.

Legend: B rows, N tokens, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.layers import TransformerLayer
from crossmodal.fusion.tokens import TokenFusion
from experts.base import ExpertTokens


class HierarchicalFusion(TokenFusion):
    """Pairs of modalities first, then all; at each level, a summary takes in the tokens that it is of.

    A pair counts in rows that have both. Of a row with fewer than two modalities, the last level reads the tokens.

    Args:
        modalities: Their names.
        width: D.
        num_heads: H of all attention.
        dropout: In the feed-forward layers.

    Raises:
        ValueError: The width is not a multiple of the number of heads.
    """

    def __init__(
        self, modalities: Sequence[str], *, width: int = 128, num_heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__(modalities, width=width)
        self.single, self.pair, self.whole = (
            TransformerLayer(width, num_heads=num_heads, dropout=dropout) for _ in range(3)
        )
        self.bias_D = nn.Parameter(torch.zeros(width))
        pairs = list(itertools.combinations(self.modalities, 2))
        self.pairs_4D = nn.ParameterDict({_key(*pair): self._new_pair(len(pairs) ** -0.5) for pair in pairs})

    def _new_pair(self, share: float) -> nn.Parameter:
        """Return what weighs the first, what weighs the second, the bias, and the pair's weight among all."""
        scale_41 = torch.tensor([[0.5**0.5], [0.5**0.5], [0.0], [share]])
        return nn.Parameter(scale_41 * torch.randn(4, self.width))

    def add(self, modality: str) -> None:
        """Add the pairs of a modality with each other one; they begin without weight among all."""
        super().add(modality)
        for other in (*self.modalities, *self.joined):
            key = _key(other, modality)
            self.pairs_4D[key] = self._new_pair(0.0)
            if other in self.joined:  # what two share goes with either
                self.joined[other].add(f"pairs_4D.{key}")

    @torch.no_grad()
    def imitate(self, modality: str, like: str) -> None:
        """Copy the other's embedding and pairs; who has this one and lacks the other is read alike."""
        super().imitate(modality, like)
        names = (*self.modalities, *self.joined)
        for pair in itertools.combinations(names, 2):
            if modality in pair and like not in pair:
                first, second = (like if name == modality else name for name in pair)
                in_order = names.index(first) < names.index(second)
                theirs_4D = self.pairs_4D[_key(first, second) if in_order else _key(second, first)]
                self.pairs_4D[_key(*pair)].copy_(theirs_4D if in_order else theirs_4D[[1, 0, 2, 3]])

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to one workspace token, shape (B, 1, D)."""
        there = [modality for modality in (*self.modalities, *self.joined) if modality in tokens]
        singles = {
            modality: self.single(tokens[modality].mean().unsqueeze(1), *self.all_tokens({modality: tokens[modality]}))
            for modality in there
        }
        whole_B1D = self.bias_D.expand(len(tokens[there[0]]), 1, -1)
        for first, second in itertools.combinations(there, 2):
            both = {first: tokens[first], second: tokens[second]}
            first_D, second_D, bias_D, share_D = self.pairs_4D[_key(first, second)]
            pair_B1D = torch.tanh(first_D * singles[first] + second_D * singles[second] + bias_D)
            read_B1D = self.pair(pair_B1D, *self.all_tokens(both))
            has_both_B = tokens[first].mask_BN.any(1) & tokens[second].mask_BN.any(1)
            whole_B1D = whole_B1D + torch.where(has_both_B[:, None, None], share_D * read_B1D, 0.0)
        fused_B1D: Tensor = self.whole(whole_B1D.tanh(), *self.all_tokens(tokens))
        return fused_B1D


def _key(first: str, second: str) -> str:
    return f"{first}+{second}"
