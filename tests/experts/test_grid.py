"""Legend: U inputs, N tokens, D width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from experts.grid import GridExpert, Located, middles


def a_picture(x: int, y: int, *, size: int = 40, colour: tuple[int, int, int] = (255, 0, 0)) -> Image.Image:
    pixels = np.full((size, size, 3), 255, np.uint8)
    pixels[y - 3 : y + 4, x - 3 : x + 4] = colour
    return Image.fromarray(pixels)


def build(**arguments: Any) -> GridExpert:
    torch.manual_seed(0)
    return GridExpert(**{"image_size": 40, "channels": [8, 8], "width": 16, **arguments})


def tokens_of(expert: GridExpert, *pictures: Image.Image) -> Tensor:
    tokens = expert(expert.transform.collate([expert.transform(picture) for picture in pictures]))
    assert tokens.mask_BN.all()
    tokens_UND: Tensor = tokens.tokens_BND
    return tokens_UND


def test_middles_of_places() -> None:
    assert middles(2, 4)[:, 0].tolist() == [-0.75, -0.25, 0.25, 0.75] * 2
    assert middles(2, 4)[:, 1].tolist() == [-0.5] * 4 + [0.5] * 4


def test_where_a_thing_is_weighs_about_as_much_as_what_it_is() -> None:
    torch.manual_seed(0)
    located = Located(32, 32)
    features, where = torch.randn(500, 1, 32), 2 * torch.rand(500, 1, 2) - 1
    other_thing = (located(features, where) - located(features.roll(1, 0), where)).square().mean()
    other_place = (located(features, where) - located(features, where.roll(1, 0))).square().mean()
    assert 0.1 < other_place / other_thing < 10


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({}, 10 * 10),
        ({"channels": [8, 8, 8], "strides": [2, 2, 1]}, 10 * 10),
        ({"channels": [8], "kernels": [8], "strides": [8]}, 5 * 5),
    ],
)
def test_a_token_for_each_place(arguments: dict[str, Any], count: int) -> None:
    assert tokens_of(build(**arguments), a_picture(9, 9), a_picture(30, 9)).shape == (2, count, 16)


def test_patches_do_not_overlap() -> None:
    expert = build(channels=[8], kernels=[8], strides=[8]).eval()
    plain, changed = tokens_of(expert, a_picture(4, 4, colour=(255, 255, 255)), a_picture(20, 4)).view(2, 5, 5, 16)
    differs = (plain != changed).any(-1)
    assert differs.nonzero().tolist() == [[0, 2]]


def test_it_learns_what_is_left_of_what() -> None:
    """No convolution sees both squares at once, and their mean knows no place: coordinates must tell."""
    draw = np.random.default_rng(0)
    pictures, targets = [], []
    for _ in range(48):
        red, blue = draw.permutation(np.arange(5, 36, 10))[:2]
        pixels = np.minimum(np.asarray(a_picture(red, 12)), np.asarray(a_picture(blue, 28, colour=(0, 0, 255))))
        pictures.append(Image.fromarray(pixels))
        targets.append(float(red < blue))
    expert = build(channels=[8, 16])
    read = torch.nn.Linear(16, 1)
    inputs = expert.transform.collate([expert.transform(picture) for picture in pictures])
    wanted = torch.tensor(targets)
    optimizer = torch.optim.AdamW([*expert.parameters(), *read.parameters()], lr=1e-2)
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            read(expert(inputs).tokens_BND.mean(1)).squeeze(1), wanted
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    answers = read(expert(inputs).tokens_BND.mean(1)).squeeze(1) > 0
    assert (answers == wanted.bool()).float().mean() > 0.95


def test_all_of_it_trains() -> None:
    expert = build()
    assert not expert.frozen
    tokens_of(expert, a_picture(9, 9), a_picture(30, 20)).square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().max() > 0 for one in expert.parameters())
    assert expert.why_not_stored() == "it is trained"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strides": [2]}, r"channels \(2\), kernels \(2\) and strides \(1\)"),
        ({"channels": []}, r"channels \(0\).* at least one"),
        ({"channels": [8, 0]}, "channels must be at least 1, not 0"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"strides": [2, 4]}, r"strides \[2, 4\] above kernels \[3, 3\]"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
