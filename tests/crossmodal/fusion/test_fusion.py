"""Legend: B rows, N tokens, L readers or slots, D width, H heads, K head width."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import BottleneckFusion, ConcatFusion, Fusion, PerceiverFusion, WorkspaceFusion
from crossmodal.fusion.layers import CrossAttention
from experts.base import ExpertTokens

WIDTH = 16
MODALITIES = ("image", "question", "speech")
Make = Callable[[], Fusion]


def workspace(**options: int) -> Fusion:
    return WorkspaceFusion(MODALITIES, **{"width": WIDTH, "slots": 3, "rounds": 2, "top_k": 2, **options})


FUSIONS: dict[str, tuple[Make, int]] = {
    "bottleneck": (lambda: BottleneckFusion(MODALITIES, width=WIDTH, slots=3), 3),
    "bottleneck-one-layer": (lambda: BottleneckFusion(MODALITIES, width=WIDTH, slots=1, layers=1, num_heads=1), 1),
    "concat": (lambda: ConcatFusion(MODALITIES, width=WIDTH, hidden=32), 1),
    "perceiver": (lambda: PerceiverFusion(MODALITIES, width=WIDTH, slots=3), 3),
    "perceiver-not-shared": (lambda: PerceiverFusion(MODALITIES, width=WIDTH, slots=3, share_weights=False), 3),
    "workspace": (workspace, 3),
    "workspace-all-write": (lambda: workspace(top_k=0, rounds=3), 3),
    "workspace-one-round": (lambda: workspace(rounds=1, top_k=1, num_heads=1), 3),
}


@pytest.fixture(params=FUSIONS)
def fusion(request: pytest.FixtureRequest) -> Fusion:
    torch.manual_seed(0)
    built = FUSIONS[request.param][0]().eval()
    with torch.no_grad():
        for parameter in built.parameters():  # what begins as zero must not hide what depends on it
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


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
    tokens: dict[str, ExpertTokens], function: Callable[[ExpertTokens], tuple[Tensor, Tensor]]
) -> dict[str, ExpertTokens]:
    return {modality: ExpertTokens(*function(value)) for modality, value in tokens.items()}


@pytest.mark.parametrize("name", FUSIONS)
def test_shape(name: str) -> None:
    make, slots = FUSIONS[name]
    built = make()
    assert built.modalities == MODALITIES
    assert built(some_tokens()).shape == (5, slots, WIDTH)


@pytest.mark.parametrize("fill", [0.0, -1e4, math.inf, math.nan])
def test_what_is_masked_changes_nothing(fusion: Fusion, fill: float) -> None:
    tokens = some_tokens()
    filled = changed(
        tokens, lambda value: (value.tokens_BND.masked_fill(~value.mask_BN.unsqueeze(-1), fill), value.mask_BN)
    )
    is_same = torch.equal(fusion(filled), fusion(tokens))
    assert is_same


def test_masked_tokens_get_no_gradient(fusion: Fusion) -> None:
    tokens = changed(some_tokens(), lambda value: (value.tokens_BND.requires_grad_(), value.mask_BN))
    fusion(tokens).square().sum().backward()
    for value in tokens.values():
        assert value.tokens_BND.grad is not None
        assert not value.tokens_BND.grad[~value.mask_BN].any()


def test_the_order_of_tokens_changes_nothing(fusion: Fusion) -> None:
    tokens = some_tokens()
    turned = changed(tokens, lambda value: (value.tokens_BND.flip(1), value.mask_BN.flip(1)))
    assert_close(fusion(turned), fusion(tokens), atol=1e-6, rtol=1e-6)


def test_which_modality_a_token_has_counts(fusion: Fusion) -> None:
    tokens = some_tokens()
    swapped = {**tokens, "image": tokens["question"], "question": tokens["image"]}
    assert (fusion(swapped) - fusion(tokens))[1:].abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("present", [set(s) for n in range(4) for s in itertools.combinations(MODALITIES, n)], ids=str)
def test_any_subset_of_the_modalities(fusion: Fusion, present: set[str]) -> None:
    tokens = some_tokens()
    some = {
        modality: value if modality in present else ExpertTokens(value.tokens_BND, torch.zeros_like(value.mask_BN))
        for modality, value in tokens.items()
    }
    fused_BLD = fusion(some)
    assert fused_BLD.isfinite().all()
    is_same = torch.equal(fused_BLD, fusion(tokens))
    assert is_same == (present == set(MODALITIES))
    fused_BLD.square().sum().backward()
    for name, parameter in fusion.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_a_row_does_not_depend_on_the_others(fusion: Fusion) -> None:
    tokens = some_tokens()
    together_BLD = fusion(tokens)
    for row in range(5):
        alone = {}
        for modality, value in tokens.items():
            longest = max(1, int(value.mask_BN[row].nonzero().max()) + 1 if value.mask_BN[row].any() else 1)
            alone[modality] = ExpertTokens(value.tokens_BND[[row], :longest], value.mask_BN[[row], :longest])
        assert_close(fusion(alone)[0], together_BLD[row], atol=1e-6, rtol=1e-5)


def test_each_parameter_learns(fusion: Fusion) -> None:
    fusion(some_tokens()).square().sum().backward()
    for name, parameter in fusion.named_parameters():
        if isinstance(fusion, WorkspaceFusion) and fusion.rounds == 1 and "broadcast" in name:
            continue  # the last round is not broadcast
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_width_that_the_heads_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"width \(16\) must be a multiple of num_heads \(3\)"):
        workspace(num_heads=3)


def reference(attention: CrossAttention, readers_BLD: Tensor, sources_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
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


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("top_k", [0, 1, 2, 5, 6, 100])
def test_attention_equals_a_loop(top_k: int, is_masked: bool) -> None:
    torch.manual_seed(top_k)
    attention = CrossAttention(WIDTH, num_heads=4, top_k=top_k)
    inputs = [torch.randn(3, 2, WIDTH, requires_grad=True), torch.randn(3, 6, WIDTH, requires_grad=True)]
    mask_BN = None
    if is_masked:
        mask_BN = torch.rand(3, 6) < 0.5
        mask_BN[:, 0] = True
        mask_BN[0, 1:] = False  # fewer than top_k
    expected = reference(attention, *inputs, mask_BN)
    actual = attention(*inputs, mask_BN)
    assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    wanted = [*inputs, *attention.parameters()]
    for found, right in zip(
        torch.autograd.grad(actual.square().sum(), wanted),
        torch.autograd.grad(expected.square().sum(), wanted),
        strict=True,
    ):
        assert_close(found, right, atol=1e-5, rtol=1e-5)


def test_with_top_1_each_slot_and_head_reads_one_token() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(WIDTH, num_heads=4, top_k=1)
    with torch.no_grad():  # what is read passes through as it is
        attention.out.weight.copy_(torch.eye(WIDTH))
        attention.out.bias.zero_()
    readers_BLD, sources_BND = torch.randn(3, 2, WIDTH), torch.randn(3, 6, WIDTH)
    value_BND = attention.key_value(attention.norm_source(sources_BND))[..., WIDTH:]
    read_BLHK = attention(readers_BLD, sources_BND).unflatten(-1, (4, 4)).unsqueeze(2)
    distance_BLNH = (read_BLHK - value_BND.unflatten(-1, (4, 4)).unsqueeze(1)).abs().amax(-1)
    assert ((distance_BLNH < 1e-5).sum(2) == 1).all()
