"""Images through any timm model.

Legend: U inputs, C channels, H height, W width, N tokens, D width.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import timm
import timm.data
import torch
from PIL import Image
from timm.data.transforms import MaybePILToTensor
from torch import Tensor, nn
from torch.nn import functional as F

from experts.base import Expert, ExpertTokens, Precision, drawn_weights
from experts.inference import fold_batch_norms, to_channels_last
from experts.raw import require_kind
from experts.weights import WeightsSource, check_sha256, load_by_order, locate, require_hub, weights_file


class ImageTransform:
    """The preprocessing that a timm model was trained with, up to pixels of 0 to 255.

    Args:
        config: What `timm.data.resolve_data_config` gives.
        augment: Random crops, flips and colours, as timm trains.
    """

    def __init__(self, config: dict[str, Any], *, augment: bool = False) -> None:
        self.config: dict[str, Any] = {
            key: config[key] for key in ("input_size", "interpolation", "crop_pct", "crop_mode") if key in config
        }
        self.augment = augment
        # use_prefetcher leaves the pixels as they are: the expert normalises whole batches, on its device
        transform = timm.data.create_transform(**self.config, is_training=augment, use_prefetcher=True)
        *self._steps, to_tensor = transform.transforms
        assert isinstance(to_tensor, MaybePILToTensor)  # it lays channels first, and they are wanted last

    def __call__(self, raw: Image.Image) -> Tensor:
        """Turn a picture into uint8 pixels of shape (H, W, 3).

        Raises:
            ValueError: It is no picture.
        """
        require_kind(raw, Image.Image, "a picture")
        image = raw.convert("RGB")
        for step in self._steps:
            image = step(image)
        return torch.from_numpy(np.array(image))

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        """Stack pixels to uint8 of shape (U, 3, H, W), channels last in memory."""
        return torch.stack(list(items)).permute(0, 3, 1, 2)

    @property
    def for_evaluation(self) -> ImageTransform:
        """Without them."""
        return ImageTransform(self.config) if self.augment else self

    def describe(self) -> dict[str, Any]:
        """Return what the pixels depend on."""
        return {**{key: str(value) for key, value in self.config.items()}, "augment": self.augment}


class ImageExpert(Expert):
    """Any timm model as an expert for images.

    Args:
        model: timm's name, such as `tf_efficientnet_lite0`.
        pretrained: True for the weights that the hub has under this name, false for random ones (always the same
            where frozen), or `package:NAME[/path]`, or a local file (.safetensors, or .pth of plain tensors).
        sha256: Refuse weights with another SHA-256.
        image_size: Height and width in pixels; by default the model's own.
        crop_pct: Share of the resized image that the centre crop keeps; by default the model's own.
        layers: Read these stages (0 is the first) instead of the last, their channels side by side.
        tokens: `pooled` gives one token: the model's own pooling, or of `layers` the mean over the image. `grid`
            gives one for each place (a transformer's last layer also its class token).
        augment: Random crops, flips and colours in training, as timm does it; turns the feature store off.
        freeze: Nothing trains, normalisation stays in eval mode.
        precision: Of a frozen network; see `Expert`.

    Raises:
        ValueError: An unknown model, layers that it does not have, or weights that do not fit.
        FileNotFoundError: No weights where they should be.
        ConnectionError: They must come from a hub, and there is none.
    """

    def __init__(
        self,
        model: str,
        *,
        pretrained: bool | WeightsSource = True,
        sha256: str | None = None,
        image_size: int | None = None,
        crop_pct: float | None = None,
        layers: list[int] | None = None,
        tokens: Literal["pooled", "grid"] = "pooled",
        augment: bool = False,
        freeze: bool = True,
        precision: Precision = "auto",
    ) -> None:
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1, not {image_size}")
        if crop_pct is not None and crop_pct <= 0:
            raise ValueError(f"crop_pct must be above 0, not {crop_pct}")
        with drawn_weights(fixed=freeze):
            network: Any = _create(model, pretrained, sha256, image_size)
        overrides = {
            key: value for key, value in (("img_size", image_size), ("crop_pct", crop_pct)) if value is not None
        }
        config = timm.data.resolve_data_config(overrides, model=network)
        layers = _prune(network, model, layers)
        if not freeze and layers is None:
            network.reset_classifier(0)  # nothing would train it
        example_UCHW = torch.randn(2, *config["input_size"], generator=torch.Generator().manual_seed(0))
        network.eval()

        def run(net: nn.Module) -> Tensor:
            return _features(net, example_UCHW, layers, tokens)

        with torch.no_grad():
            try:
                width = run(network).shape[-1]
            except (RuntimeError, AssertionError) as error:
                size, why = "x".join(map(str, config["input_size"][1:])), str(error).splitlines()[0]
                raise ValueError(f"{model!r} cannot take pictures of {size} pixels: {why}") from error
            # only what runs often is worth the folding
            fast = to_channels_last(fold_batch_norms(network, run)) if freeze else network
        super().__init__(
            fast,
            width=width,
            transform=ImageTransform(config, augment=augment),
            freeze=freeze,
            precision=precision,
            original=network,
        )
        self.model = model
        self.layers = layers
        self.tokens = tokens
        self.norm = {"mean": list(config["mean"]), "std": list(config["std"])}
        mean_C, std_C = (255 * torch.tensor(self.norm[key]) for key in ("mean", "std"))
        self._scale_C: Tensor
        self._shift_C: Tensor
        self.register_buffer("_scale_C", 1 / std_C, persistent=False)
        self.register_buffer("_shift_C", -mean_C / std_C, persistent=False)

    def encode(self, inputs: Tensor) -> ExpertTokens:
        """Turn uint8 pixels of shape (U, 3, H, W) into tokens."""
        tokens_UND = _features(self.network, self.normalize(inputs).to(self.dtype), self.layers, self.tokens)
        return ExpertTokens(tokens_UND, torch.ones(tokens_UND.shape[:2], dtype=torch.bool, device=inputs.device))

    def normalize(self, pixels_UCHW: Tensor) -> Tensor:
        """Give uint8 pixels the mean and deviation that the network was trained with: float32, channels last."""
        # by whole lines of pixels: broadcasting over three channels side by side takes eight times as long
        pixels_UHWC = pixels_UCHW.permute(0, 2, 3, 1)
        shift_X, scale_X = (value_C.repeat(pixels_UHWC.shape[2]) for value_C in (self._shift_C, self._scale_C))
        lines_UHX = torch.addcmul(shift_X, pixels_UHWC.flatten(2).float(), scale_X)
        return lines_UHX.view_as(pixels_UHWC).permute(0, 3, 1, 2)

    def label(self) -> str:
        """Return the model's name, too."""
        return f"{super().label()} {self.model}"


def _create(name: str, pretrained: bool | WeightsSource, sha256: str | None, image_size: int | None) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=3)
        hint = f"; the nearest are {', '.join(near)}" if near else ""
        raise ValueError(f"timm has no model {name!r}{hint}")
    path = locate(pretrained) if isinstance(pretrained, str) else None
    if isinstance(pretrained, str) and path is None:
        raise FileNotFoundError(f"pretrained weights {pretrained}: no such file; an image expert takes a local file")
    if sha256 is not None and path is None:
        raise ValueError(f"sha256 of {name!r} needs pretrained weights that are a local file")
    if pretrained is True:
        _require_cached_or_hub(name)
    network = _sized(name, pretrained is True, image_size)
    if path is not None:
        check_sha256(path, sha256)
        load_by_order(network, weights_file(path))
    return network


