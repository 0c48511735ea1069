from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from experts.convolutions import ConvolutionExpert


def pictures(count: int, size: int = 16) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


def test_a_picture_is_one_token_whatever_is_beside_it() -> None:
    expert = ConvolutionExpert(size=16, channels=(4, 8), width=6).eval()
    transformed = [expert.transform(one) for one in pictures(3)]
    tokens = expert(expert.transform.collate(transformed))
    assert tokens.tokens_BND.shape == (3, 1, 6)
    assert tokens.mask_BN.all()
    alone = expert(expert.transform.collate(transformed[1:2]))
    torch.testing.assert_close(alone.tokens_BND[0], tokens.tokens_BND[1])
    with torch.no_grad():
        assert expert(expert.transform.collate(transformed)).tokens_BND.std(0).sum() > 0


def test_group_norm_has_no_statistics_that_replicas_would_share() -> None:
    assert not [name for name, _ in ConvolutionExpert(size=16, channels=(4, 6)).named_buffers()]
    assert [name for name, _ in ConvolutionExpert(size=16, channels=(4, 6), norm="batch").named_buffers()]


def test_all_of_it_trains() -> None:
    expert = ConvolutionExpert(size=16, channels=(4, 8), width=6)
    inputs = expert.transform.collate([expert.transform(one) for one in pictures(8)])
    expert(inputs).tokens_BND.square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in expert.parameters())


def test_other_sizes_are_resized_and_what_is_no_picture_is_refused() -> None:
    transform = ConvolutionExpert(size=8, channels=(4,)).transform
    assert transform(pictures(1, size=30)[0]).shape == (8, 8, 3)
    assert transform(pictures(1)[0].convert("L")).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="picture"):
        transform("no picture")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 4, "channels": (1, 1, 1)}, "size .4. cannot be halved 3 times"),
        ({"channels": ()}, "channels .* must be at least 1"),
        ({"dropout": 1.0}, "dropout .1.0. at least 0"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvolutionExpert(**arguments)  # type: ignore[arg-type]
