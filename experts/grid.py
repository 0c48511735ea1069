"""A small network for pictures that is trained from scratch, and whose tokens know where they are.

Legend: U inputs, C channels, H height, W width, P places of a feature map, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experts.base import Expert, ExpertTokens
from experts.image import ImageTransform

NUM_COORDINATES = 4
SHARPNESS = 4.0  # deviations of the first attention's logits


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
        kernels: Height and width of each.
        strides: Of each.
        width: D.
        num_tokens: N; null gives one for each place.
    """

    def __init__(
        self, channels: list[int], kernels: list[int], strides: list[int], *, width: int, num_tokens: int | None
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = zip([3, *channels[:-1]], channels, kernels, strides, strict=True)
        for before, after, kernel, stride in sizes:
            padding = (kernel - stride + 1) // 2  # none around patches that do not overlap
            # zeros around a picture would be edges, and edges are what stands out
            convolution = nn.Conv2d(before, after, kernel, stride, padding, bias=False, padding_mode="replicate")
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.attention = None if num_tokens is None else _attention(channels[-1], num_tokens)
        self.mix = nn.Sequential(
            nn.Linear(channels[-1] + NUM_COORDINATES, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, pixels_UCHW: Tensor) -> Tensor:
        """Return tokens, shape (U, N, D)."""
        features_UCHW = self.convolutions(pixels_UCHW)
        places_CHW = coordinates(*features_UCHW.shape[-2:]).to(features_UCHW)
        located_UCHW = torch.cat([features_UCHW, places_CHW.expand(len(features_UCHW), -1, -1, -1)], dim=1)
        located_UPC = located_UCHW.flatten(2).transpose(1, 2)
        if self.attention is not None:
            logits_UNP = self.attention(features_UCHW).flatten(2)
            # what another token looks at more is left to it
            weights_UNP = (logits_UNP + logits_UNP.log_softmax(1)).softmax(-1)
            located_UPC = weights_UNP @ located_UPC
        tokens_UND: Tensor = self.mix(located_UPC)
        return tokens_UND


def _attention(channels: int, num_tokens: int) -> nn.Module:
    """Return what makes logits of features: sharp from the first step, and sharpest on what is rare in pictures.

    From even weights each token would begin as the picture's mean, which hardly shows where any one thing is, so that
    nothing tells it where to look.
    """
    norm = nn.BatchNorm2d(num_tokens)
    nn.init.constant_(norm.weight, SHARPNESS)
    return nn.Sequential(nn.Conv2d(channels, num_tokens, 1, bias=False), norm)


class GridExpert(Expert):
    """A small convolutional network, trained from scratch, whose tokens say where they are: relations can be told.

    Coordinates are added to the channels, as in Santoro et al. 2017 (arXiv 1706.01427), and their squares.

    Args:
        image_size: Height and width that pictures are brought to, in pixels.
        channels: Of each convolution; by default four of 24.
        kernels: Height and width of each; by default 3.
        strides: Of each; by default 2.
        width: D of the tokens.
        num_tokens: As many tokens, each the mean over the places that it looks at (Ryoo et al., TokenLearner, NeurIPS
            2021, arXiv 2106.11297); null gives one for each place of the last map.

    Raises:
        ValueError: A size is below 1, a stride above its kernel, or the lists differ in length.
    """

    def __init__(
        self,
        *,
        image_size: int = 75,
        channels: list[int] | None = None,
        kernels: list[int] | None = None,
        strides: list[int] | None = None,
        width: int = 64,
        num_tokens: int | None = None,
    ) -> None:
        channels = [24] * 4 if channels is None else channels
        kernels = [3] * len(channels) if kernels is None else kernels
        strides = [2] * len(channels) if strides is None else strides
        if not channels or not len(channels) == len(kernels) == len(strides):
            raise ValueError(
                f"channels ({len(channels)}), kernels ({len(kernels)}) and strides ({len(strides)}) must be as many "
                "as there are convolutions, at least one"
            )
        sizes = {"image_size": [image_size], "channels": channels, "kernels": kernels, "strides": strides}
        for name, values in {
            **sizes,
            "width": [width],
            "num_tokens": [1 if num_tokens is None else num_tokens],
        }.items():
            if min(values) < 1:
                raise ValueError(f"{name} must be at least 1, not {min(values)}")
        if any(stride > kernel for stride, kernel in zip(strides, kernels, strict=True)):
            raise ValueError(f"strides {strides} above kernels {kernels} would leave pixels out")
        config = {"input_size": (3, image_size, image_size), "interpolation": "bilinear", "crop_pct": 1.0}
        network = LocatedTokens(channels, kernels, strides, width=width, num_tokens=num_tokens)
        super().__init__(network, width=width, transform=ImageTransform(config), freeze=False)

    def encode(self, inputs: Tensor) -> ExpertTokens:
        """Turn uint8 pixels of shape (U, 3, H, W) into tokens."""
        tokens_UND = self.network(inputs.to(self.dtype) / 127.5 - 1)
        return ExpertTokens(tokens_UND, torch.ones_like(tokens_UND[..., 0], dtype=torch.bool))
