"""Legend: U inputs, N glimpses, D width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.sort_of_clevr import SortOfCLEVR
from experts.glimpse import GlimpseExpert, cut_out, salient_places
from tests.experts.test_grid import a_picture


def build(**arguments: Any) -> GlimpseExpert:
    torch.manual_seed(0)
    return GlimpseExpert(**{"image_size": 40, "num_glimpses": 3, "size": 7, "window": 5, "width": 16, **arguments})


def test_salient_places_are_the_middles_of_things() -> None:
    pictures = [a_picture(9, 12), a_picture(30, 25, colour=(128, 128, 128))]
    pixels = torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() for picture in pictures])
    places, _ = salient_places(pixels, 4, window=5)
    assert places.shape == (2, 4, 2)
    assert places[:, 0].tolist() == [[9, 12], [30, 25]]


def test_a_thing_with_a_flat_top_is_one_place_and_the_background_is_none() -> None:
    pixels = torch.zeros(1, 3, 40, 40)
    pixels[0, :, 5:18, 20:33] = 1  # much larger than the blur: its middle is nowhere higher than elsewhere
    pixels[0, :, 30:35, 3:8] = 0.8
    places, real = salient_places(pixels, 6, window=3, least=0.5)
    assert real.tolist() == [[True, True] + [False] * 4]
    across, down = places[0, :2].unbind(-1)
    assert pixels[0, 0, down, across].tolist() == pytest.approx([1, 0.8])
    assert salient_places(pixels, 6, window=3)[1].all()


@pytest.mark.parametrize("size", [75, 224, 1100])
def test_places_come_in_the_order_in_which_they_stand_out_in_a_large_picture_too(size: int) -> None:
    pixels = torch.zeros(1, 3, size, size)
    pixels[0, :, 5:18, 5:18] = 0.99
    pixels[0, :, -18:-5, -18:-5] = 1
    pixels[0, :, -18:-5, 5:18] = 0.98
    places, real = salient_places(pixels, 6, window=3, least=0.5)
    assert real.tolist() == [[True] * 3 + [False] * 3]
    across, down = places[0, :3].unbind(-1)
    assert pixels[0, 0, down, across].tolist() == pytest.approx([1, 0.99, 0.98])


def test_nearly_all_objects_of_sort_of_clevr_are_found_once() -> None:
    rows = SortOfCLEVR(train_images=2, test_images=50).load("test")
    assert rows is not None
    pixels = np.stack([np.asarray(rows.sources["image"].load(number)) for number in range(50)])
    places, real = salient_places(torch.from_numpy(pixels).permute(0, 3, 1, 2).float(), 8, window=5, least=0.3)
    across, down = places.unbind(-1)
    colours = [
        [tuple(colour) for colour in pixels[number, down[number], across[number]][real[number].numpy()].tolist()]
        for number in range(50)
    ]
    assert sum(len(set(found) - {(255, 255, 255)}) for found in colours) > 0.97 * 6 * 50
    assert sum(map(len, colours)) < 1.02 * 6 * 50


def test_cut_out_equals_slices_of_a_padded_picture() -> None:
    pixels = torch.randn(2, 3, 9, 8)
    places = torch.tensor([[[0, 0], [7, 8], [4, 3]], [[3, 3], [0, 8], [6, 1]]])
    padded = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    seen = cut_out(pixels, places, 5)
    for picture in range(2):
        for number, (across, down) in enumerate(places[picture].tolist()):
            assert torch.equal(seen[picture, number], padded[picture, :, down : down + 5, across : across + 5])


def test_what_hardly_stands_out_is_no_token() -> None:
    expert = build(least=0.5)
    pixels = expert.transform.collate([expert.transform(a_picture(9, 12))])
    assert expert(pixels).mask_BN.tolist() == [[True, False, False]]
    assert build()(pixels).mask_BN.all()


def tokens_of(expert: GlimpseExpert, places: list[tuple[int, int]]) -> Tensor:
    pictures = [expert.transform(a_picture(*place)) for place in places]
    tokens = expert(expert.transform.collate(pictures))
    assert tokens.mask_BN.all()
    tokens_UND: Tensor = tokens.tokens_BND
    return tokens_UND


def test_tokens_tell_where_a_thing_is() -> None:
    expert = build().eval()
    tokens = tokens_of(expert, [(9, 12), (30, 12), (9, 12)])
    assert tokens.shape == (3, 3, 16)
    assert not torch.allclose(tokens[0, 0], tokens[1, 0])
    assert torch.equal(tokens[0], tokens[2])
    with torch.no_grad():
        expert.network.located.place.weight.zero_()  # type: ignore[union-attr, operator]
    assert torch.allclose(*tokens_of(expert, [(9, 12), (30, 12)])[:, 0])


def test_all_of_it_trains() -> None:
    expert = build()
    tokens_of(expert, [(9, 12), (30, 12)]).square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().max() > 0 for one in expert.parameters())
    assert expert.why_not_stored() == "it is trained"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_glimpses": 0}, "num_glimpses must be at least 1, not 0"),
        ({"size": 4}, "size must be odd, .* not 4"),
        ({"least": 1.5}, "least is a share, 0 to 1, not 1.5"),
        ({"window": 2}, "window must be odd, .* not 2"),
        ({"image_size": 2}, "3 glimpses of 4 pixels|5 glimpses"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{**arguments, **({"num_glimpses": 5} if "image_size" in arguments else {})})
