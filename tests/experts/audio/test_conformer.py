"""Legend: U inputs, N tokens, F frames, M mel bands, D width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import nn

from datamodules.speech import SPEECH_RATE, ESpeak
from experts.audio import ConformerExpert, RecurrentExpert, SpectrogramExpert
from experts.audio.conformer import SelfAttention
from tests.experts.audio.sounds import RATE, SOUNDS, check_padding_changes_nothing, tokens_of, tone
from tests.experts.test_features import check_checkpoint, check_learns, check_travels, collated, trained_accuracy

SMALL: dict[str, Any] = {"sample_rate": RATE, "num_mels": 32, "width": 16, "max_seconds": 2.0}


def fitted(kind: type[Any] = ConformerExpert, **arguments: Any) -> Any:
    torch.manual_seed(0)
    expert = kind(**{**SMALL, **arguments})
    expert.learn_statistics([collated(expert, SOUNDS)])
    return expert.eval()


def spoken(text: str, voice: str = "en-us") -> Any:
    with ESpeak() as espeak:
        return (espeak.speak(text, voice)[:, None] / 32768).astype(np.float32), SPEECH_RATE


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("tokens", ["mean", "all"])
def test_padding_changes_nothing(tokens: str, depth: int) -> None:
    check_padding_changes_nothing(fitted(tokens=tokens, depth=depth), SOUNDS)


@pytest.mark.parametrize("kind", [ConformerExpert, RecurrentExpert, SpectrogramExpert])
@hypothesis_settings(max_examples=25)
@given(st.lists(st.integers(1, 2 * RATE), min_size=1, max_size=4), st.integers(0, 99))
def test_no_batch_mate_changes_anything(kind: type[Any], lengths: list[int], seed: int) -> None:
    expert = fitted(kind, sample_rate=RATE)
    check_padding_changes_nothing(expert, [tone(300, length / RATE, seed=seed + length) for length in lengths])


def test_padding_changes_nothing_of_speech() -> None:
    sounds = [spoken("is there a circle?"), spoken("no", "en-gb-x-rp+f2"), spoken("what colour is the rectangle?")]
    check_padding_changes_nothing(fitted(sample_rate=16_000, num_mels=64, width=96), sounds)


def test_padding_changes_no_gradient() -> None:
    gradients = []
    for sounds in (SOUNDS[:1], [SOUNDS[0], SOUNDS[2]]):
        expert = fitted(dropout=0.0, time_masks=0, band_masks=0).train()
        tokens_of(expert, sounds).tokens_BND[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in expert.parameters()])
    assert all(torch.allclose(alone, beside, atol=1e-3, rtol=1e-4) for alone, beside in zip(*gradients, strict=True))


@pytest.mark.parametrize(("seconds", "num_tokens"), [(0.8, 20), (0.81, 21), (0.01, 1)])
def test_a_token_every_40_ms(seconds: float, num_tokens: int) -> None:
    assert tokens_of(fitted(), [tone(440, seconds)]).tokens_BND.shape == (1, num_tokens, 16)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_sound_of_any_rate_and_channels_gives_nearly_the_same(rate: int, channels: int) -> None:
    expert = fitted(tokens="mean")
    expected, found = (
        tokens_of(expert, [sound]).tokens_BND[0, 0]
        for sound in (tone(440, 0.5), tone(440, 0.5, rate=rate, channels=channels))
    )
    other = tokens_of(expert, [tone(900, 0.5)]).tokens_BND[0, 0]
    assert (found - expected).norm() < 0.7 * (found - other).norm()


def test_attention_knows_how_far_and_not_where() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(16, 2)
    hidden_UND = torch.randn(1, 6, 16)
    with torch.no_grad():
        whole = attention(hidden_UND, torch.ones(1, 6, dtype=torch.bool))
        later = attention(nn.functional.pad(hidden_UND, (0, 0, 9, 0)), torch.arange(15).unsqueeze(0) >= 9)
        turned = attention(hidden_UND.flip(1), torch.ones(1, 6, dtype=torch.bool)).flip(1)
    assert torch.allclose(later[:, 9:], whole, atol=1e-5)
    assert not torch.allclose(turned, whole, atol=1e-3)


def test_chance_is_in_training_only() -> None:
    expert, inputs = fitted(dropout=0.0), collated(fitted(), SOUNDS)
    assert torch.equal(expert(inputs).tokens_BND, expert(inputs).tokens_BND)
    torch.manual_seed(1)
    first, second = (expert.train()(inputs).tokens_BND for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(expert(inputs).tokens_BND, first)
    whole = fitted(dropout=0.0, time_masks=0, band_masks=0)
    assert torch.equal(whole.train()(inputs).tokens_BND, whole.eval()(inputs).tokens_BND)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_rate": 10}, "sample_rate must be at least 1000, not 10"),
        ({"width": 0}, "width must be at least 1"),
        ({"width": 20}, "width must be a multiple of twice the heads: 20 is none of 8"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"kernel_size": 4}, "kernel_size must be odd, not 4"),
        ({"kernel_size": -1}, "kernel_size must be at least 1"),
        ({"max_seconds": -1.0}, "max_seconds must be above 0"),
        ({"num_mels": 200}, "num_mels: 200 are too many"),
        ({"time_masks": -1}, "time_masks must be at least 0, not -1"),
        ({"band_masks": -2}, "band_masks must be at least 0, not -2"),
    ],
    ids=str,
)
def test_refuses_a_setting(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(**arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_expert_takes_float32(dtype: torch.dtype) -> None:
    assert tokens_of(fitted().to(dtype), SOUNDS).tokens_BND.dtype == dtype


def test_silence_is_finite() -> None:
    assert tokens_of(fitted(), [(np.zeros((400, 1), np.float32), RATE)]).tokens_BND.isfinite().all()


def test_checkpoint_brings_the_statistics() -> None:
    check_checkpoint(ConformerExpert(**SMALL), ConformerExpert(**SMALL), collated(fitted(), SOUNDS))


def test_travels() -> None:
    check_travels(fitted(), SOUNDS)


def test_every_parameter_learns() -> None:
    check_learns(fitted(), collated(fitted(), SOUNDS))


@pytest.mark.parametrize("tokens", ["mean", "all"])
def test_learns_pitch(tokens: str) -> None:
    rng = np.random.default_rng(0)
    labels = [number % 2 for number in range(24)]
    sounds = [tone(500 if label else 440, rng.uniform(0.1, 0.4), seed=number) for number, label in enumerate(labels)]
    settings: dict[str, Any] = {**SMALL, "tokens": tokens, "depth": 2, "band_masks": 0}
    assert trained_accuracy(lambda: ConformerExpert(**settings), sounds, labels, steps=40) > 0.95


def test_learns_what_is_said_by_whichever_voice() -> None:
    texts, voices = (
        ("is it a circle?", "is it a triangle?"),
        ("en-us", "en-gb-scotland", "en-us+f2", "en-gb-x-rp+m3", "en-us+m7"),
    )
    sounds = [spoken(text, voice) for voice in voices for text in texts]
    settings: dict[str, Any] = {"tokens": "mean", "width": 32, "depth": 2, "num_mels": 40}
    assert trained_accuracy(lambda: ConformerExpert(**settings), sounds, [0, 1] * len(voices), steps=60) > 0.95
