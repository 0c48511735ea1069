"""A shared global workspace: experts compete to write into a few slots, which are broadcast back to them.

After Goyal et al., Coordination Among Neural Modules Through a Shared Global Workspace (ICLR 2022,
arXiv 2103.01197).

Legend: B rows, N tokens of all modalities together (and a null token), L slots, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import at_least_1
from crossmodal.fusion.layers import TransformerLayer
from crossmodal.fusion.tokens import TokenFusion
from experts.base import ExpertTokens


class WorkspaceFusion(TokenFusion):
    """Learned slots; tokens compete to write by top-k cross-attention; slots are broadcast back.

    Args:
        modalities: Their names.
        width: D.
        slots: L.
        rounds: How often it is written and broadcast.
        top_k: How many tokens may write to a slot; 0 lets all write.
        goal: A modality, such as a question, whose mean token is added to the slots at the start, so that it decides
            what is written from the first round on; a row without it begins with the slots alone.
        share_weights: All rounds have the same weights, as in the paper.
        sharpness: Factor of the weights that queries and keys begin with: at 1 attention is nearly even at first, above
            that it chooses from the start, whatever it chooses.
        gain: Factor of the other weights that attention and feed-forward layers begin with. At 1 they are PyTorch's,
            which pass on a third of the variance: what one round finds is faint in the next, and fainter after it. At
            1.7, the root of 3, they keep it.
        num_heads: H of all attention.
        dropout: In the feed-forward layers.

    Raises:
        ValueError: The width is not a multiple of the number of heads, a count, the sharpness or the gain is too small,
            or the goal is no modality.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        width: int = 128,
        slots: int = 4,
        rounds: int = 2,
        top_k: int = 4,
        goal: str | None = None,
        share_weights: bool = True,
        sharpness: float = 1.0,
        gain: float = 1.0,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(modalities, width=width)
        at_least_1(slots=slots, rounds=rounds)
        if top_k < 0:
            raise ValueError(f"top_k must be at least 0, not {top_k}")
        if goal is not None and goal not in self.modalities:
            raise ValueError(f"goal: there is no modality {goal!r}; there are {', '.join(self.modalities)}")
        for name, factor in {"sharpness": sharpness, "gain": gain}.items():
            if factor <= 0:
                raise ValueError(f"{name} must be above 0, not {factor}")
        self.rounds = rounds
        self.goal = goal
        self.goal_shares = nn.ParameterDict()  # how far a modality that joins is a goal, too
        self.slots_LD = nn.Parameter(torch.randn(slots, width) / width**0.5)
        self.write = TransformerLayer(width, num_heads=num_heads, top_k=top_k, dropout=dropout)
        self.broadcast = TransformerLayer(width, num_heads=num_heads, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        # the first round keeps its names, and one of shared weights is all that there is
        later = 0 if share_weights else rounds - 1
        self.later_writes = nn.ModuleList(
            TransformerLayer(width, num_heads=num_heads, top_k=top_k, dropout=dropout) for _ in range(later)
        )
        self.later_broadcasts = nn.ModuleList(
            TransformerLayer(width, num_heads=num_heads, dropout=dropout) for _ in range(later - 1)
        )
        for layer in (self.write, self.broadcast, *self.later_writes, *self.later_broadcasts):
            layer.attention.sharpen(sharpness)
            layer.amplify(gain)

    def add(self, modality: str) -> None:
        """Add what tells a modality's tokens from others, and how far it is a goal: not at all, at first."""
        super().add(modality)
        if self.goal is not None:
            self.goal_shares[modality] = nn.Parameter(torch.zeros(()))

    @torch.no_grad()
    def imitate(self, modality: str, like: str) -> None:
        """Let the tokens of a modality be those of another, and be a goal if that is one."""
        super().imitate(modality, like)
        if self.goal is not None:
            self.goal_shares[modality].fill_(float(self.goal_shares.get(like, like == self.goal)))

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to the slots after the last round, shape (B, L, D)."""
        tokens_BND, mask_BN = self.all_tokens(tokens)
        slots_BLD = self.slots_LD.expand(len(tokens_BND), -1, -1)
        if self.goal is not None:
            slots_BLD = slots_BLD + tokens[self.goal].mean().unsqueeze(1)
            for modality in sorted(self.goal_shares.keys() & tokens.keys()):
                slots_BLD = slots_BLD + self.goal_shares[modality] * tokens[modality].mean().unsqueeze(1)
        writes, broadcasts = [self.write, *self.later_writes], [self.broadcast, *self.later_broadcasts]
        for number in range(self.rounds):  # where weights are shared, those of the first round serve all
            slots_BLD = writes[number % len(writes)](slots_BLD, tokens_BND, mask_BN)
            if number + 1 < self.rounds:
                tokens_BND = broadcasts[number % len(broadcasts)](tokens_BND, slots_BLD)
        normed_BLD: Tensor = self.norm(slots_BLD)
        return normed_BLD
