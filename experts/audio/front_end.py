"""From sound of any rate to samples of one rate, and to the logarithm of its power in mel bands.

Legend: U inputs, T samples as read, S samples, F frames, M mel bands, Q frequencies of a spectrum.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import melscale_fbanks, resample, spectrogram

from experts.raw import require_kind

WINDOW_SECONDS, HOP_SECONDS = 0.025, 0.010
QUIET = 1e-6  # power below which all is silence
LOUDEST = 2.0**31  # what is read as integers, and not scaled; the square of much more is infinite in float32
# the filter for 44,101 to 16,000 Hz would take a minute; a ratio of smaller numbers is off by less than is heard
MAX_DENOMINATOR = 1000

Sound = tuple[NDArray[np.floating[Any]], int]


class AudioTransform:
    """Mixes sound to one channel and resamples it.

    Args:
        sample_rate: In Hz.
        max_seconds: What is longer is cut.
    """

    def __init__(self, *, sample_rate: int, max_seconds: float) -> None:
        self.sample_rate = sample_rate
        self.max_seconds = max_seconds

    def __call__(self, raw: Sound) -> Tensor:
        """Turn samples of shape (T, channels) and their rate in Hz into float32 of shape (S,).

        Raises:
            ValueError: No samples, another shape or type, or a value that is no finite number.
        """
        require_kind(raw, tuple, "samples and their rate")
        samples_TC, rate = raw
        require_kind(samples_TC, np.ndarray, "an array of samples")
        if samples_TC.ndim != 2 or samples_TC.dtype.kind != "f":
            raise ValueError(
                f"expected floating point samples of shape (samples, channels), found {samples_TC.dtype} of shape "
                f"{samples_TC.shape}"
            )
        if not samples_TC.size:
            raise ValueError("a sound without any samples")
        ratio = Fraction(self.sample_rate, max(1, int(rate))).limit_denominator(MAX_DENOMINATOR)
        if rate < 1 or not ratio:
            raise ValueError(f"a sample rate of {rate} Hz")
        samples_TC = samples_TC[: max(1, round(self.max_seconds * rate))]
        if not (np.abs(samples_TC) <= LOUDEST).all():  # nor is NaN
            raise ValueError("a sound with samples that are no finite numbers, or far beyond the usual -1 to 1")
        mono_T = torch.from_numpy(samples_TC.mean(1, dtype=np.float32))
        samples_S: Tensor = resample(mono_T, ratio.denominator, ratio.numerator)
        return samples_S

    def collate(self, items: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad to `samples` of shape (U, S), with `lengths` of shape (U,) in samples."""
        return {
            "samples": pad_sequence(list(items), batch_first=True),
            "lengths": torch.tensor([len(item) for item in items]),
        }

    def complaint(self, raw: Sound) -> tuple[str, str] | None:
        """Tell of a sound of too low a rate, or that is cut."""
        samples_TC, rate = raw
        if rate < self.sample_rate:
            return "sample rate", f"{rate} Hz, below the expert's {self.sample_rate} Hz"
        if (seconds := len(samples_TC) / rate) > self.max_seconds:
            return "audio too long", f"{seconds:.1f} s, cut to {self.max_seconds:g} s"
        return None

    @property
    def for_evaluation(self) -> AudioTransform:
        """Itself: there is no chance in it."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what the samples depend on."""
        return {"sample_rate": self.sample_rate, "max_seconds": self.max_seconds}


class LogMel(nn.Module):
    """Logarithm of the power in mel bands, a frame every 10 ms; padding changes no real frame.

    It has no state, and computes in float32 whatever a model is cast to.

    Args:
        sample_rate: In Hz.
        num_mels: M, up to half the sample rate.

    Raises:
        ValueError: So many bands that one of them would hold no frequency.
    """

    window_S: Tensor
    filters_QM: Tensor

    def __init__(self, *, sample_rate: int, num_mels: int) -> None:
        super().__init__()
        self.win_length = round(WINDOW_SECONDS * sample_rate)
        self.hop_length = round(HOP_SECONDS * sample_rate)
        self.n_fft = 1 << (self.win_length - 1).bit_length()
        with warnings.catch_warnings(action="ignore"):  # of what is refused below
            filters_QM = melscale_fbanks(self.n_fft // 2 + 1, 0.0, sample_rate / 2, num_mels, sample_rate)
        if not filters_QM.any(0).all():
            raise ValueError(f"num_mels: {num_mels} are too many at a sample rate of {sample_rate} Hz")
        self.register_buffer("window_S", torch.hann_window(self.win_length), persistent=False)
        self.register_buffer("filters_QM", filters_QM, persistent=False)

    def forward(self, samples_US: Tensor, lengths_U: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames of shape (U, F, M), and a mask of shape (U, F) that is true where a frame is real."""
        # each frame begins inside the sound, and what lies behind its end is zero, be it padding of a batch or not
        num_frames = -(-samples_US.shape[1] // self.hop_length)
        missing = (num_frames - 1) * self.hop_length + self.n_fft - samples_US.shape[1]
        with torch.autocast(samples_US.device.type, enabled=False):
            waves_UQF = spectrogram(
                F.pad(samples_US.float(), (0, missing)),
                pad=0,
                window=self.window_S.float(),
                n_fft=self.n_fft,
                hop_length=self.hop_length,
                win_length=self.win_length,
                power=None,
                normalized=False,
                center=False,
            )
            # torchaudio's own power takes a root and squares it again, which is twice as slow
            power_UQF = waves_UQF.real.square() + waves_UQF.imag.square()
            frames_UFM = (power_UQF.transpose(1, 2) @ self.filters_QM.float()).clamp_min(QUIET).log()
        starts_F = self.hop_length * torch.arange(num_frames, device=lengths_U.device)
        return frames_UFM, starts_F < lengths_U.unsqueeze(1)
