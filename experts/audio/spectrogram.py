"""Experts on log-mel frames that are trained, and the smallest of them: convolutions.

Legend: U inputs, S samples, F frames, N tokens, M mel bands, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from experts.audio.background import Background
from experts.audio.front_end import AudioTransform, LogMel
from experts.audio.lengths import as_tokens, zero_padding
from experts.audio.spec_augment import SpecAugment, VoiceWarp
from experts.base import Expert, ExpertTokens
from experts.features import Moments, Standardize


class LogMelExpert(Expert):
    """A network that is trained on log-mel frames, standardised by the training split.

    Args:
        network: What `contextualize` runs.
        sample_rate: In Hz; sound of any other rate is resampled.
        num_mels: M.
        width: D of the tokens.
        max_seconds: What is longer is cut.
        tokens: `all` or `mean`.
        time_masks: Stretches of time that are hidden in training; 0 for none. See `SpecAugment`.
        band_masks: Stretches of mel bands that are hidden in training; 0 for none.
        warp: By what share sounds are stretched in training; 0 for none. See `VoiceWarp`.
        bend: By how many mel bands at most parts of the spectrum are moved in training; 0 for none. See `VoiceWarp`.
        noise: Share of the sounds that are given noise in training; 0 for none. See `Background`.

    Raises:
        ValueError: A number out of range.
    """

    transform: AudioTransform

    def __init__(
        self,
        network: nn.Module,
        *,
        sample_rate: int,
        num_mels: int,
        width: int,
        max_seconds: float,
        tokens: Literal["mean", "all"],
        time_masks: int,
        band_masks: int,
        warp: float = 0.0,
        bend: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        if max_seconds <= 0:
            raise ValueError(f"max_seconds must be above 0, not {max_seconds}")
        transform = AudioTransform(sample_rate=sample_rate, max_seconds=max_seconds)
        super().__init__(network, width=width, transform=transform, freeze=False)
        self.tokens: Literal["mean", "all"] = tokens
        self.front = LogMel(sample_rate=sample_rate, num_mels=num_mels)
        self.standardize = Standardize(num_mels)
        self.background = Background(noise, self.front)
        self.warp = VoiceWarp(warp, bend)
        self.augment = SpecAugment(time_masks=time_masks, band_masks=band_masks)

    @abstractmethod
    def contextualize(self, frames_UFM: Tensor, mask_UF: Tensor) -> tuple[Tensor, Tensor]:
        """Turn frames, zero where masked, into hidden states of shape (U, N, D), and their mask of shape (U, N)."""

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
        frames_UFM = self.background(frames_UFM, mask_UF)
        frames_UFM, mask_UF = self.warp(self.standardize(frames_UFM), mask_UF)
        frames_UFM = self.augment(frames_UFM, mask_UF)
        hidden_UND, mask_UN = self.contextualize(zero_padding(frames_UFM, mask_UF), mask_UF)
        return as_tokens(hidden_UND, mask_UN, self.tokens)


def check_at_least(**arguments: tuple[int, int]) -> None:
    """Refuse arguments, each given with the least that it may be.

    Raises:
        ValueError: One is below.
    """
    for name, (value, least) in arguments.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")


def over_time(convolution: nn.Module, frames_UFD: Tensor) -> Tensor:
    """Run a convolution, which wants channels before time."""
    result_UDF: Tensor = convolution(frames_UFD.transpose(1, 2))
    return result_UDF.transpose(1, 2)


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
        hidden_UFD = zero_padding(F.gelu(self.norm(over_time(self.halve, frames_UFD))), mask_UF)
        mixed_UFD = hidden_UFD + self.channels(over_time(self.neighbours, hidden_UFD))
        return zero_padding(mixed_UFD, mask_UF), mask_UF


class SpectrogramExpert(LogMelExpert):
    """A small convolutional network for sound that is trained, on log-mel frames standardised by the training split.

    Args:
        sample_rate: In Hz; sound of any other rate is resampled.
        num_mels: Bands of the spectrogram.
        width: D of the tokens.
        max_seconds: What is longer is cut.
        tokens: `all` gives a token for every 10 ms times two to the power of `depth`, 80 ms by default, `mean` one.
        depth: Stages, each of which halves the number of tokens.
        dropout: In each stage.
        time_masks: Stretches of time that are hidden in training; see `SpecAugment`.
        band_masks: Stretches of mel bands that are hidden in training.

    Raises:
        ValueError: A number out of range.
    """

    network: nn.ModuleList

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
        time_masks: int = 0,
        band_masks: int = 0,
    ) -> None:
        check_at_least(sample_rate=(sample_rate, 1000), num_mels=(num_mels, 1), width=(width, 1), depth=(depth, 1))
        stages = [ConvStage(width if number else num_mels, width, dropout=dropout) for number in range(depth)]
        super().__init__(
            nn.ModuleList(stages),
            sample_rate=sample_rate,
            num_mels=num_mels,
            width=width,
            max_seconds=max_seconds,
            tokens=tokens,
            time_masks=time_masks,
            band_masks=band_masks,
        )

    def contextualize(self, frames_UFM: Tensor, mask_UF: Tensor) -> tuple[Tensor, Tensor]:
        """Run the stages."""
        hidden_UFD = frames_UFM
        for stage in self.network:
            hidden_UFD, mask_UF = stage(hidden_UFD, mask_UF)
        return hidden_UFD, mask_UF
