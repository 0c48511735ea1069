from __future__ import annotations

import math

import pytest
import torch

from crossmodal.fusion import WorkspaceFusion
from crossmodal.observers.workspace import Writing, effective_rank
from experts.base import ExpertTokens


def test_effective_rank_of_directions_that_are_used_alike() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(7, 4)) == pytest.approx(1)
    two = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    shares = torch.tensor([0.75, 0.25])
    assert effective_rank(two) == pytest.approx(float((-(shares * shares.log()).sum()).exp()))
    assert effective_rank(torch.zeros(3, 2)) == pytest.approx(1)
    assert math.isnan(effective_rank(torch.tensor([[1.0, torch.nan]])))


def test_collapse_lowers_the_rank() -> None:
    values_RD = torch.randn(100, 20, generator=torch.Generator().manual_seed(0))
    shrunk_RD = values_RD.clone()
    shrunk_RD[:, 5:] *= 0.01
    assert effective_rank(shrunk_RD) < 8 < 15 < effective_rank(values_RD)


@pytest.mark.parametrize("share_weights", [True, False])
def test_what_slots_read_is_told_by_round_slot_and_modality(share_weights: bool) -> None:
    torch.manual_seed(0)
    fusion = WorkspaceFusion(
        ["image", "text"], width=8, slots=3, rounds=2, top_k=2, num_heads=2, share_weights=share_weights
    ).eval()
    tokens = {
        "image": ExpertTokens(torch.randn(4, 5, 8), torch.ones(4, 5, dtype=torch.bool)),
        "text": ExpertTokens(torch.randn(4, 2, 8), torch.tensor([[True, False]] * 3 + [[False, False]])),
    }
    writing = Writing(fusion)
    with torch.no_grad():
        plain = fusion(tokens)
        with writing.watched():
            assert torch.equal(fusion(tokens), plain)
        fusion(tokens)  # watched no more
        tokens_BND, mask_BN = fusion.all_tokens(tokens)
        slots_BLD = fusion.slots_LD.expand(4, -1, -1)
        _, _, first_BHLN = fusion.write.attention.with_shares(slots_BLD, tokens_BND, mask_BN)
    rows, columns, values = writing.matrix()
    assert rows == [f"round {number}, slot {slot}" for number in (1, 2) for slot in (1, 2, 3)]
    assert columns == ["image", "text", "nothing"]
    assert torch.tensor(values).sum(1).tolist() == pytest.approx([1.0] * 6)
    of_tokens_LN = first_BHLN.mean((0, 1))
    wanted_LM = torch.stack([of_tokens_LN[:, :5].sum(1), of_tokens_LN[:, 5:7].sum(1), of_tokens_LN[:, 7]], dim=1)
    torch.testing.assert_close(torch.tensor(values[:3]), wanted_LM)
