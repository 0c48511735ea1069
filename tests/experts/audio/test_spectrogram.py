"""Legend: U inputs, S samples, F frames, N tokens, M mel bands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchaudio.transforms import MelSpectrogram

from experts.audio import AudioTransform, LogMel, SpectrogramExpert
from tests.experts.audio.sounds import RATE, SOUNDS, check_padding_changes_nothing, tone
from tests.experts.test_features import check_checkpoint, check_learns, check_travels, collated, trained_accuracy


def fitted(**arguments: Any) -> SpectrogramExpert:
    torch.manual_seed(0)
    expert = SpectrogramExpert(**{"sample_rate": RATE, "num_mels": 32, "width": 16, "max_seconds": 2.0, **arguments})
    expert.learn_statistics([collated(expert, SOUNDS[:2]), collated(expert, SOUNDS[2:])])
    return expert.eval()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("tokens", ["mean", "all"])
def test_padding_changes_nothing(tokens: str, depth: int) -> None:
    check_padding_changes_nothing(fitted(tokens=tokens, depth=depth), SOUNDS)


@pytest.mark.parametrize(("seconds", "depth", "num_tokens"), [(0.8, 3, 10), (0.81, 3, 11), (0.01, 3, 1), (0.8, 2, 20)])
def test_a_token_every_80_ms(seconds: float, depth: int, num_tokens: int) -> None:
    expert = fitted(depth=depth)
    assert expert(collated(expert, [tone(440, seconds)])).tokens_BND.shape == (1, num_tokens, expert.width)


def test_frames_are_those_of_torchaudio() -> None:
    (samples_T1, _), num_mels = SOUNDS[0], 32
    samples_US = torch.from_numpy(samples_T1.T.copy())
    reference = MelSpectrogram(RATE, n_fft=256, win_length=200, hop_length=80, n_mels=num_mels, center=False)
    expected_FM = reference(samples_US)[0].T.clamp_min(1e-6).log()
    frames_UFM, mask_UF = LogMel(sample_rate=RATE, num_mels=num_mels)(samples_US, torch.tensor([4000]))
    assert frames_UFM.shape == (1, 50, num_mels)
    assert mask_UF.all()
    assert torch.allclose(frames_UFM[0, : len(expected_FM)], expected_FM, atol=1e-4)


def test_the_front_end_has_no_state_and_stays_in_float32() -> None:
    front = LogMel(sample_rate=RATE, num_mels=32)
    assert not front.state_dict()
    inputs = collated(fitted(), SOUNDS)
    expected_UFM, _ = front(inputs["samples"], inputs["lengths"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        frames_UFM, _ = front(inputs["samples"], inputs["lengths"])
    assert torch.equal(frames_UFM, expected_UFM)
    assert front.bfloat16()(inputs["samples"], inputs["lengths"])[0].dtype == torch.float32


def test_statistics_leave_padding_out() -> None:
    expert = fitted()
    frames = [expert.front(**collated_as_arguments(expert, sound))[0].flatten(0, 1) for sound in SOUNDS]
    frames_NM = torch.cat(frames)
    assert expert.standardize.count == len(frames_NM) == 50 + 4 + 123 + 1
    assert torch.allclose(expert.standardize.mean_D, frames_NM.mean(0), atol=1e-4)
    assert torch.allclose(expert.standardize.std_D, frames_NM.std(0, correction=0), atol=1e-4)


def collated_as_arguments(expert: SpectrogramExpert, sound: Any) -> dict[str, Any]:
    inputs = collated(expert, [sound])
    return {"samples_US": inputs["samples"], "lengths_U": inputs["lengths"]}


@pytest.mark.parametrize("rate", [4000, 11_025, 16_000, 22_050, 44_100, 44_101, 48_000, 192_000])
def test_sound_of_any_rate_is_resampled(rate: int) -> None:
    (samples_T1, _), (wanted_T1, _) = tone(440, 0.5, rate=rate), tone(440, 0.5)
    samples_S = AudioTransform(sample_rate=RATE, max_seconds=1)((samples_T1, rate))
    assert abs(len(samples_S) - 4000) <= 1
    middle = slice(1000, 3000)
    correlation = np.corrcoef(samples_S.numpy()[middle], wanted_T1[middle, 0])[0, 1]
    assert correlation > 0.98


def test_channels_are_mixed() -> None:
    transform = AudioTransform(sample_rate=RATE, max_seconds=1)
    left_T1, rate = SOUNDS[0]
    stereo_T2 = np.concatenate([left_T1, np.zeros_like(left_T1)], axis=1)
    assert torch.allclose(transform((stereo_T2, rate)), transform((left_T1, rate)) / 2)


def test_max_seconds_cuts() -> None:
    transform = AudioTransform(sample_rate=RATE, max_seconds=0.25)
    assert len(transform(tone(440, 0.5))) == 2000
    assert len(transform(tone(440, 0.5, rate=44_100))) == 2000


@pytest.mark.parametrize(
    ("sound", "complaint"),
    [
        (tone(440, 0.5), None),
        (tone(440, 0.5, rate=16_000), None),
        (tone(440, 0.5, rate=4000), ("sample rate", "4000 Hz, below the expert's 8000 Hz")),
        (tone(440, 1.26), ("audio too long", "1.3 s, cut to 1 s")),
    ],
    ids=["right", "higher rate", "lower rate", "long"],
)
def test_tells_what_is_lost(sound: Any, complaint: tuple[str, str] | None) -> None:
    assert AudioTransform(sample_rate=RATE, max_seconds=1).complaint(sound) == complaint


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros((0, 1), np.float32), RATE, "a sound without any samples"),
        (np.zeros((5, 0), np.float32), RATE, "a sound without any samples"),
        (np.zeros(5, np.float32), RATE, r"expected floating point samples.*, found float32 of shape \(5,\)"),
        (np.zeros((5, 1), np.int16), RATE, "expected floating point samples.*, found int16"),
        (np.full((5, 1), np.nan, np.float32), RATE, "no finite numbers"),
        (np.array([[np.inf, -np.inf]], np.float32), RATE, "no finite numbers"),
        (np.full((5, 1), 1e300), RATE, "far beyond the usual -1 to 1"),
        (np.zeros((5, 1), np.float32), 0, "a sample rate of 0 Hz"),
        (np.zeros((5, 1), np.float32), -8000, "a sample rate of -8000 Hz"),
        (np.zeros((5, 1), np.float32), 10**9, "a sample rate of 1000000000 Hz"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refuses_a_sound(samples: NDArray[Any], rate: int, message: str) -> None:
    transform = AudioTransform(sample_rate=RATE, max_seconds=1)
    with pytest.raises(ValueError, match=message):
        transform((samples, rate))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_rate": 0}, "sample_rate must be at least 1000, not 0"),
        ({"num_mels": 0}, "num_mels must be at least 1"),
        ({"num_mels": 200}, "num_mels: 200 are too many at a sample rate of 8000 Hz"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"max_seconds": 0.0}, "max_seconds must be above 0, not 0.0"),
    ],
    ids=str,
)
def test_refuses_a_setting(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(**arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_expert_takes_float32(dtype: torch.dtype) -> None:
    assert fitted().to(dtype)(collated(fitted(), SOUNDS)).tokens_BND.dtype == dtype


def test_silence_is_finite() -> None:
    silence = np.zeros((400, 1), np.float32), RATE
    expert = fitted()
    expert.learn_statistics([collated(expert, [silence])])
    assert expert(collated(expert, [silence])).tokens_BND.isfinite().all()


def test_the_loudest_sound_is_finite() -> None:
    loud = np.full((4000, 1), 2.0**31, np.float32), RATE
    assert fitted()(collated(fitted(), [loud])).tokens_BND.isfinite().all()


def test_checkpoint_brings_the_statistics() -> None:
    arguments = {"sample_rate": RATE, "num_mels": 32}
    check_checkpoint(SpectrogramExpert(**arguments), SpectrogramExpert(**arguments), collated(fitted(), SOUNDS))


def test_travels() -> None:
    check_travels(fitted(), SOUNDS)


def test_every_parameter_learns() -> None:
    check_learns(fitted(), collated(fitted(), SOUNDS))


def test_describes_what_samples_depend_on() -> None:
    assert len({str(fitted(**changes).transform.describe()) for changes in ({}, {"max_seconds": 1.0})}) == 2


@pytest.mark.parametrize("tokens", ["mean", "all"])
def test_learns_pitch(tokens: str) -> None:
    rng = np.random.default_rng(0)
    labels = [number % 2 for number in range(24)]
    sounds = [tone(500 if label else 440, rng.uniform(0.1, 0.4), seed=number) for number, label in enumerate(labels)]
    settings: dict[str, Any] = {"sample_rate": RATE, "num_mels": 32, "width": 16, "tokens": tokens}
    assert trained_accuracy(lambda: SpectrogramExpert(**settings), sounds, labels, steps=40) > 0.95
