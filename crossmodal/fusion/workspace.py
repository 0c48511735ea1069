"""A shared global workspace: experts compete to write into a few slots, which are broadcast back to them.

After Goyal et al., Coordination Among Neural Modules Through a Shared Global Workspace (ICLR 2022,
arXiv 2103.01197).

Legend: B rows, N tokens of all modalities together (and a null token), L slots, D width, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.fusion.base import Fusion
from experts.base import ExpertTokens


class WorkspaceFusion(Fusion):
    """Learned slots; tokens compete to write by top-k cross-attention; slots are broadcast back.

    Args:
        modalities: Their names.
        width: D.
        slots: L.
        rounds: How often it is written and broadcast; the rounds share their weights.
        top_k: How many tokens may write to a slot; 0 lets all write.
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
        rounds: int = 2,
        top_k: int = 4,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(modalities, width=width)
        if width % num_heads:
            raise ValueError(f"width ({width}) must be a multiple of num_heads ({num_heads})")
        if slots < 1 or rounds < 1 or top_k < 0:
            raise ValueError(f"slots ({slots}) and rounds ({rounds}) must be at least 1, top_k ({top_k}) at least 0")
        self.rounds = rounds
        self.modality_MD = nn.Parameter(0.02 * torch.randn(len(self.modalities), width))
        # a row without any modality still has something to read: what this token learns is the prior
        self.null_D = nn.Parameter(torch.zeros(width))
        self.slots_LD = nn.Parameter(torch.randn(slots, width) / width**0.5)
        self.write = CrossAttention(width, num_heads=num_heads, top_k=top_k)
        self.write_mix = FeedForward(width, dropout=dropout)
        self.broadcast = CrossAttention(width, num_heads=num_heads)
        self.broadcast_mix = FeedForward(width, dropout=dropout)
        self.norm = nn.LayerNorm(width)
        self.added_D = nn.ParameterDict()

    def add(self, modality: str) -> None:
        """Add what tells a modality's tokens from others."""
        self.added_D[modality] = nn.Parameter(0.02 * torch.randn(self.width))

    @torch.no_grad()
    def imitate(self, modality: str, like: str) -> None:
        """Let the tokens of a modality be those of another."""
        self.added_D[modality].copy_(self._embeddings()[like])

    def _embeddings(self) -> dict[str, Tensor]:
        return dict(zip(self.modalities, self.modality_MD, strict=True)) | {
            modality: self.added_D[modality] for modality in self.joined
        }

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to the slots after the last round, shape (B, L, D)."""
        tokens_BND, mask_BN = self._all_tokens(tokens)
        slots_BLD = self.slots_LD.expand(len(tokens_BND), -1, -1)
        for number in range(self.rounds):
            slots_BLD = self.write_mix(slots_BLD + self.write(slots_BLD, tokens_BND, mask_BN))
            if number + 1 < self.rounds:
                tokens_BND = self.broadcast_mix(tokens_BND + self.broadcast(tokens_BND, slots_BLD))
        normed_BLD: Tensor = self.norm(slots_BLD)
        return normed_BLD

    def _all_tokens(self, tokens: dict[str, ExpertTokens]) -> tuple[Tensor, Tensor]:
        embeddings = {name: embedding_D for name, embedding_D in self._embeddings().items() if name in tokens}
        parts = [tokens[modality].tokens_BND + embedding_D for modality, embedding_D in embeddings.items()]
        masks = [tokens[modality].mask_BN for modality in embeddings]
        num_rows = len(masks[0])
        parts.append(self.null_D.expand(num_rows, 1, -1))
        masks.append(masks[0].new_ones(num_rows, 1))
        mask_BN = torch.cat(masks, dim=1)
        # attention gives what is masked a weight of zero; zero times NaN would still be NaN
        return torch.cat(parts, dim=1).masked_fill(~mask_BN.unsqueeze(-1), 0), mask_BN


class CrossAttention(nn.Module):
    """Multi-head attention from readers to sources, with an optional competition.

    Args:
        width: D of both.
        num_heads: H.
        top_k: For each reader and head only the so many best sources count; 0 for all.
    """

    def __init__(self, width: int, *, num_heads: int, top_k: int = 0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.top_k = top_k
        self.norm_reader = nn.LayerNorm(width)
        self.norm_source = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, readers_BLD: Tensor, sources_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Return what the readers take in, shape (B, L, D); each row must have a source."""
        query_BHLK = self._split(self.query(self.norm_reader(readers_BLD)))
        key_BHNK, value_BHNK = map(self._split, self.key_value(self.norm_source(sources_BND)).chunk(2, dim=-1))
        allowed = None if mask_BN is None else mask_BN[:, None, None, :]
        if 0 < self.top_k < sources_BND.shape[1]:
            allowed = self._winners(query_BHLK, key_BHNK, allowed)
        read_BHLK = F.scaled_dot_product_attention(query_BHLK, key_BHNK, value_BHNK, attn_mask=allowed)
        read_BLD: Tensor = self.out(read_BHLK.transpose(1, 2).flatten(2))
        return read_BLD

    def _split(self, values_BND: Tensor) -> Tensor:
        rows, count, width = values_BND.shape
        return values_BND.view(rows, count, self.num_heads, width // self.num_heads).transpose(1, 2)

    def _winners(self, query_BHLK: Tensor, key_BHNK: Tensor, allowed: Tensor | None) -> Tensor:
        with torch.no_grad():
            scores_BHLN = query_BHLK @ key_BHNK.transpose(-1, -2)
            if allowed is not None:
                scores_BHLN = scores_BHLN.masked_fill(~allowed, -torch.inf)
            best = scores_BHLN.topk(self.top_k, dim=-1).indices
            winners = torch.zeros_like(scores_BHLN, dtype=torch.bool).scatter_(-1, best, True)
            return winners if allowed is None else winners & allowed


class FeedForward(nn.Module):
    """A gated residual layer (Shazeer 2020, arXiv 2002.05202); the gate lets tokens multiply.

    Args:
        width: D.
        dropout: Before the residual sum.
    """

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate_value = nn.Linear(width, 4 * width)
        self.out = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values_BND: Tensor) -> Tensor:
        """Mix each token's own channels."""
        gate, value = self.gate_value(self.norm(values_BND)).chunk(2, dim=-1)
        mixed_BND: Tensor = values_BND + self.dropout(self.out(F.silu(gate) * value))
        return mixed_BND
