"""What may befall an expert in use."""

from __future__ import annotations

import torch

from crossmodal.corruption import corrupt, examine, mislead, stick
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
    shares = []
    for _ in range(400):
        worse = corrupt(tokens, 0.2)
        assert torch.equal(worse.mask_BN, tokens.mask_BN)
        is_same_B = (worse.tokens_BND == tokens.tokens_BND).all(-1)[:, 0]
        shares.append(1 - is_same_B.float().mean())
    assert 0.18 < float(torch.stack(shares).mean()) < 0.22


def test_what_misleads_lies_where_inputs_differ() -> None:
    torch.manual_seed(3)
    tokens = some(400)
    tokens.tokens_BND[..., 1:] = tokens.tokens_BND[..., :1]  # along one line
    worse = mislead(tokens, 0.5)
    torch.testing.assert_close(worse.tokens_BND[..., 1:], worse.tokens_BND[..., :1].expand(-1, -1, 7))
    moved_B = (worse.tokens_BND != tokens.tokens_BND)[:, 0].any(1)  # the first token is real
    assert 0.4 < moved_B.float().mean() < 0.6
    assert worse.tokens_BND[moved_B].std() > 2 * tokens.tokens_BND.std()


def test_at_rate_zero_nothing_befalls_them() -> None:
    tokens = some()
    for way in (mislead, stick, examine):
        worse = way(tokens, 0.0)
        assert torch.equal(worse.tokens_BND[worse.mask_BN], tokens.tokens_BND[tokens.mask_BN])
        assert len(way(ExpertTokens(tokens.tokens_BND[:0], tokens.mask_BN[:0]), 0.5)) == 0


def test_what_is_stuck_is_stuck_on_one_input() -> None:
    torch.manual_seed(4)
    tokens, stuck = some(), 0
    for _ in range(400):
        worse = stick(tokens, 0.2)
        if torch.equal(worse.tokens_BND, tokens.tokens_BND):
            continue
        stuck += 1
        assert (worse.tokens_BND == worse.tokens_BND[:1]).all()
        assert (worse.mask_BN == worse.mask_BN[:1]).all()  # with its mask
    assert 0.12 < stuck / 400 < 0.28


def test_padding_does_not_count() -> None:
    tokens = some()
    padded = ExpertTokens(tokens.tokens_BND.masked_fill(~tokens.mask_BN.unsqueeze(-1), 1e6), tokens.mask_BN)
    torch.manual_seed(2)
    first = corrupt(tokens, 1.0)
    torch.manual_seed(2)
    second = corrupt(padded, 1.0)
    torch.testing.assert_close(first.tokens_BND[first.mask_BN], second.tokens_BND[second.mask_BN])
