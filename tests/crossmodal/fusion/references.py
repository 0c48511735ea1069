"""What fusions are compared with: their papers, one row after the other, without masks.

Legend: B rows, N tokens or sources, L workspace tokens or readers, D width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import Fusion
from crossmodal.fusion.layers import CrossAttention, FeedForward, TransformerLayer
from experts.base import ExpertTokens

WIDTH = 16
MODALITIES = ("image", "question", "speech")
Row = dict[str, Tensor]


def shaken(fusion: Fusion) -> Fusion:
    """What begins as zero must not hide what depends on it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fusion.eval()


def some_tokens(num_rows: int = 5, *, seed: int = 0) -> dict[str, ExpertTokens]:
    """Rows with any number of tokens of each modality; the first lacks all of them."""
    draw = torch.Generator().manual_seed(seed)
    tokens = {}
    for number, modality in enumerate(MODALITIES):
        mask_BN = torch.rand(num_rows, 3 + number, generator=draw) < 0.6
        mask_BN[0] = False
        mask_BN[1] = True
        tokens[modality] = ExpertTokens(torch.randn(*mask_BN.shape, WIDTH, generator=draw), mask_BN)
    return tokens


def changed(
    tokens: Mapping[str, ExpertTokens], function: Callable[[ExpertTokens], tuple[Tensor, Tensor]]
) -> dict[str, ExpertTokens]:
    return {modality: ExpertTokens(*function(value)) for modality, value in tokens.items()}


def drawn(*names: str) -> dict[str, ExpertTokens]:
    """Tokens of four modalities, NaN where they are masked. The first row lacks all, the second none."""
    tokens = {**some_tokens(), "labs": some_tokens(seed=1)["question"]}
    for name, rows in {"image": [2, 3], "question": [4], "speech": [3], "labs": [2]}.items():
        tokens[name].mask_BN[rows] = False
    tokens = changed(
        tokens,
        lambda one: (one.tokens_BND.masked_fill(~one.mask_BN.unsqueeze(-1), math.nan).requires_grad_(), one.mask_BN),
    )
    return {name: tokens[name] for name in names}


def gradients(fused_BLD: Tensor, fusion: Fusion, tokens: Mapping[str, ExpertTokens]) -> list[Tensor]:
    inputs = [*fusion.parameters(), *(one.tokens_BND for one in tokens.values())]
    return list(torch.autograd.grad((fused_BLD * fused_BLD.detach().cos()).sum(), inputs))


def assert_equals(fusion: Fusion, reference: Callable[[Row], Tensor]) -> None:
    """The reference takes one row, the real tokens (N, D) of what it has, and returns (L, D)."""
    fusion = shaken(fusion)
    tokens = drawn(*fusion.modalities, *fusion.joined)
    rows = [
        {name: one.tokens_BND[row][one.mask_BN[row]] for name, one in tokens.items() if one.mask_BN[row].any()}
        for row in range(5)
    ]
    expected_BLD = torch.stack([reference(row) for row in rows])
    fused_BLD = fusion(tokens)
    assert_close(fused_BLD, expected_BLD, atol=1e-5, rtol=1e-5)
    for found, right in zip(gradients(fused_BLD, fusion, tokens), gradients(expected_BLD, fusion, tokens), strict=True):
        assert right.any()
        assert_close(found, right, atol=1e-5 * max(1.0, float(right.abs().max())), rtol=1e-5)


def attended(attention: CrossAttention, readers_BLD: Tensor, sources_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
    """Cross-attention, one reader, head and row after the other."""
    num_heads, width = attention.num_heads, readers_BLD.shape[-1]
    head_width = width // num_heads
    query_BLD = attention.query(attention.norm_reader(readers_BLD))
    key_BND, value_BND = attention.key_value(attention.norm_source(sources_BND)).split(width, dim=-1)
    rows = []
    for row, slot in itertools.product(range(len(readers_BLD)), range(readers_BLD.shape[1])):
        read = []
        for head in range(num_heads):
            part = slice(head * head_width, (head + 1) * head_width)
            real = [n for n in range(sources_BND.shape[1]) if mask_BN is None or mask_BN[row, n]]
            scores = {n: query_BLD[row, slot, part] @ key_BND[row, n, part] / head_width**0.5 for n in real}
            best = sorted(real, key=lambda n: -float(scores[n].detach()))
            best = best[: attention.top_k or None]
            weights = torch.stack([scores[n] for n in best]).exp()
            read.append(sum(w * value_BND[row, n, part] for w, n in zip(weights / weights.sum(), best, strict=True)))
        rows.append(attention.out(torch.cat(read)))
    return torch.stack(rows).view_as(readers_BLD)


def mixed(feed_forward: FeedForward, values_LD: Tensor) -> Tensor:
    gate, value = feed_forward.gate_value(feed_forward.norm(values_LD)).split(2 * values_LD.shape[-1], dim=-1)
    mixed_LD: Tensor = values_LD + feed_forward.out(gate * torch.sigmoid(gate) * value)
    return mixed_LD


def passed(layer: TransformerLayer, readers_LD: Tensor, sources_ND: Tensor) -> Tensor:
    """One row through a layer that normalises before it reads and before it mixes."""
    return mixed(layer.mix, readers_LD + attended(layer.attention, readers_LD[None], sources_ND[None], None)[0])
