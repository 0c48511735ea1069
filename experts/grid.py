"""A small network for pictures that is trained from scratch, and whose tokens know where they are.

Legend: U inputs, C channels, H height, W width, P places of a feature map, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experts.base import Expert, ExpertTokens
from experts.image import ImageTransform

NUM_COORDINATES = 4


def coordinates(height: int, width: int) -> Tensor:
    """Return across, down and their squares for each place of a map, -1 to 1 and 0 to 1: shape (4, H, W).

    With the squares, how far a place is from a given one is linear in its coordinates, as attention needs it.
    """
    down_HW, across_HW = torch.meshgrid(
        (2 * torch.arange(height) + 1) / height - 1, (2 * torch.arange(width) + 1) / width - 1, indexing="ij"
    )
    return torch.stack([across_HW, down_HW, across_HW**2, down_HW**2])


class LocatedTokens(nn.Module):
    """Convolutions, then a token for each place of their map, or for each of a few things that it looks for.

    Args:
        channels: Of each convolution.
        strides: Of each.
        width: D.
        num_tokens: How many maps of attention each give a token, the mean over the places that it looks at (Ryoo et
            al., TokenLearner, NeurIPS 2021, arXiv 2106.11297); null gives one for each place.
    """

    def __init__(self, channels: list[int], strides: list[int], *, width: int, num_tokens: int | None) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in zip([3, *channels], channels, strides, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.attention = None if num_tokens is None else nn.Conv2d(channels[-1], num_tokens, 1)
        self.mix = nn.Sequential(
            nn.Linear(channels[-1] + NUM_COORDINATES, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, pixels_UCHW: Tensor) -> Tensor:
        """Return tokens, shape (U, N, D)."""
        features_UCHW = self.convolutions(pixels_UCHW)
        places_4HW = coordinates(*features_UCHW.shape[-2:]).to(features_UCHW)
        located_UCHW = torch.cat([features_UCHW, places_4HW.expand(len(features_UCHW), -1, -1, -1)], dim=1)
        located_UPC = located_UCHW.flatten(2).transpose(1, 2)
        if self.attention is not None:
            weights_UNP = self.attention(features_UCHW).flatten(2).softmax(-1)
            located_UPC = weights_UNP @ located_UPC
        tokens_UND: Tensor = self.mix(located_UPC)
        return tokens_UND


class GridExpert(Expert):
    """A small trained network for pictures. Its tokens say where they are, so that relations can be told.

    Args:
        image_size: Height and width that pictures are brought to, in pixels.
        channels: Of each convolution of 3x3.
        strides: Of each, one a convolution.
        width: D of the tokens.
        num_tokens: As many tokens, each the mean over the places that it looks at (Ryoo et al., TokenLearner, NeurIPS
            2021, arXiv 2106.11297); null gives one for each place of the last map.

    Raises:
        ValueError: A size is below 1, or there are not as many strides as convolutions.
    """

    def __init__(
        self,
        *,
        image_size: int = 75,
        channels: list[int] | None = None,
        strides: list[int] | None = None,
        width: int = 64,
        num_tokens: int | None = None,
    ) -> None:
        channels, strides = channels or [24, 24, 24, 24], strides or [2, 2, 2, 2]
        if len(channels) != len(strides):
            raise ValueError(f"there must be a stride for each of the {len(channels)} convolutions, not {len(strides)}")
        if min(image_size, width, *channels, *strides, num_tokens or 1) < 1:
            raise ValueError("image_size, channels, strides, width and num_tokens must be at least 1")
        config = {"input_size": (3, image_size, image_size), "interpolation": "bilinear", "crop_pct": 1.0}
        network = LocatedTokens(channels, strides, width=width, num_tokens=num_tokens)
        super().__init__(network, width=width, transform=ImageTransform(config), freeze=False)

    def encode(self, inputs: Tensor) -> ExpertTokens:
        """Turn uint8 pixels of shape (U, 3, H, W) into tokens."""
        tokens_UND = self.network(inputs.to(self.dtype) / 127.5 - 1)
        return ExpertTokens(tokens_UND, torch.ones_like(tokens_UND[..., 0], dtype=torch.bool))
