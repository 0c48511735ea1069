"""A small convolutional network for small pictures, trained from scratch.

Legend: U pictures, C channels, H height, W width, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from experts.base import Expert, ExpertTokens
from experts.raw import require_kind


class SmallPictures:
    """Pictures as RGB pixels of one size.

    Args:
        size: Height and width.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, raw: Image.Image) -> Tensor:
        """Turn a picture into uint8 pixels of shape (H, W, 3).

        Raises:
            ValueError: It is no picture.
        """
        require_kind(raw, Image.Image, "a picture")
        image = raw.convert("RGB")
        if image.size != (self.size, self.size):
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image))

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        """Stack pixels to uint8 of shape (U, 3, H, W)."""
        return torch.stack(list(items)).permute(0, 3, 1, 2)

    @property
    def for_evaluation(self) -> SmallPictures:
        """Itself."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what the pixels depend on."""
        return {"size": self.size}


class ConvolutionExpert(Expert):
    """Convolutions that each halve the picture, and a layer over what is left: one token a picture.

    timm's networks are made for large pictures: on 32 x 32 pixels their first strides leave nothing to look at.

    Args:
        size: Height and width in pixels; other pictures are resized.
        channels: Of each 5 x 5 convolution of stride two; each is followed by a norm and ReLU. Strides in the place of
            pooling take a quarter of the time on a CPU.
        width: D of the token.
        norm: `group` normalises each picture by itself. `batch` keeps running statistics, which replicas whose data
            differ do not share: their mean is of none of them.
        dropout: Of whole channels, before the last layer.

    Raises:
        ValueError: Numbers out of range.
    """

    def __init__(
        self,
        *,
        size: int = 32,
        channels: Sequence[int] = (16, 32, 64),
        width: int = 128,
        norm: Literal["group", "batch"] = "group",
        dropout: float = 0.1,
    ) -> None:
        if width < 1 or not channels or min(channels) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"width ({width}) and channels ({list(channels)}) must be at least 1, dropout ({dropout}) at least 0 "
                "and below 1"
            )
        left = size // 2 ** len(channels)
        if left < 1:
            raise ValueError(f"size ({size}) cannot be halved {len(channels)} times; give fewer channels")
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels[:-1]), channels, strict=True):
            layers.append(nn.Conv2d(before, after, 5, stride=2, padding=2, bias=False))
            # groups of all channels where they have no common divisor with 4
            layers.append(nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(4 if after % 4 == 0 else 1, after))
            layers.append(nn.ReLU())
        flat = channels[-1] * left**2
        network = nn.Sequential(*layers, nn.Dropout2d(dropout), nn.Flatten(), nn.Linear(flat, width), nn.ReLU())
        super().__init__(network, width=width, transform=SmallPictures(size), freeze=False)

    def encode(self, inputs: Tensor) -> ExpertTokens:
        """Turn uint8 pixels of shape (U, 3, H, W) into tokens."""
        tokens_U1D = self.network(inputs.float() / 127.5 - 1).unsqueeze(1)
        return ExpertTokens(tokens_U1D, torch.ones(len(inputs), 1, dtype=torch.bool, device=inputs.device))
