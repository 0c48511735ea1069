from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from datamodules.speech import ACCENTS, VARIANTS, ESpeak, draw_voices

TEXT = "is there a yellow triangle in the image?"
BAND = 1024


def spectrum(voice: str) -> NDArray[np.float64]:
    """The mean power of a sentence up to 8 kHz, in dB of all."""
    with ESpeak() as espeak:
        samples = espeak.speak(TEXT, voice, volume=30) / 2**15
    frames = np.lib.stride_tricks.sliding_window_view(samples, BAND)[:: BAND // 4] * np.hanning(BAND)
    power = (np.abs(np.fft.rfft(frames)) ** 2).mean(0)[:372]
    return 10 * np.log10(power / power.sum() + 1e-7)


@pytest.mark.parametrize(
    ("voices", "least"),
    [([f"en-us+{variant}" for variant in VARIANTS], 1.5), (list(ACCENTS), 0.8)],
    ids=["variants", "accents"],
)
def test_no_two_sound_the_same(voices: list[str], least: float) -> None:
    spectra = np.stack([spectrum(voice) for voice in voices])
    distances = np.sqrt(((spectra[:, None] - spectra) ** 2).mean(-1)) + 1000 * np.eye(len(voices))
    first, second = np.unravel_index(distances.argmin(), distances.shape)
    assert distances.min() > least, (voices[first], voices[second])


def test_sixty_voices_are_drawn_by_the_seed() -> None:
    voices = draw_voices(0)
    assert voices == draw_voices(0) != draw_voices(1)
    assert len({voice.variant for voice in voices}) == len(voices) == len(VARIANTS) >= 60
    for drawn in ("accent", "words_a_minute", "pitch"):
        assert len({getattr(voice, drawn) for voice in voices}) >= 8, drawn


def test_the_same_is_spoken_in_every_process() -> None:
    program = (
        "import hashlib; from datamodules.speech import ESpeak\n"
        f"with ESpeak() as espeak: print(hashlib.md5(espeak.speak({TEXT!r}, 'en-us+f3')).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    for _ in range(2):
        with ESpeak() as espeak:
            assert hashlib.md5(espeak.speak(TEXT, "en-us+f3")).hexdigest() == other
            espeak.speak(TEXT, "en-us+whisper")


def test_rate_and_pitch_are_heard() -> None:
    with ESpeak() as espeak:
        fast, slow = (espeak.speak(TEXT, "en-us+m3", words_a_minute=words) for words in (240, 120))
        high, low = (espeak.speak(TEXT, "en-us+m3", pitch=pitch) for pitch in (90, 10))
    assert 1.7 < len(slow) / len(fast) < 2.4
    assert 2 < fundamental(high) / fundamental(low) < 2.6


def fundamental(samples: NDArray[np.int16]) -> float:
    """A voice's pitch in Hz, from 60 to 300, by the mean cepstrum."""
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(float), 1764)[::441] * np.hanning(1764)
    cepstrum = np.fft.irfft(np.log(np.abs(np.fft.rfft(frames)) ** 2 + 1000)).mean(0)
    shortest = 22_050 // 300
    return 22_050 / (shortest + int(cepstrum[shortest : 22_050 // 60].argmax()))


@pytest.mark.parametrize("voice", ["en-us+nobody", "en-us+", "xx", "", "+f3", "en-us+../!v/f3x"])
def test_refuses_a_voice_that_is_not_there(voice: str) -> None:
    with ESpeak() as espeak, pytest.raises(ValueError, match="eSpeak NG has no voice"):
        espeak.speak(TEXT, voice)


def test_refuses_nothing_to_say() -> None:
    with ESpeak() as espeak, pytest.raises(ValueError, match="says nothing of ' '"):
        espeak.speak(" ", "en-us")


def test_names_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ValueError, match=r"pip install espeakng-loader$"):
        ESpeak()


def test_names_data_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    espeak = ESpeak()
    espeak.data = espeak.data.parent / "nowhere"
    with pytest.raises(ValueError, match=r"cannot read .*nowhere"), espeak:
        pass
    with ESpeak() as again:
        assert len(again.speak(TEXT, "en-us"))
