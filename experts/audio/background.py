"""What else is heard in training: noise, and others who speak.

Legend: U inputs, F frames, M mel bands, X frames of noise, T talkers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experts.audio.front_end import QUIET, LogMel

DECIBELS = (3.0, 20.0)  # a sound's mean power above that of what is added, lowest and highest
NUM_TALKERS = 3
PINK = 0.25  # share of those with noise; the others, which are harder to tell from the sound, hear talkers
NOISE_SAMPLES = 1 << 18


class Background(nn.Module):
    """Adds pink noise, or three sounds drawn from the batch, to the power of log-mel frames; in training mode only.

    Of a small batch some of the three are the same, and of a batch of one they are that sound, begun elsewhere. How
    loud, and which of the two, is drawn for each sound by torch's generator. Powers of sounds that have nothing to do
    with each other add up, all but their phases: that is as good to train on as a sum of samples, and costs less.

    Args:
        share: Of the sounds that are given any; 0 for none.
        front: What makes the frames.

    Raises:
        ValueError: The share is not 0 to 1.
    """

    def __init__(self, share: float, front: LogMel) -> None:
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"noise is a share, 0 to 1, not {share}")
        self.share = share
        self._pink_XM = _pink(front).exp() if share else None

    def forward(self, frames_UFM: Tensor, mask_UF: Tensor) -> Tensor:
        """Return the frames, some with noise; those that are not real are quiet."""
        if not self.training or self._pink_XM is None:
            return frames_UFM
        device, (num_sounds, num_frames) = mask_UF.device, mask_UF.shape
        self._pink_XM = self._pink_XM.to(device)
        is_given_U, is_pink_U, loudness_U, start_U = torch.rand(4, num_sounds, device=device)
        frame_F = torch.arange(num_frames, device=device)
        power_UFM = frames_UFM.exp().masked_fill(~mask_UF.unsqueeze(2), 0)
        at_UF = (start_U * len(self._pink_XM)).long().unsqueeze(1) + frame_F
        is_pink_U11 = (is_pink_U < PINK).view(-1, 1, 1)
        added_UFM = torch.where(is_pink_U11, self._pink_XM[at_UF % len(self._pink_XM)], _others(power_UFM, mask_UF))
        added_UFM = added_UFM.masked_fill(~mask_UF.unsqueeze(2), 0)
        quietest, loudest = DECIBELS
        ratio_U = 10 ** ((quietest + (loudest - quietest) * loudness_U) / 10)
        scale_U = power_UFM.sum((1, 2)) / added_UFM.sum((1, 2)).clamp_min(QUIET) / ratio_U
        scale_U = scale_U * (is_given_U < self.share)
        noisy_UFM: Tensor = power_UFM + scale_U.view(-1, 1, 1) * added_UFM
        return noisy_UFM.clamp_min(QUIET).log()


def _others(power_UFM: Tensor, mask_UF: Tensor) -> Tensor:
    """Return the sum of some other sounds, each begun anywhere and repeated."""
    device, (num_sounds, num_frames) = mask_UF.device, mask_UF.shape
    length_U = mask_UF.sum(1)
    step_TU = torch.randint(1, max(2, num_sounds), (NUM_TALKERS, num_sounds), device=device)
    talker_TU = (torch.arange(num_sounds, device=device) + step_TU) % num_sounds
    start_TU = (torch.rand(NUM_TALKERS, num_sounds, device=device) * length_U[talker_TU]).long()
    frame_F = torch.arange(num_frames, device=device)
    others_UFM = torch.zeros_like(power_UFM)
    for talker_U, start_U in zip(talker_TU, start_TU, strict=True):
        at_UF = (start_U.unsqueeze(1) + frame_F) % length_U[talker_U].unsqueeze(1)
        others_UFM += power_UFM[talker_U.unsqueeze(1), at_UF]
    return others_UFM


def _pink(front: LogMel) -> Tensor:
    """Return frames of noise with equal power in each octave, always the same ones."""
    spectrum = torch.fft.rfft(torch.randn(NOISE_SAMPLES, generator=torch.Generator().manual_seed(0)))
    spectrum[1:] /= torch.arange(1, len(spectrum)).sqrt()
    spectrum[0] = 0
    samples_1S = torch.fft.irfft(spectrum, NOISE_SAMPLES).unsqueeze(0)
    frames_1XM: Tensor = front(samples_1S / samples_1S.std(), torch.tensor([NOISE_SAMPLES]))[0]
    return frames_1XM[0]
