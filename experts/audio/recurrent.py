"""Convolutions and a recurrent network: little to compute, and it learns the order of sounds from few of them.

Legend: U inputs, F frames, N tokens, M mel bands, D width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from experts.audio.conformer import Subsampling
from experts.audio.lengths import zero_padding
from experts.audio.spectrogram import LogMelExpert, check_at_least


class RecurrentExpert(LogMelExpert):
    """Two convolutions and a gated recurrent network in both directions (GRU), trained; a token for every 40 ms.

    Each sound's mean spectrum is taken away first: what a voice or a microphone gives to all of it tells nothing of
    what is said.

    Args:
        sample_rate: In Hz; sound of any other rate is resampled.
        num_mels: Bands of the spectrogram.
        width: D of the tokens, half of it for each direction; even.
        max_seconds: What is longer is cut.
        tokens: `all` gives a token for every 40 ms, `mean` one.
        depth: Recurrent layers.
        dropout: Before and after each of them.
        time_masks: Stretches of time that are hidden in training; 0 for none. See `SpecAugment`.
        band_masks: Stretches of mel bands that are hidden in training; 0 for none.
        warp: By what share sounds are stretched along frequency and time in training; 0 for none. See `VoiceWarp`.
        bend: By how many mel bands at most parts of the spectrum are moved in training; 0 for none. See `VoiceWarp`.
        noise: Share of the sounds that are given noise in training; 0 for none. See `Background`.

    Raises:
        ValueError: A number out of range.
    """

    network: nn.ModuleList

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        num_mels: int = 64,
        width: int = 256,
        max_seconds: float = 10.0,
        tokens: Literal["mean", "all"] = "mean",
        depth: int = 1,
        dropout: float = 0.1,
        time_masks: int = 0,
        band_masks: int = 1,
        warp: float = 0.15,
        bend: float = 6.0,
        noise: float = 0.0,
    ) -> None:
        check_at_least(sample_rate=(sample_rate, 1000), num_mels=(num_mels, 1), width=(width, 2), depth=(depth, 1))
        if width % 2:
            raise ValueError(f"width must be even, not {width}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is a share, at least 0 and below 1, not {dropout}")
        sizes = [width // 2] + [width] * (depth - 1)
        layers = [nn.GRU(size, width // 2, batch_first=True, bidirectional=True) for size in sizes]
        super().__init__(
            nn.ModuleList([Subsampling(num_mels, width // 2), *layers]),
            sample_rate=sample_rate,
            num_mels=num_mels,
            width=width,
            max_seconds=max_seconds,
            tokens=tokens,
            time_masks=time_masks,
            band_masks=band_masks,
            warp=warp,
            bend=bend,
            noise=noise,
        )
        self.dropout = nn.Dropout(dropout)

    def contextualize(self, frames_UFM: Tensor, mask_UF: Tensor) -> tuple[Tensor, Tensor]:
        """Turn frames into the states of the last layer."""
        mean_U1M = (frames_UFM.sum(1) / mask_UF.sum(1, keepdim=True)).unsqueeze(1)
        subsampling, *layers = self.network
        hidden_UND, mask_UN = subsampling(zero_padding(frames_UFM - mean_U1M, mask_UF), mask_UF)
        # each direction begins and ends with the sound, whatever it is padded with
        lengths_U = mask_UN.sum(1).cpu()
        for layer in layers:
            packed = pack_padded_sequence(self.dropout(hidden_UND), lengths_U, batch_first=True, enforce_sorted=False)
            hidden_UND, _ = pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=mask_UN.shape[1])
        return zero_padding(self.dropout(hidden_UND), mask_UN), mask_UN
