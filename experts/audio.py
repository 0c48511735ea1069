"""Sound: a log-mel front end, and a small convolutional network that is trained.

Legend: U inputs, S samples, F frames, N tokens, M mel bands, Q frequencies of a spectrum, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import melscale_fbanks, resample, spectrogram

from experts.base import Expert, ExpertTokens
from experts.features import Moments, Standardize

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
        samples_TC, rate = raw
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
            power_UQF = spectrogram(
                F.pad(samples_US.float(), (0, missing)),
                pad=0,
                window=self.window_S.float(),
                n_fft=self.n_fft,
                hop_length=self.hop_length,
                win_length=self.win_length,
                power=2.0,
                normalized=False,
                center=False,
            )
            frames_UFM = (power_UQF.transpose(1, 2) @ self.filters_QM.float()).clamp_min(QUIET).log()
        starts_F = self.hop_length * torch.arange(num_frames, device=lengths_U.device)
        return frames_UFM, starts_F < lengths_U.unsqueeze(1)


class ConvStage(nn.Module):
    """Halves the frames by a convolution, then mixes neighbours and channels (ConvNeXt in one dimension).

    It normalises each frame by itself, so that no frame depends on the padding of its batch.

    Args:
        channels: Of the input.
        width: D of the output.
        dropout: Before the residual sum.
    """

    def __init__(self, channels: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.halve = nn.Conv1d(channels, width, kernel_size=5, stride=2, padding=2)
        self.norm = nn.LayerNorm(width)
        self.neighbours = nn.Conv1d(width, width, kernel_size=7, padding=3, groups=width)
        self.channels = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, frames_UFD: Tensor, mask_UF: Tensor) -> tuple[Tensor, Tensor]:
        """Turn F frames into half as many; masked ones are zero in both."""
        mask_UF = mask_UF[:, ::2]
        hidden_UFD = _over_time(self.halve, frames_UFD)
        hidden_UFD = F.gelu(self.norm(hidden_UFD)).masked_fill(~mask_UF.unsqueeze(-1), 0)
        mixed_UFD = hidden_UFD + self.channels(_over_time(self.neighbours, hidden_UFD))
        return mixed_UFD.masked_fill(~mask_UF.unsqueeze(-1), 0), mask_UF


def _over_time(convolution: nn.Module, frames_UFD: Tensor) -> Tensor:
    result_UDF: Tensor = convolution(frames_UFD.transpose(1, 2))
    return result_UDF.transpose(1, 2)


class SpectrogramExpert(Expert):
    """A small convolutional network for sound that is trained, on log-mel frames standardised by the training split.

    Args:
        sample_rate: In Hz; sound of any other rate is resampled.
        num_mels: Bands of the spectrogram.
        width: D of the tokens.
        max_seconds: What is longer is cut.
        tokens: `all` gives a token for every 10 ms times two to the power of `depth`, 80 ms by default, `mean` one.
        depth: Stages, each of which halves the number of tokens.
        dropout: In each stage.

    Raises:
        ValueError: A number out of range.
    """

    network: nn.ModuleList
    transform: AudioTransform

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        num_mels: int = 64,
        width: int = 64,
        max_seconds: float = 10.0,
        tokens: Literal["mean", "all"] = "all",
        depth: int = 3,
        dropout: float = 0.1,
    ) -> None:
        for name, value, least in (
            ("sample_rate", sample_rate, 1000),
            ("num_mels", num_mels, 1),
            ("width", width, 1),
            ("depth", depth, 1),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        if max_seconds <= 0:
            raise ValueError(f"max_seconds must be above 0, not {max_seconds}")
        stages = [ConvStage(width if number else num_mels, width, dropout=dropout) for number in range(depth)]
        super().__init__(
            nn.ModuleList(stages),
            width=width,
            transform=AudioTransform(sample_rate=sample_rate, max_seconds=max_seconds),
            freeze=False,
        )
        self.tokens = tokens
        self.front = LogMel(sample_rate=sample_rate, num_mels=num_mels)
        self.standardize = Standardize(num_mels)

    @property
    def needs_statistics(self) -> bool:
        """Until they are learned, or a checkpoint brings them."""
        return not self.standardize.is_fitted

    def learn_statistics(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Learn each band's mean and deviation."""
        moments = Moments(len(self.standardize.mean_D))
        for inputs in batches:
            frames_UFM, mask_UF = self.front(inputs["samples"], inputs["lengths"])
            moments.add(frames_UFM[mask_UF])
        self.standardize.learn(moments)

    def encode(self, inputs: dict[str, Tensor]) -> ExpertTokens:
        """Turn samples of shape (U, S) into tokens."""
        frames_UFM, mask_UF = self.front(inputs["samples"], inputs["lengths"])
        hidden_UFD = self.standardize(frames_UFM).masked_fill(~mask_UF.unsqueeze(-1), 0)
        for stage in self.network:
            hidden_UFD, mask_UF = stage(hidden_UFD, mask_UF)
        if self.tokens == "all":
            return ExpertTokens(hidden_UFD, mask_UF)
        mean_UD = hidden_UFD.sum(1) / mask_UF.sum(1, keepdim=True)
        return ExpertTokens(mean_UD.unsqueeze(1), mask_UF.any(1, keepdim=True))
