"""Legend: U inputs, C channels, H height, W width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from experts.audio.picture import PictureExpert
from tests.experts.audio.sounds import RATE, SOUNDS, check_padding_changes_nothing, tokens_of, tone
from tests.experts.test_features import check_learns, check_travels, collated

LONG = tone(500, 3.0, rate=RATE, seed=5)


def build(model: str = "resnet10t", **arguments: Any) -> PictureExpert:
    settings = {"pretrained": False, "sample_rate": RATE, "num_mels": 32, "max_seconds": 1.0, "precision": "float32"}
    return PictureExpert(model, **{**settings, "image_size": 64, **arguments})


@pytest.mark.parametrize("tokens", ["pooled", "grid"])
@pytest.mark.parametrize(
    ("model", "arguments"),
    [("resnet10t", {}), ("test_vit", {"image_size": None}), ("resnet10t", {"layers": [1, 2]})],
    ids=str,
)
def test_padding_changes_nothing(model: str, arguments: dict[str, Any], tokens: str) -> None:
    check_padding_changes_nothing(build(model, tokens=tokens, **arguments), [*SOUNDS, LONG])


def test_a_picture_shows_time_from_left_to_right_and_high_bands_below() -> None:
    def brightest_row(hertz: float) -> int:
        inputs = collated(build(), [tone(hertz, 0.5)])
        picture_UCHW = build().picture(inputs["samples"], inputs["lengths"])
        assert picture_UCHW.shape == (1, 3, 64, 64)
        assert picture_UCHW.min() == 0
        assert 200 < picture_UCHW.max() <= 255.001
        assert not picture_UCHW[..., 36:].any()  # silence behind the half second
        assert torch.equal(picture_UCHW[:, 0], picture_UCHW[:, 2])
        return int(picture_UCHW[0, 0].sum(1).argmax())

    assert brightest_row(300) < brightest_row(1000) < brightest_row(3000)


def test_silence_is_black_and_a_louder_sound_the_same_picture() -> None:
    expert = build()
    samples_T1, rate = tone(440, 0.5)
    silent, normal, loud = (
        expert.picture(inputs["samples"], inputs["lengths"])
        for inputs in (collated(expert, [(np.float32(gain) * samples_T1, rate)]) for gain in (0, 1, 100))
    )
    assert not silent.any()
    assert torch.allclose(normal[..., :32], loud[..., :32], atol=1)


def test_tokens_are_what_timm_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False).eval()
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    expert = build(pretrained=str(tmp_path / "tiny.pth"))
    inputs = collated(expert, SOUNDS)
    pixels_UCHW = expert.normalize(expert.picture(inputs["samples"], inputs["lengths"]))
    with torch.no_grad():
        expected_UD = network.forward_head(network.forward_features(pixels_UCHW), pre_logits=True)
    assert torch.allclose(expert(inputs).tokens_BND[:, 0], expected_UD, atol=1e-3, rtol=1e-3)


def test_fingerprint_tells_what_changes_the_tokens() -> None:
    others: list[dict[str, Any]] = [
        {"num_mels": 40},
        {"max_seconds": 2.0},
        {"sample_rate": 11_025},
        {"image_size": 96},
        {"tokens": "grid"},
        {"model": "resnet14t"},
    ]
    prints = [build(**arguments).fingerprint() for arguments in others]
    assert len({build().fingerprint(), *prints}) == len(others) + 1
    assert build().fingerprint() == build().fingerprint()
    assert build().why_not_stored() is None


def test_chance_is_in_training_only() -> None:
    expert = build().train()
    assert torch.equal(tokens_of(expert, SOUNDS).tokens_BND, tokens_of(expert, SOUNDS).tokens_BND)
    inputs = collated(expert, [LONG])
    trained = build(freeze=False).train()
    drawn = [trained.picture(inputs["samples"], inputs["lengths"]) for _ in range(2)]
    assert not torch.equal(*drawn)
    whole = build(freeze=False, time_masks=0, band_masks=0).train()
    assert torch.equal(
        whole.picture(inputs["samples"], inputs["lengths"]), expert.picture(inputs["samples"], inputs["lengths"])
    )


def test_every_parameter_learns() -> None:
    # a vision transformer, whose head is not run but for its norm
    expert = build("test_vit", image_size=None, freeze=False, tokens="grid")
    expert.network.reset_classifier(0)
    check_learns(expert, collated(expert, SOUNDS))


def test_travels() -> None:
    check_travels(build(), SOUNDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet10"}, "timm has no model 'resnet10'"),
        ({"max_seconds": 0.0}, "max_seconds must be above 0"),
        ({"num_mels": 500}, "num_mels: 500 are too many"),
        ({"time_masks": -1}, "time_masks must be at least 0"),
        ({"layers": [9]}, "got layers: \\[9\\]"),
    ],
    ids=str,
)
def test_refuses_a_setting(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_its_own_defaults() -> None:
    expert = PictureExpert("resnet10t", pretrained=False, image_size=64, max_seconds=1.0)
    other = PictureExpert("resnet10t", pretrained=False, image_size=64, max_seconds=1.0, num_mels=40)
    assert expert.identity() != other.identity()
