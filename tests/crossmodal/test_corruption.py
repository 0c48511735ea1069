"""What may befall an expert in use."""

from __future__ import annotations

import torch

from crossmodal.corruption import corrupt
from experts.base import ExpertTokens


def some(count: int = 40) -> ExpertTokens:
    mask_BN = torch.ones(count, 3, dtype=torch.bool)
    mask_BN[::2, 2] = False
    return ExpertTokens(torch.randn(count, 3, 8, generator=torch.Generator().manual_seed(0)), mask_BN)


def test_at_rate_zero_all_stays() -> None:
    tokens = some()
    assert corrupt(tokens, 0.0) is tokens


def test_none_are_left_as_they_are() -> None:
    nothing = ExpertTokens(torch.zeros(0, 3, 8), torch.zeros(0, 3, dtype=torch.bool))
    assert corrupt(nothing, 0.5) is nothing


def test_about_as_many_as_the_rate_says() -> None:
    torch.manual_seed(1)
    tokens = some()
    shares, stuck = [], 0
    for _ in range(400):
        worse = corrupt(tokens, 0.2)
        is_same_B = (worse.tokens_BND == tokens.tokens_BND).all(-1)[:, 0]
        if (worse.tokens_BND[:, 0] == worse.tokens_BND[:1, 0]).all():
            stuck += 1
            assert (worse.mask_BN == worse.mask_BN[0]).all()  # stuck on one input, with its mask
        else:
            assert torch.equal(worse.mask_BN, tokens.mask_BN)
            shares.append(1 - is_same_B.float().mean())
    assert 0.12 < stuck / 400 < 0.28
    assert 0.18 < float(torch.stack(shares).mean()) < 0.22


def test_padding_does_not_count() -> None:
    tokens = some()
    padded = ExpertTokens(tokens.tokens_BND.masked_fill(~tokens.mask_BN.unsqueeze(-1), 1e6), tokens.mask_BN)
    torch.manual_seed(2)
    first = corrupt(tokens, 1.0)
    torch.manual_seed(2)
    second = corrupt(padded, 1.0)
    torch.testing.assert_close(first.tokens_BND[first.mask_BN], second.tokens_BND[second.mask_BN])
