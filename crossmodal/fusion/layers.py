"""What fusions are made of.

Legend: B rows, N sources, L readers, D width, H heads, K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CrossAttention(nn.Module):
    """Multi-head attention from readers to sources, with an optional competition.

    Args:
        width: D of both, or of the readers.
        num_heads: H.
        top_k: For each reader and head only the so many best sources count; 0 for all.
        source_width: D of the sources; None for that of the readers.

    Raises:
        ValueError: The width is not a multiple of the number of heads.
    """

    def __init__(self, width: int, *, num_heads: int, top_k: int = 0, source_width: int | None = None) -> None:
        super().__init__()
        if num_heads < 1 or width % num_heads:
            raise ValueError(f"width ({width}) must be a multiple of num_heads ({num_heads})")
        self.num_heads = num_heads
        self.top_k = top_k
        source_width = source_width or width
        self.norm_reader = nn.LayerNorm(width)
        self.norm_source = nn.LayerNorm(source_width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(source_width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, readers_BLD: Tensor, sources_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Return what the readers take in, shape (B, L, D); each row must have a source."""
        query_BHLK, key_BHNK, value_BHNK = self._heads(readers_BLD, sources_BND)
        return self._read(query_BHLK, key_BHNK, value_BHNK, self._compete(query_BHLK, key_BHNK, mask_BN))

    def with_shares(self, readers_BLD: Tensor, sources_BND: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` does, and how each reader divides its attention.

        That is by head without the competition, and with it, each of shape (B, H, L, N).
        """
        query_BHLK, key_BHNK, value_BHNK = self._heads(readers_BLD, sources_BND)
        allowed = self._compete(query_BHLK, key_BHNK, mask_BN)
        assert allowed is not None  # there is a mask
        scores_BHLN = (query_BHLK @ key_BHNK.transpose(-1, -2)).float() / query_BHLK.shape[-1] ** 0.5
        without_BHLN = scores_BHLN.masked_fill(~mask_BN[:, None, None, :], -torch.inf).softmax(-1)
        with_BHLN = scores_BHLN.masked_fill(~allowed, -torch.inf).softmax(-1)
        return self._read(query_BHLK, key_BHNK, value_BHNK, allowed), without_BHLN, with_BHLN

    @torch.no_grad()
    def sharpen(self, factor: float) -> None:
        """Multiply the weights of queries and keys: the attention that training begins with is less even, then."""
        self.query.weight.mul_(factor)
        self.key_value.weight[: len(self.query.weight)].mul_(factor)

    @torch.no_grad()
    def amplify(self, factor: float) -> None:
        """Multiply the weights of values and of what is taken in: readers hear more of sources from the start."""
        self.key_value.weight[len(self.query.weight) :].mul_(factor)
        self.out.weight.mul_(factor)

    def _heads(self, readers_BLD: Tensor, sources_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query_BHLK = self._split(self.query(self.norm_reader(readers_BLD)))
        key_BHNK, value_BHNK = map(self._split, self.key_value(self.norm_source(sources_BND)).chunk(2, dim=-1))
        return query_BHLK, key_BHNK, value_BHNK

    def _read(self, query_BHLK: Tensor, key_BHNK: Tensor, value_BHNK: Tensor, allowed: Tensor | None) -> Tensor:
        read_BHLK = F.scaled_dot_product_attention(query_BHLK, key_BHNK, value_BHNK, attn_mask=allowed)
        read_BLD: Tensor = self.out(read_BHLK.transpose(1, 2).flatten(2))
        return read_BLD

    def _compete(self, query_BHLK: Tensor, key_BHNK: Tensor, mask_BN: Tensor | None) -> Tensor | None:
        """Return the sources that count, shape (B, H or 1, L or 1, N); None for all."""
        allowed = None if mask_BN is None else mask_BN[:, None, None, :]
        return self._winners(query_BHLK, key_BHNK, allowed) if 0 < self.top_k < key_BHNK.shape[2] else allowed

    def _split(self, values_BND: Tensor) -> Tensor:
        rows, count, width = values_BND.shape
        return values_BND.view(rows, count, self.num_heads, width // self.num_heads).transpose(1, 2)

    def _winners(self, query_BHLK: Tensor, key_BHNK: Tensor, allowed: Tensor | None) -> Tensor:
        with torch.no_grad():
            scores_BHLN = query_BHLK @ key_BHNK.transpose(-1, -2)
            if allowed is not None:
                scores_BHLN = scores_BHLN.masked_fill(~allowed, -torch.inf)
            best = scores_BHLN.topk(self.top_k, dim=-1).indices
            winners = torch.zeros_like(scores_BHLN, dtype=torch.bool).scatter(-1, best, True)
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

    @torch.no_grad()
    def amplify(self, factor: float) -> None:
        """Multiply the weights: the layer adds more from the start."""
        self.gate_value.weight.mul_(factor)
        self.out.weight.mul_(factor)

    def branch(self, values_BND: Tensor) -> Tensor:
        """What is added to the tokens; they may have any shape that ends in D."""
        gate, value = self.gate_value(self.norm(values_BND)).chunk(2, dim=-1)
        added_BND: Tensor = self.dropout(self.out(F.silu(gate) * value))
        return added_BND

    def forward(self, values_BND: Tensor) -> Tensor:
        """Mix each token's own channels."""
        return values_BND + self.branch(values_BND)


class TransformerLayer(nn.Module):
    """Readers attend to sources, then each is mixed by itself; both residual, normalised before.

    Args:
        width: D of both, or of the readers.
        num_heads: H.
        top_k: For each reader and head only the so many best sources count; 0 for all.
        source_width: D of the sources; None for that of the readers.
        dropout: In the feed-forward layer.
    """

    def __init__(
        self, width: int, *, num_heads: int, top_k: int = 0, source_width: int | None = None, dropout: float
    ) -> None:
        super().__init__()
        self.attention = CrossAttention(width, num_heads=num_heads, top_k=top_k, source_width=source_width)
        self.mix = FeedForward(width, dropout=dropout)

    def forward(self, readers_BLD: Tensor, sources_BND: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """Return the readers after the layer, shape (B, L, D); each row must have a source."""
        after_BLD: Tensor = self.mix(readers_BLD + self.attention(readers_BLD, sources_BND, mask_BN))
        return after_BLD

    def with_shares(self, readers_BLD: Tensor, sources_BND: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` does, and how each reader divides its attention; see `CrossAttention.with_shares`."""
        read_BLD, without_BHLN, with_BHLN = self.attention.with_shares(readers_BLD, sources_BND, mask_BN)
        return self.mix(readers_BLD + read_BLD), without_BHLN, with_BHLN

    def amplify(self, factor: float) -> None:
        """Multiply all weights but those of queries and keys."""
        self.attention.amplify(factor)
        self.mix.amplify(factor)
