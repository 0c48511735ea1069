"""Legend: B rows, N sources, L readers, D width, H heads, K head width."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from crossmodal.fusion.layers import CrossAttention
from tests.crossmodal.fusion.references import WIDTH, attended


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
    expected = attended(attention, *inputs, mask_BN)
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


@pytest.mark.parametrize("top_k", [0, 2])
def test_shares_are_what_it_attends_by_also_to_sources_of_another_width(top_k: int) -> None:
    torch.manual_seed(0)
    attention = CrossAttention(8, num_heads=2, top_k=top_k, source_width=WIDTH)
    readers_BLD, sources_BND, mask_BN = torch.randn(3, 2, 8), torch.randn(3, 6, WIDTH), torch.rand(3, 6) < 0.7
    mask_BN[:, 0] = True
    given_BLD, without_BHLN, with_BHLN = attention.with_shares(readers_BLD, sources_BND, mask_BN)
    assert torch.equal(given_BLD, attention(readers_BLD, sources_BND, mask_BN))
    value_BHNK = attention.key_value(attention.norm_source(sources_BND))[..., 8:].unflatten(-1, (2, 4)).transpose(1, 2)
    read_BLD = attention.out((with_BHLN @ value_BHNK).transpose(1, 2).flatten(2))
    assert_close(read_BLD, attended(attention, readers_BLD, sources_BND, mask_BN), atol=1e-5, rtol=1e-5)
    assert_close(attention(readers_BLD, sources_BND, mask_BN), read_BLD, atol=1e-5, rtol=1e-5)
    winners_BHLN = with_BHLN > 0
    kept_BHLN = without_BHLN * winners_BHLN
    assert_close(with_BHLN, kept_BHLN / kept_BHLN.sum(-1, keepdim=True))
    assert_close(without_BHLN.sum(-1), torch.ones(3, 2, 2))
    count_B = mask_BN.sum(1)
    assert torch.equal(winners_BHLN.sum(-1).amax((1, 2)), count_B.clamp(max=top_k) if top_k else count_B)
