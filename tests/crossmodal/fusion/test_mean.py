"""Legend: B rows, N tokens, D width."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from crossmodal.fusion import MeanFusion
from experts.base import ExpertTokens

WIDTH = 4
# rows with both, with one of each, and with none
MASKS = {
    "image": torch.tensor([[True, True], [True, False], [False, False], [False, False]]),
    "speech": torch.tensor([[True, True, False], [False, False, False], [False, True, True], [False, False, False]]),
}


def some_tokens(fill: float = 0.0) -> dict[str, ExpertTokens]:
    draw = torch.Generator().manual_seed(0)
    return {
        modality: ExpertTokens(
            torch.randn(*mask_BN.shape, WIDTH, generator=draw)
            .masked_fill(~mask_BN.unsqueeze(-1), fill)
            .requires_grad_(),
            mask_BN,
        )
        for modality, mask_BN in MASKS.items()
    }


@pytest.mark.parametrize("fill", [0.0, -1e4, math.inf, math.nan])
def test_each_modality_that_a_row_has_counts_the_same(fill: float) -> None:
    tokens = some_tokens(fill)
    fused_BD = MeanFusion(list(MASKS), width=WIDTH)(tokens).squeeze(1)
    image_BND, speech_BND = (value.tokens_BND for value in tokens.values())
    assert_close(fused_BD[0], (image_BND[0].mean(0) + speech_BND[0, :2].mean(0)) / 2)
    assert_close(fused_BD[1], image_BND[1, 0])
    assert_close(fused_BD[2], speech_BND[2, 1:].mean(0))
    assert_close(fused_BD[3], torch.zeros(WIDTH))


def test_gradients_reach_the_tokens_that_are_real_and_no_others() -> None:
    tokens = some_tokens()
    MeanFusion(list(MASKS), width=WIDTH)(tokens).square().sum().backward()
    for value in tokens.values():
        assert value.tokens_BND.grad is not None
        assert torch.equal(value.tokens_BND.grad.any(-1), value.mask_BN)


def test_it_has_nothing_to_learn() -> None:
    assert not list(MeanFusion(["image"], width=WIDTH).parameters())
