"""Sound as a picture: any timm model over the spectrogram.

Legend: U inputs, S samples, F frames, M mel bands, C channels, H height, W width, N tokens, D width.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from experts.audio.front_end import QUIET, AudioTransform, LogMel
from experts.audio.spec_augment import SpecAugment
from experts.base import ExpertTokens, Precision
from experts.image import ImageExpert, ImageTransform
from experts.weights import WeightsSource

DYNAMIC_RANGE = 8 * math.log(10)  # 80 dB of power: what is fainter than the peak by more is black


class PictureExpert(ImageExpert):
    """Any timm model over the spectrogram of a sound, as a grey picture: time from left to right, high bands below.

    Every sound is filled with silence or cut to `max_seconds`, and its picture scaled to the model's size, so that
    neither padding nor another sound changes anything, and a short sound costs as much as a long one. Brightness is the
    power in decibels, from 80 dB below the sound's own peak.

    Args:
        model: timm's name, such as `tf_efficientnet_lite0`.
        pretrained: True for the weights that the hub has under this name, false for random ones (always the same
            where frozen), or `package:NAME[/path]`, or a local file (.safetensors, or .pth of plain tensors).
        sha256: Refuse weights with another SHA-256.
        sample_rate: In Hz; sound of any other rate is resampled.
        num_mels: Bands of the spectrogram.
        max_seconds: What a picture shows; what is longer is cut.
        image_size: Height and width in pixels; by default the model's own.
        layers: Read these stages (0 is the first) instead of the last, their channels side by side.
        tokens: `pooled` gives one token, `grid` one for each place, as in `ImageExpert`.
        time_masks: Stretches of time that are hidden in training, where not frozen; see `SpecAugment`.
        band_masks: Stretches of mel bands that are hidden in training.
        freeze: Nothing trains, normalisation stays in eval mode.
        precision: Of a frozen network; see `Expert`.

    Raises:
        ValueError: An unknown model, layers that it does not have, weights that do not fit, or a number out of range.
        FileNotFoundError: No weights where they should be.
        ConnectionError: They must come from a hub, and there is none.
    """

    def __init__(
        self,
        model: str,
        *,
        pretrained: bool | WeightsSource = True,
        sha256: str | None = None,
        sample_rate: int = 16_000,
        num_mels: int = 80,
        max_seconds: float = 10.0,
        image_size: int | None = None,
        layers: list[int] | None = None,
        tokens: Literal["pooled", "grid"] = "pooled",
        time_masks: int = 2,
        band_masks: int = 2,
        freeze: bool = True,
        precision: Precision = "auto",
    ) -> None:
        if max_seconds <= 0:
            raise ValueError(f"max_seconds must be above 0, not {max_seconds}")
        super().__init__(
            model,
            pretrained=pretrained,
            sha256=sha256,
            image_size=image_size,
            layers=layers,
            tokens=tokens,
            freeze=freeze,
            precision=precision,
        )
        assert isinstance(self.transform, ImageTransform)
        self.size = list(self.transform.config["input_size"][1:])
        self.transform = AudioTransform(sample_rate=sample_rate, max_seconds=max_seconds)
        self.num_mels = num_mels
        self._num_samples = round(max_seconds * sample_rate)
        self.front = LogMel(sample_rate=sample_rate, num_mels=num_mels)
        self.augment = SpecAugment(time_masks=time_masks, band_masks=band_masks)

    def encode(self, inputs: dict[str, Tensor]) -> ExpertTokens:  # type: ignore[override]
        """Turn samples of shape (U, S) into tokens."""
        return super().encode(self.picture(inputs["samples"], inputs["lengths"]))

    def picture(self, samples_US: Tensor, lengths_U: Tensor) -> Tensor:
        """Return pictures of shape (U, 3, H, W), from 0 to 255."""
        frames_UFM, mask_UF = self.front(F.pad(samples_US, (0, self._num_samples - samples_US.shape[1])), lengths_U)
        # of silence, which is black, too
        peak_U11 = frames_UFM.amax((1, 2), keepdim=True).clamp_min(math.log(QUIET) + DYNAMIC_RANGE)
        bright_UFM = (1 - (peak_U11 - frames_UFM) / DYNAMIC_RANGE).clamp_min(0)
        if not self.frozen:
            bright_UFM = self.augment(bright_UFM, mask_UF)
        grey_U1HW = F.interpolate(bright_UFM.transpose(1, 2).unsqueeze(1), self.size, mode="bilinear", antialias=True)
        return 255 * grey_U1HW.expand(-1, 3, -1, -1)
