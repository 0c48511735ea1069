"""A small network that looks closely at a few places of a picture, trained from scratch.

Legend: U inputs, C channels, H height, W width, N glimpses, G height and width of a glimpse, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.base import Expert, ExpertTokens
from experts.grid import Located
from experts.image import ImageTransform


@torch.no_grad()
def salient_places(pixels_UCHW: Tensor, count: int, *, window: int, least: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the places that differ most from the picture's mean, across and down in pixels: shape (U, N, 2).

    After Achanta et al., Frequency-tuned Salient Region Detection (CVPR 2009): the distance of the blurred colours from
    the mean colour. Of that, peaks are taken, the highest first; where there are too few, the last ones are arbitrary.

    Args:
        pixels_UCHW: The pictures.
        count: N.
        window: Of the blur, in pixels, odd; things of about twice its size and less give one peak each.
        least: Share of the highest peak that a place must reach.

    Returns:
        The places, and which of them reach it, bool of shape (U, N).
    """
    height, width = pixels_UCHW.shape[-2:]
    blurred_UCHW = pixels_UCHW - pixels_UCHW.mean((2, 3), keepdim=True)
    for kernel in ((window, 1), (1, window)) * 2:  # twice: the blur of a box has flat tops
        padding = (kernel[0] // 2, kernel[1] // 2)
        blurred_UCHW = F.avg_pool2d(blurred_UCHW, kernel, 1, padding, count_include_pad=False)
    # of tops that are flat all the same, one place is higher than the others: by more than rounding, but so little that
    # in a large picture, too, the highest peak stays the highest
    down_H, across_W = (torch.arange(extent, device=pixels_UCHW.device) for extent in (height, width))
    slope_HW = 1 - 1e-6 * (2 * down_H[:, None] + across_W)
    salience_U1HW = blurred_UCHW.norm(dim=1, keepdim=True) * slope_HW
    is_peak_U1HW = salience_U1HW == F.max_pool2d(salience_U1HW, 3, 1, 1)
    height_UN, chosen_UN = salience_U1HW.masked_fill(~is_peak_U1HW, 0).flatten(1).topk(count)
    return torch.stack([chosen_UN % width, chosen_UN // width], dim=-1), height_UN >= least * height_UN[:, :1]


def cut_out(pixels_UCHW: Tensor, places_UN2: Tensor, size: int) -> Tensor:
    """Return a picture's squares around places, shape (U, N, C, G, G); beyond the border its pixels repeat."""
    height, width = pixels_UCHW.shape[-2:]
    offsets_G = torch.arange(size, device=pixels_UCHW.device) - size // 2
    across_UNG = (places_UN2[..., :1] + offsets_G).clamp(0, width - 1)
    down_UNG = (places_UN2[..., 1:] + offsets_G).clamp(0, height - 1)
    input_U = torch.arange(len(pixels_UCHW), device=pixels_UCHW.device)[:, None, None, None]
    seen_UNGGC = pixels_UCHW.permute(0, 2, 3, 1)[input_U, down_UNG.unsqueeze(-1), across_UNG.unsqueeze(-2)]
    return seen_UNGGC.permute(0, 1, 4, 2, 3)


class Glimpses(nn.Module):
    """A token for each glimpse, of what is seen there and of where it is.

    Args:
        count: N.
        size: G.
        window: Of `salient_places`.
        least: Of `salient_places`.
        width: D.
    """

    def __init__(self, count: int, *, size: int, window: int, least: float, width: int) -> None:
        super().__init__()
        self.count = count
        self.size = size
        self.window = window
        self.least = least
        self.see = nn.Linear(3 * size**2, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.located = Located(width, width)

    def forward(self, pixels_UCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens, shape (U, N, D), and which of them are real, shape (U, N)."""
        places_UN2, real_UN = salient_places(pixels_UCHW, self.count, window=self.window, least=self.least)
        seen_UNX = self.see(cut_out(pixels_UCHW, places_UN2, self.size).flatten(2))
        features_UND = F.relu(self.norm(seen_UNX.flatten(0, 1)).view_as(seen_UNX))
        # the extent as numbers: as a tensor a GPU would be waited for until it is copied there
        height, width = pixels_UCHW.shape[-2:]
        across_UN, down_UN = (2 * places_UN2 + 1).unbind(-1)
        where_UN2 = torch.stack([across_UN / width - 1, down_UN / height - 1], dim=-1)
        tokens_UND: Tensor = self.located(features_UND, where_UN2)
        return tokens_UND, real_UN


class GlimpseExpert(Expert):
    """Looks at the places of a picture that stand out, and gives a token for each: what is there, and where.

    For plain pictures of a few things; trained from scratch, and much cheaper than convolutions over all of it.

    Args:
        image_size: Height and width that pictures are brought to, in pixels.
        num_glimpses: Places, each a token; somewhat more than there are things, since some peaks are between two.
        least: Share of what the most salient place stands out by that others must, to be looked at; where there are
            fewer things than glimpses, nothing is told of the background, then.
        size: Height and width of a glimpse, in pixels, odd.
        window: Of the blur before places are looked for, in pixels, odd: about half the size of things.
        width: D of the tokens.

    Raises:
        ValueError: A size is below 1, or an even number where it must be odd, or the share is not from 0 to 1.
    """

    def __init__(
        self,
        *,
        image_size: int = 75,
        num_glimpses: int = 10,
        least: float = 0.0,
        size: int = 15,
        window: int = 7,
        width: int = 64,
    ) -> None:
        sizes = {"image_size": image_size, "num_glimpses": num_glimpses, "size": size, "window": window, "width": width}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name, value in {"size": size, "window": window}.items():
            if value % 2 == 0:
                raise ValueError(f"{name} must be odd, so that there is a middle, not {value}")
        if not 0 <= least <= 1:
            raise ValueError(f"least is a share, 0 to 1, not {least}")
        if num_glimpses > image_size**2:
            raise ValueError(f"{num_glimpses} glimpses of {image_size**2} pixels")
        config = {"input_size": (3, image_size, image_size), "interpolation": "bilinear", "crop_pct": 1.0}
        network = Glimpses(num_glimpses, size=size, window=window, least=least, width=width)
        super().__init__(network, width=width, transform=ImageTransform(config), freeze=False)

    def encode(self, inputs: Tensor) -> ExpertTokens:
        """Turn uint8 pixels of shape (U, 3, H, W) into tokens."""
        return ExpertTokens(*self.network(inputs.to(self.dtype) / 127.5 - 1))
