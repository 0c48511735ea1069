"""A small network for pictures that is trained from scratch, and with a token for each place, which knows where it is.

Legend: U inputs, C channels, H height, W width, P places of a feature map, N tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experts.base import Expert, ExpertTokens
from experts.image import ImageTransform


def middles(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Return where the places of a map are, across and down from -1 to 1, line by line: shape (H * W, 2)."""
    down_HW, across_HW = torch.meshgrid(
        *((2 * torch.arange(size, device=device) + 1) / size - 1 for size in (height, width)), indexing="ij"
    )
    return torch.stack([across_HW.flatten(), down_HW.flatten()], dim=1)


class Located(nn.Module):
    """Joins what is seen and where that is to tokens.

    Two numbers beside many features would hardly be heard: they are made as many. With their squares, how far a place
    is from a given one is linear in them, as attention needs it.

    Args:
        channels: C.
        width: D.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(4, width)
        self.mix = nn.Sequential(nn.Linear(channels + width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, features_UNC: Tensor, where_UN2: Tensor) -> Tensor:
        """Return tokens, shape (U, N, D); places are across and down from -1 to 1."""
        scaled_UN2 = where_UN2 * 3**0.5  # to a deviation of 1
        place_UND = self.place(torch.cat([scaled_UN2, scaled_UN2**2], dim=-1))
        tokens_UND: Tensor = self.mix(torch.cat([features_UNC, place_UND], dim=-1))
        return tokens_UND


class Grid(nn.Module):
    """Convolutions, then a token for each place of their map.

    Args:
        channels: Of each convolution.
        kernels: Height and width of each.
        strides: Of each.
        width: D.
    """

    def __init__(self, channels: list[int], kernels: list[int], strides: list[int], *, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = zip([3, *channels[:-1]], channels, kernels, strides, strict=True)
        for before, after, kernel, stride in sizes:
            padding = (kernel - stride + 1) // 2  # none around patches that do not overlap
            layers += [nn.Conv2d(before, after, kernel, stride, padding, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers)
        self.located = Located(channels[-1], width)

    def forward(self, pixels_UCHW: Tensor) -> Tensor:
        """Return tokens, shape (U, N, D)."""
        features_UCHW = self.convolutions(pixels_UCHW)
        where_N2 = middles(*features_UCHW.shape[-2:], device=features_UCHW.device).to(features_UCHW)
        features_UNC = features_UCHW.flatten(2).transpose(1, 2)
        tokens_UND: Tensor = self.located(features_UNC, where_N2.expand(len(features_UNC), -1, -1))
        return tokens_UND


class GridExpert(Expert):
    """A small convolutional network, trained from scratch, whose tokens say where they are: relations can be told.

    Coordinates are put beside the features, as in Santoro et al. 2017 (arXiv 1706.01427).

    Args:
        image_size: Height and width that pictures are brought to, in pixels.
        channels: Of each convolution; by default four of 24.
        kernels: Height and width of each; by default 3.
        strides: Of each; by default 2.
        width: D of the tokens.

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
        for name, values in {**sizes, "width": [width]}.items():
            if min(values) < 1:
                raise ValueError(f"{name} must be at least 1, not {min(values)}")
        if any(stride > kernel for stride, kernel in zip(strides, kernels, strict=True)):
            raise ValueError(f"strides {strides} above kernels {kernels} would leave pixels out")
        config = {"input_size": (3, image_size, image_size), "interpolation": "bilinear", "crop_pct": 1.0}
        network = Grid(channels, kernels, strides, width=width)
        super().__init__(network, width=width, transform=ImageTransform(config), freeze=False)

    def encode(self, inputs: Tensor) -> ExpertTokens:
        """Turn uint8 pixels of shape (U, 3, H, W) into tokens."""
        tokens_UND = self.network(inputs.to(self.dtype) / 127.5 - 1)
        return ExpertTokens(tokens_UND, torch.ones_like(tokens_UND[..., 0], dtype=torch.bool))