def _sized(name: str, pretrained: bool, image_size: int | None) -> nn.Module:
    """Transformers build their position embeddings for one size; convolutions take any, and no such argument."""
    network: nn.Module
    if image_size is not None:
        with contextlib.suppress(TypeError):
            network = timm.create_model(name, pretrained=pretrained, img_size=image_size)
            return network
    network = timm.create_model(name, pretrained=pretrained)
    return network


def _require_cached_or_hub(name: str) -> None:
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    repository = getattr(config, "hf_hub_id", None)
    if config is None or not config.has_weights:
        raise ValueError(f"timm has no pretrained weights for {name!r}; give a file, or pretrained: false")
    if repository:
        files = ("model.safetensors", "pytorch_model.bin")
        if any(isinstance(try_to_load_from_cache(f"timm/{name}", file), str) for file in files) or any(
            isinstance(try_to_load_from_cache(repository, file), str) for file in files
        ):
            return
    require_hub(name)


def _prune(network: Any, name: str, layers: list[int] | None) -> list[int] | None:
    if layers is None:
        return None
    if not hasattr(network, "forward_intermediates"):
        raise ValueError(f"timm's {name!r} cannot give intermediate layers; leave `layers` out")
    count = len(network.feature_info)
    if not layers or any(not -count <= layer < count for layer in layers):
        raise ValueError(f"{name!r} has {count} layers, 0 to {count - 1}; got layers: {layers}")
    indices = sorted(layer % count for layer in layers)
    if hasattr(network, "prune_intermediate_layers"):
        network.prune_intermediate_layers(indices, prune_head=True)
    return indices


def _features(network: Any, pixels_UCHW: Tensor, layers: list[int] | None, tokens: Literal["pooled", "grid"]) -> Tensor:
    """Run the network; return tokens of shape (U, N, D)."""
    if layers is None:
        features: Tensor = network.forward_features(pixels_UCHW)
        if tokens == "pooled":
            pooled_UD: Tensor = network.forward_head(features, pre_logits=True)
            return pooled_UD.unsqueeze(1)
        if features.dim() == 4:
            # convolutions give (U, C, H, W); Swin and its kin (U, H, W, C)
            last = features.shape[-1] == network.num_features
            features = features.flatten(1, 2) if last else features.flatten(2).transpose(1, 2)
        return features
    maps = network.forward_intermediates(pixels_UCHW, indices=layers, intermediates_only=True, output_fmt="NCHW")
    if tokens == "pooled":
        return torch.cat([feature_map.mean((2, 3)) for feature_map in maps], dim=1).unsqueeze(1)
    smallest = min((feature_map.shape[-2:] for feature_map in maps), key=lambda size: size[0] * size[1])
    grid_UDHW = torch.cat([F.adaptive_avg_pool2d(feature_map, smallest) for feature_map in maps], dim=1)
    return grid_UDHW.flatten(2).transpose(1, 2)
