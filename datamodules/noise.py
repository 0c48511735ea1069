"""Sound with noise, mixed when it is read, and always the same.

Legend: T samples of sound, C channels.
"""

from __future__ import annotations

import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.faults import InputError
from datamodules.sources import AudioFiles, Source

Noise = Literal["pink", "babble"]
NUM_TALKERS = 3  # of babble
SILENT = 0.01  # of the peak, 40 dB below it: what is quieter before the first word and after the last is no speech
MIXING = 1  # raised when the same settings give something else: stored tokens are then encoded anew


class NoisyAudio(Source):
    """Sounds with noise: which noise, and how much, is drawn for each by its name and the seed.

    Args:
        sounds: Without noise, one channel each.
        noise: `pink` has equal power in each octave; `babble` is three others who speak at the same time.
        snr: Lowest and highest ratio of the powers of signal and noise in dB, over the spoken part.
        speakers: Who speaks in each sound, a number; babble is others'.
        seed: Of the noise.

    Raises:
        ValueError: There are fewer than three others for babble.
    """

    def __init__(
        self,
        sounds: AudioFiles,
        *,
        noise: Noise,
        snr: tuple[float, float],
        speakers: NDArray[np.int64],
        seed: int = 0,
    ) -> None:
        self.sounds = sounds
        self.noise = noise
        self.snr = snr
        self.speakers = speakers
        self.seed = seed
        self._everyone = np.unique(speakers)
        if noise == "babble" and len(self._everyone) <= NUM_TALKERS:
            raise ValueError(f"babble needs at least {NUM_TALKERS + 1} voices, not {len(self._everyone)}")

    def __len__(self) -> int:
        return len(self.sounds)

    def load(self, position: int) -> tuple[NDArray[np.float32], int]:
        """Return samples of shape (T, 1) and their rate in Hz.

        Raises:
            InputError: It cannot be read, or is silent.
        """
        samples, rate = self.sounds.load(position)
        draw = self._draw(position)
        snr = draw.uniform(*self.snr)
        if self.noise == "pink":
            noise_T = pink(len(samples), draw)
        else:
            noise_T = np.zeros(len(samples))
            for talker in self._talkers(position):
                other_T = self.sounds.load(talker)[0][:, 0]
                noise_T += np.resize(np.roll(other_T, draw.integers(len(other_T))), len(samples))
        return mix(samples[:, 0], noise_T, snr)[:, np.newaxis], rate

    def name(self, position: int) -> str:
        """Return the path."""
        return self.sounds.name(position)

    def content(self, position: int) -> bytes:
        """Return the bytes of all files that are mixed, and how."""
        files = [position, *(self._talkers(position) if self.noise == "babble" else [])]
        how = f"{MIXING} {self.noise} {self.snr} {self._seed(position)}"
        return b"\0".join([how.encode(), *(self.sounds.content(file) for file in files)])

    def _talkers(self, position: int) -> list[int]:
        """Draw sounds of others."""
        draw = np.random.default_rng([self._seed(position), 1])
        others = self._everyone[self._everyone != self.speakers[position]]
        talkers = draw.choice(others, NUM_TALKERS, replace=False)
        return [int(draw.choice(np.flatnonzero(self.speakers == talker))) for talker in talkers]

    def _draw(self, position: int) -> np.random.Generator:
        return np.random.default_rng(self._seed(position))

    def _seed(self, position: int) -> int:
        path = self.sounds.paths[position]  # the folder that all lie in may be moved
        return zlib.crc32(f"{self.seed} {path.parent.name} {path.name}".encode())


def spoken_part(samples_T: NDArray[np.floating]) -> slice:
    """Return from where to where there is speech.

    Raises:
        InputError: It is silent.
    """
    loudness_T = np.abs(samples_T)
    loud = np.flatnonzero(loudness_T > SILENT * loudness_T.max())
    if not len(loud):
        raise InputError("silent audio", "is silent, so that there is no ratio of it to noise")
    return slice(int(loud[0]), int(loud[-1]) + 1)


def mix(samples_T: NDArray[np.floating], noise_T: NDArray[np.floating], snr: float) -> NDArray[np.float32]:
    """Add noise, scaled such that the powers in the spoken part have this ratio in dB."""
    spoken = spoken_part(samples_T)
    powers = [np.mean(np.square(part[spoken], dtype=np.float64)) for part in (samples_T, noise_T)]
    scale = np.sqrt(powers[0] / powers[1] / 10 ** (snr / 10))
    mixed_T: NDArray[np.float32] = (samples_T + scale * noise_T).astype(np.float32)
    return mixed_T


def pink(length: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """Return noise of shape (length,) whose power falls with one over the frequency."""
    spectrum = np.fft.rfft(draw.standard_normal(length))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    return np.fft.irfft(spectrum, length)
