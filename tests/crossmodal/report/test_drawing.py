from __future__ import annotations

import pytest
import torch

from crossmodal.report.drawing import NOISE, Drawn
from experts.base import ExpertTokens


def tokens(values: torch.Tensor) -> ExpertTokens:
    return ExpertTokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def test_noise_is_in_deviations_of_the_tokens() -> None:
    torch.manual_seed(0)
    own = torch.randn(400, 3, 2) * torch.tensor([1.0, 10.0]) + 100
    found = dict(Drawn(0).noisy("image", tokens(own)))
    assert tuple(found) == NOISE[1:]
    for strength, noisy in found.items():
        deviation = (noisy.tokens_BND - own).std((0, 1))
        assert deviation.tolist() == pytest.approx([strength, 10 * strength], rel=0.1)


def test_what_is_known_of_few_tokens_grows_with_the_batches() -> None:
    """One row a batch: of the first nobody knows how much is much."""
    drawn = Drawn(0)
    own = torch.tensor([[[0.0, 5.0]], [[2.0, 5.0]], [[torch.nan, 5.0]], [[4.0, 5.0]]])
    assert list(drawn.noisy("image", tokens(own[:1]))) == []
    for row in (1, 2, 3):
        for strength, noisy in drawn.noisy("image", tokens(own[row : row + 1])):
            added = noisy.tokens_BND - own[row]
            assert (added[..., 1] == 0).all()  # which never differs
            assert 0 < abs(float(added[0, 0, 0])) < 10 * strength or row == 2


def test_padding_does_not_count() -> None:
    own = torch.zeros(2, 4, 1)
    own[:, 2:] = 1e6
    mask = torch.tensor([[True, True, False, False]] * 2)
    for _, noisy in Drawn(0).noisy("text", ExpertTokens(own, mask)):
        assert (noisy.tokens_BND == own).all()
