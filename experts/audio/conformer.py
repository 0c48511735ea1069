"""A small Conformer that is trained on log-mel frames, on a CPU if need be.

Legend: U inputs, F frames (N once they are fewer), M mel bands, D width, H heads, K width of a head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.audio.lengths import zero_padding
from experts.audio.spectrogram import LogMelExpert, check_at_least, over_time


class Subsampling(nn.Module):
    """Makes one hidden state of every four frames, by two convolutions.

    Args:
        num_mels: M.
        width: D.
    """

    def __init__(self, num_mels: int, width: int) -> None:
        super().__init__()
        self.halves = nn.ModuleList(
            nn.Conv1d(channels, width, kernel_size=5, stride=2, padding=2) for channels in (num_mels, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.halves)

    def forward(self, frames_UFM: Tensor, mask_UF: Tensor) -> tuple[Tensor, Tensor]:
        """Turn F frames into a quarter as many; masked ones are zero in both."""
        hidden_UND, mask_UN = frames_UFM, mask_UF
        for halve, norm in zip(self.halves, self.norms, strict=True):
            mask_UN = mask_UN[:, ::2]
            hidden_UND = zero_padding(F.silu(norm(over_time(halve, hidden_UND))), mask_UN)
        return hidden_UND, mask_UN


class SelfAttention(nn.Module):
    """Attention among a sound's own states, which knows how far apart they are by rotation (Su et al. 2021).

    Args:
        width: D.
        heads: H.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden_UND: Tensor, mask_UN: Tensor) -> Tensor:
        """Mix each sound's states."""
        parts = self.queries_keys_values(self.norm(hidden_UND)).chunk(3, dim=-1)
        query_UHNK, key_UHNK, value_UHNK = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mask_U11N = mask_UN[:, None, None]
        mixed_UHNK = F.scaled_dot_product_attention(_rotate(query_UHNK), _rotate(key_UHNK), value_UHNK, mask_U11N)
        mixed_UND: Tensor = self.out(mixed_UHNK.transpose(1, 2).flatten(2))
        return mixed_UND


def _rotate(vectors_UHNK: Tensor) -> Tensor:
    """Turn pairs of numbers by angles that grow with the place (rotary position embedding, arXiv 2104.09864)."""
    half = vectors_UHNK.shape[-1] // 2
    place_N1 = torch.arange(vectors_UHNK.shape[2], device=vectors_UHNK.device).unsqueeze(1)
    speed_K = 100.0 ** -(torch.arange(half, device=vectors_UHNK.device) / half)  # one turn in 0.25 s, to one in 25 s
    sine_NK, cosine_NK = ((place_N1 * speed_K).sin(), (place_N1 * speed_K).cos())
    sine_NK, cosine_NK = sine_NK.to(vectors_UHNK.dtype), cosine_NK.to(vectors_UHNK.dtype)
    first, second = vectors_UHNK.chunk(2, dim=-1)
    return torch.cat([first * cosine_NK - second * sine_NK, first * sine_NK + second * cosine_NK], dim=-1)


class Neighbours(nn.Module):
    """The convolution module, which normalises each state by itself where the paper has a batch norm.

    Args:
        width: D.
        kernel_size: Of the depthwise convolution; odd.
    """

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width)
        self.inner_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, hidden_UND: Tensor, mask_UN: Tensor) -> Tensor:
        """Mix neighbours."""
        gated_UND = zero_padding(F.glu(self.gate(self.norm(hidden_UND))), mask_UN)
        mixed_UND: Tensor = self.out(F.silu(self.inner_norm(over_time(self.depthwise, gated_UND))))
        return mixed_UND


class ConformerBlock(nn.Module):
    """Half a feed-forward layer, attention, a convolution, and the other half (Gulati et al. 2020, arXiv 2005.08100).

    Args:
        width: D.
        heads: H.
        kernel_size: Of the convolution; odd.
        dropout: Before each residual sum.
    """

    def __init__(self, width: int, *, heads: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.before, self.after = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(2)
        )
        self.attention = SelfAttention(width, heads)
        self.neighbours = Neighbours(width, kernel_size)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, hidden_UND: Tensor, mask_UN: Tensor) -> Tensor:
        """Turn states into states; what masked ones become is for the caller to ignore."""
        hidden_UND = hidden_UND.add(self.dropout(self.before(hidden_UND)), alpha=0.5)
        hidden_UND = hidden_UND + self.dropout(self.attention(hidden_UND, mask_UN))
        hidden_UND = hidden_UND + self.dropout(self.neighbours(hidden_UND, mask_UN))
        normed_UND: Tensor = self.norm(hidden_UND.add(self.dropout(self.after(hidden_UND)), alpha=0.5))
        return normed_UND


class ConformerExpert(LogMelExpert):
    """A small Conformer for speech and other sound that is trained, a token for every 40 ms.

    torchaudio's Conformer normalises over batch and time and does not mask its convolutions, so that a sound's padding
    would change its tokens; in this one it changes nothing.

    Args:
        sample_rate: In Hz; sound of any other rate is resampled.
        num_mels: Bands of the spectrogram.
        width: D of the tokens; a multiple of twice the heads.
        max_seconds: What is longer is cut.
        tokens: `all` gives a token for every 40 ms, `mean` one.
        depth: Blocks.
        heads: Of attention.
        kernel_size: Of each block's convolution, in tokens; odd.
        dropout: In each block.
        time_masks: Stretches of time that are hidden in training; 0 for none. See `SpecAugment`.
        band_masks: Stretches of mel bands that are hidden in training; 0 for none.

    Raises:
        ValueError: A number out of range.
    """

    network: nn.ModuleList

    def __init__(
        self,
        *,
        sample_rate: int = 16_000,
        num_mels: int = 64,
        width: int = 96,
        max_seconds: float = 10.0,
        tokens: Literal["mean", "all"] = "all",
        depth: int = 3,
        heads: int = 4,
        kernel_size: int = 15,
        dropout: float = 0.1,
        time_masks: int = 2,
        band_masks: int = 2,
    ) -> None:
        check_at_least(
            sample_rate=(sample_rate, 1000),
            num_mels=(num_mels, 1),
            width=(width, 1),
            depth=(depth, 1),
            heads=(heads, 1),
            kernel_size=(kernel_size, 1),
        )
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of twice the heads: {width} is none of {2 * heads}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        blocks = [ConformerBlock(width, heads=heads, kernel_size=kernel_size, dropout=dropout) for _ in range(depth)]
        super().__init__(
            nn.ModuleList([Subsampling(num_mels, width), *blocks]),
            sample_rate=sample_rate,
            num_mels=num_mels,
            width=width,
            max_seconds=max_seconds,
            tokens=tokens,
            time_masks=time_masks,
            band_masks=band_masks,
        )

    def contextualize(self, frames_UFM: Tensor, mask_UF: Tensor) -> tuple[Tensor, Tensor]:
        """Make a quarter as many states, and run the blocks."""
        subsample, *blocks = self.network
        hidden_UND, mask_UN = subsample(frames_UFM, mask_UF)
        for block in blocks:
            hidden_UND = block(hidden_UND, mask_UN)
        return hidden_UND, mask_UN
