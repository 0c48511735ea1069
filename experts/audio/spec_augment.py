"""SpecAugment: stretches of time and of mel bands of a spectrogram are hidden in training.

Legend: U inputs, F frames, M mel bands, X positions along one axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MOST_OF_THE_TIME = 0.1  # of one mask, as a share of the sound's own frames
MOST_OF_THE_BANDS = 0.2


class SpecAugment(nn.Module):
    """Sets stretches of a standardised spectrogram to 0, which is the mean; in training mode only.

    A mask is as wide as chance has it, from nothing to a tenth of the sound's own frames or a fifth of the bands, so
    that no padding is masked and a sound of a few frames stays whole. Masks may overlap. Drawn by torch's generator.
    After Park et al. 2019 (arXiv 1904.08779); widths follow the length as in Park et al. 2020 (arXiv 1912.05533).

    Args:
        time_masks: Stretches of frames, for each sound anew; 0 for none.
        band_masks: Stretches of mel bands, for each sound anew; 0 for none.

    Raises:
        ValueError: A number below 0.
    """

    def __init__(self, *, time_masks: int, band_masks: int) -> None:
        super().__init__()
        for name, value in (("time_masks", time_masks), ("band_masks", band_masks)):
            if value < 0:
                raise ValueError(f"{name} must be at least 0, not {value}")
        self.time_masks = time_masks
        self.band_masks = band_masks

    def forward(self, frames_UFM: Tensor, mask_UF: Tensor) -> Tensor:
        """Return the frames with some of them, and some of their bands, at 0."""
        if not self.training:
            return frames_UFM
        num_frames_U = mask_UF.sum(1)
        num_bands_U = torch.full_like(num_frames_U, frames_UFM.shape[2])
        for _ in range(self.time_masks):
            hidden_UF = _stretch(num_frames_U, mask_UF.shape[1], MOST_OF_THE_TIME)
            frames_UFM = frames_UFM.masked_fill(hidden_UF.unsqueeze(2), 0)
        for _ in range(self.band_masks):
            hidden_UM = _stretch(num_bands_U, frames_UFM.shape[2], MOST_OF_THE_BANDS)
            frames_UFM = frames_UFM.masked_fill(hidden_UM.unsqueeze(1), 0)
        return frames_UFM


def _stretch(length_U: Tensor, size: int, share: float) -> Tensor:
    """Return a mask of shape (U, X): one stretch of at most a share of each length, anywhere inside it."""
    width_draw_U, place_draw_U = torch.rand(2, len(length_U), device=length_U.device)
    width_U = (width_draw_U * ((share * length_U).floor() + 1)).floor()
    start_U = (place_draw_U * (length_U - width_U + 1)).floor()
    position_X = torch.arange(size, device=length_U.device)
    stretch_UX: Tensor = (position_X >= start_U.unsqueeze(1)) & (position_X < (start_U + width_U).unsqueeze(1))
    return stretch_UX
