"""What is done to spectrograms in training: stretches of time and of mel bands are hidden, voices are varied.

Legend: U inputs, F frames, M mel bands, X positions along one axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_OF_THE_TIME = 0.1  # of one mask, as a share of the sound's own frames
MOST_OF_THE_BANDS = 0.2
BANDS_A_BEND = 12


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


class VoiceWarp(nn.Module):
    """Stretches each spectrogram along frequency, as another length of the vocal tract would, and along time.

    In training mode only; drawn by torch's generator. After Jaitly & Hinton, Vocal Tract Length Perturbation (VTLP)
    Improves Speech Recognition, 2013. Each of the two factors is drawn evenly, for each sound. Throats differ in shape
    too: one voice's first formant may lie lower than another's, its second higher. So frequency can be bent as well:
    points at least 12 bands apart are moved, each by itself, and what lies between goes along.

    Args:
        share: The factors lie between 1 - share and 1 + share; 0 for none.
        bend: The points are moved by so many bands at most, up or down; 0 for none.

    Raises:
        ValueError: The share is not at least 0 and below 1, or the bend is so large that bands would change places.
    """

    def __init__(self, share: float, bend: float = 0.0) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"warp is a share, at least 0 and below 1, not {share}")
        if not 0 <= bend <= BANDS_A_BEND / 2:
            raise ValueError(f"bend must be 0 to {BANDS_A_BEND / 2:g} bands, not {bend}")
        self.share = share
        self.bend = bend

    def forward(self, frames_UFM: Tensor, mask_UF: Tensor) -> tuple[Tensor, Tensor]:
        """Return frames, fewer or more of them, and which are real."""
        if not self.training or not (self.share or self.bend):
            return frames_UFM, mask_UF
        _, num_frames, num_bands = frames_UFM.shape
        device, length_U = mask_UF.device, mask_UF.sum(1)
        time_U, band_U = 1 + self.share * (2 * torch.rand(2, len(length_U), device=device) - 1)
        new_length_U = (time_U * length_U).round().clamp_min(1).long()
        step_U = (length_U - 1) / (new_length_U - 1).clamp_min(1)
        frame_X = torch.arange(int(new_length_U.max()), device=device)
        band_UM = torch.arange(num_bands, device=device).expand(len(length_U), -1)
        if self.bend:
            draw_U1X = torch.rand(len(length_U), 1, 1 + (num_bands - 1) // BANDS_A_BEND, device=device)
            moved_U1M = F.interpolate(2 * draw_U1X - 1, num_bands, mode="linear", align_corners=True)
            band_UM = band_UM + self.bend * moved_U1M.squeeze(1)
        band_UM = (band_U.unsqueeze(1) * band_UM).clamp(0, num_bands - 1)
        # where each new frame and band lies in the old ones, from -1 to 1
        y_UX = 2 * step_U.unsqueeze(1) * frame_X / max(1, num_frames - 1) - 1
        x_UM = 2 * band_UM / max(1, num_bands - 1) - 1
        shape = (len(length_U), len(frame_X), num_bands)
        grid = torch.stack([x_UM.unsqueeze(1).expand(shape), y_UX.unsqueeze(2).expand(shape)], dim=-1)
        warped_UXM = F.grid_sample(frames_UFM.unsqueeze(1), grid.to(frames_UFM.dtype), align_corners=True).squeeze(1)
        mask_UX = frame_X < new_length_U.unsqueeze(1)
        return warped_UXM.masked_fill(~mask_UX.unsqueeze(2), 0), mask_UX


def _stretch(length_U: Tensor, size: int, share: float) -> Tensor:
    """Return a mask of shape (U, X): one stretch of at most a share of each length, anywhere inside it."""
    width_draw_U, place_draw_U = torch.rand(2, len(length_U), device=length_U.device)
    width_U = (width_draw_U * ((share * length_U).floor() + 1)).floor()
    start_U = (place_draw_U * (length_U - width_U + 1)).floor()
    position_X = torch.arange(size, device=length_U.device)
    stretch_UX: Tensor = (position_X >= start_U.unsqueeze(1)) & (position_X < (start_U + width_U).unsqueeze(1))
    return stretch_UX
