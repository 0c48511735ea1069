from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules.noise import Noise, NoisyAudio, mix, pink, spoken_part
from datamodules.sources import AudioFiles, UnreadableInputsError

RATE = 16_000
NOISES: tuple[Noise, ...] = ("pink", "babble")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> AudioFiles:
    """Five voices, two sentences each: tones with silence before and after."""
    folder = tmp_path_factory.mktemp("sounds")
    paths = []
    for voice in range(5):
        (folder / f"voice{voice}").mkdir()
        for sentence in range(2):
            tone = 0.1 * np.sin(np.arange(8000 + 500 * sentence) * (0.1 + 0.03 * voice))
            paths.append(folder / f"voice{voice}" / f"{sentence}.flac")
            soundfile.write(paths[-1], np.pad(tone, (1000, 2000)), RATE)
    return AudioFiles(paths)


def noisy(sounds: AudioFiles, noise: Noise = "pink", snr: tuple[float, float] = (5, 5), seed: int = 0) -> NoisyAudio:
    return NoisyAudio(sounds, noise=noise, snr=snr, speakers=np.arange(10) // 2, seed=seed)


def ratio(clean: np.ndarray, mixed: np.ndarray) -> float:
    """The measured ratio in dB where the tone is."""
    is_tone = slice(1001, len(clean) - 2001)
    noise = mixed[is_tone].astype(float) - clean[is_tone]
    return 10 * float(np.log10(np.mean(clean[is_tone].astype(float) ** 2) / np.mean(noise**2)))


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("snr", [-10.0, 0.0, 7.5, 30.0])
def test_the_ratio_is_right(sounds: AudioFiles, noise: Noise, snr: float) -> None:
    source = noisy(sounds, noise, (snr, snr))
    for position in range(len(source)):
        (clean, _), (mixed, rate) = sounds.load(position), source.load(position)
        assert mixed.shape == clean.shape
        assert mixed.dtype == np.float32
        assert rate == RATE
        assert ratio(clean, mixed) == pytest.approx(snr, abs=0.1)


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_always_the_same(sounds: AudioFiles, noise: Noise, tmp_path: Path) -> None:
    source, again = noisy(sounds, noise), noisy(sounds, noise)
    everything = np.arange(len(source))
    assert np.array_equal(source.load(3)[0], again.load(3)[0])
    assert np.array_equal(source.keys(everything), again.keys(everything))
    assert not np.array_equal(source.load(3)[0], noisy(sounds, noise, seed=1).load(3)[0])
    others = [
        sounds,
        noisy(sounds, noise, seed=1),
        noisy(sounds, noise, (5, 6)),
        noisy(sounds, "babble" if noise == "pink" else "pink"),
    ]
    for other in others:
        assert not set(source.keys(everything)) & set(other.keys(everything))


def test_each_sound_has_its_own_ratio(sounds: AudioFiles) -> None:
    source = noisy(sounds, snr=(-5, 15))
    ratios = [ratio(sounds.load(position)[0], source.load(position)[0]) for position in range(len(source))]
    assert -5.1 < min(ratios) < max(ratios) < 15.1
    assert np.std(ratios) > 2


def test_babble_is_of_others(sounds: AudioFiles) -> None:
    source = noisy(sounds, "babble")
    for position in range(len(source)):
        talkers = [talker // 2 for talker in source._talkers(position)]
        assert len({*talkers, position // 2}) == 4


def test_babble_changes_with_what_others_say(sounds: AudioFiles, tmp_path: Path) -> None:
    paths = [tmp_path / path.parent.name / path.name for path in sounds.paths]
    for path, old in zip(paths, sounds.paths, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(old.read_bytes())
    source, everything = noisy(AudioFiles(paths), "babble"), np.arange(10)
    keys = source.keys(everything)
    assert np.array_equal(keys, noisy(sounds, "babble").keys(everything))  # the folder may be moved
    soundfile.write(paths[0], np.full(9000, 0.1), RATE)
    changed = set(np.flatnonzero(source.keys(everything) != keys))
    assert changed == {0} | {position for position in range(10) if 0 in source._talkers(position)}


def test_pink_noise_has_equal_power_in_each_octave() -> None:
    power = np.abs(np.fft.rfft(pink(2**18, np.random.default_rng(0)))) ** 2
    octaves = [power[2**number : 2 ** (number + 1)].sum() for number in range(8, 17)]
    assert max(octaves) / min(octaves) < 1.3


def test_silence_around_speech_does_not_count() -> None:
    samples = np.pad(np.ones(100), (50, 30)) + 0.005
    assert spoken_part(samples) == slice(50, 150)


def test_silence_has_no_ratio(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is silent"):
        mix(np.zeros(100), np.ones(100), 0)
    soundfile.write(tmp_path / "silence.flac", np.zeros(100), RATE)
    source = NoisyAudio(
        AudioFiles([tmp_path / "silence.flac"]), noise="pink", snr=(0, 0), speakers=np.zeros(1, np.int64)
    )
    with pytest.raises(ValueError, match="is silent"):
        source.load(0)


def test_too_few_for_babble(sounds: AudioFiles) -> None:
    with pytest.raises(ValueError, match="babble needs at least 4 voices, not 3"):
        NoisyAudio(sounds, noise="babble", snr=(0, 0), speakers=np.arange(10) // 4)


def test_names_a_file_that_is_missing(tmp_path: Path) -> None:
    source = AudioFiles([tmp_path / "gone.flac"])
    with pytest.raises(UnreadableInputsError, match=r"gone\.flac.*no such file"):
        source.keys(np.arange(1))
