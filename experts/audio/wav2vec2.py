"""Sound through torchaudio's wav2vec 2.0, HuBERT and WavLM.

Legend: U inputs, S samples, N tokens, D width.
"""

from __future__ import annotations

import difflib
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
import torchaudio.pipelines
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio.models import wav2vec2_model, wavlm_model
from torchaudio.pipelines import Wav2Vec2Bundle

from experts.audio.front_end import AudioTransform, Sound
from experts.audio.lengths import (
    Convolutions,
    as_tokens,
    by_length,
    mask_of,
    masks_suffice,
    num_outputs,
    receptive_field,
)
from experts.base import Expert, ExpertTokens, Precision, drawn_weights
from experts.weights import WeightsSource, check_sha256, load_by_order, locate, require_hub, weights_file

SHORTEST_SECONDS = 0.1  # what is shorter than the first token of any encoder needs is followed by silence, up to this
HUB = "https://download.pytorch.org"
BUILDERS = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}


class WaveformTransform(AudioTransform):
    """Resamples sound for a network that takes samples.

    Args:
        sample_rate: In Hz.
        max_seconds: What is longer is cut.
        min_samples: What is shorter is followed by silence.
        normalize: To mean 0 and deviation 1 of each sound.
    """

    def __init__(self, *, sample_rate: int, max_seconds: float, min_samples: int, normalize: bool) -> None:
        super().__init__(sample_rate=sample_rate, max_seconds=max_seconds)
        self.min_samples = min_samples
        self.normalize = normalize

    def __call__(self, raw: Sound) -> Tensor:
        """Turn samples of shape (T, channels) and their rate in Hz into float32 of shape (S,).

        Raises:
            ValueError: No samples, another shape or type, or a value that is no finite number.
        """
        samples_S = super().__call__(raw)
        samples_S = F.pad(samples_S, (0, max(0, self.min_samples - len(samples_S))))
        return F.layer_norm(samples_S, samples_S.shape) if self.normalize else samples_S

    def describe(self) -> dict[str, Any]:
        """Return what the samples depend on."""
        return {**super().describe(), "min_samples": self.min_samples, "normalize": self.normalize}


class Wav2Vec2Expert(Expert):
    """torchaudio's wav2vec 2.0, HuBERT and WavLM as experts for sound, a token for every 20 ms.

    Padding changes nothing: where a network's masks do not keep it out (the base models, which normalise over time, and
    WavLM), sounds of equal length are encoded at a time, which is slow on a GPU where all differ. In training no layer
    is skipped.

    Args:
        model: The name of a bundle of `torchaudio.pipelines`, such as `WAV2VEC2_BASE`, `HUBERT_BASE`, `WAVLM_BASE`.
        pretrained: True for the bundle's weights, false for random ones (always the same where frozen), or a local file
            of its state dict (.safetensors, or .pth of plain tensors), or `package:NAME[/path]`.
        architecture: Arguments of `torchaudio.models.wav2vec2_model` (or `wavlm_model`) that differ from the bundle's.
        sha256: Refuse weights with another SHA-256.
        layers: Read these transformer layers (0 is the first) instead of what the last one gives, side by side.
        tokens: `mean` gives one token a sound, `all` one for every 20 ms.
        max_seconds: What is longer is cut; what is shorter than 0.1 s is followed by silence.
        freeze: Nothing trains.
        precision: Of a frozen network; see `Expert`.

    Raises:
        ValueError: An unknown bundle, layers or arguments that it does not have, or weights that do not fit.
        FileNotFoundError: No weights where they should be.
        ConnectionError: They must be downloaded, and cannot be.
    """

    network: Any

    def __init__(
        self,
        model: str,
        *,
        pretrained: bool | WeightsSource = True,
        architecture: dict[str, Any] | None = None,
        sha256: str | None = None,
        layers: list[int] | None = None,
        tokens: Literal["mean", "all"] = "mean",
        max_seconds: float = 30.0,
        freeze: bool = True,
        precision: Precision = "auto",
    ) -> None:
        if max_seconds <= 0:
            raise ValueError(f"max_seconds must be above 0, not {max_seconds}")
        bundle = _bundle(model)
        with drawn_weights(fixed=freeze):
            network = _create(model, bundle, pretrained, architecture or {}, sha256)
        transformer = network.encoder.transformer
        count = len(transformer.layers)
        if layers is not None and (not layers or any(not -count <= layer < count for layer in layers)):
            raise ValueError(f"{model!r} has {count} layers, 0 to {count - 1}; got layers: {layers}")
        convolutions = [(layer.kernel_size, layer.stride) for layer in network.feature_extractor.conv_layers]
        self._layers = layers if layers is None else [layer % count for layer in layers]
        self._masked = _masked(network, convolutions) if bundle._model_type == "Wav2Vec2" else None
        rate = int(bundle.sample_rate)
        super().__init__(
            network,
            width=transformer.pos_conv_embed.embed_dim * (len(layers) if layers else 1),
            transform=WaveformTransform(
                sample_rate=rate,
                max_seconds=max_seconds,
                min_samples=max(receptive_field(convolutions), round(SHORTEST_SECONDS * rate)),
                normalize=bundle._normalize_waveform,
            ),
            freeze=freeze,
            precision=precision,
        )
        self.model = model
        self.architecture = architecture or {}
        self.layers = layers
        self.tokens: Literal["mean", "all"] = tokens

    def encode(self, inputs: dict[str, Tensor]) -> ExpertTokens:
        """Turn samples of shape (U, S) into tokens."""
        samples_US, lengths_U = inputs["samples"].to(self.dtype), inputs["lengths"]
        if self._masked:
            hidden_UND = self._run(samples_US, lengths_U)
            num_tokens_U = num_outputs(lengths_U, self._masked)
        else:
            hidden_UND, num_tokens_U = by_length(self._run, samples_US, lengths_U)
        return as_tokens(hidden_UND, mask_of(num_tokens_U, hidden_UND.shape[1]), self.tokens)

    def _run(self, samples_US: Tensor, lengths_U: Tensor | None) -> Tensor:
        if self._layers is None:
            hidden_UND: Tensor = self.network(samples_US, lengths_U)[0]
            return hidden_UND
        hidden, _ = self.network.extract_features(samples_US, lengths_U, max(self._layers) + 1)
        return torch.cat([hidden[layer] for layer in self._layers], dim=-1)

    def label(self) -> str:
        """Return the bundle's name, too."""
        return f"{super().label()} {self.model}"


def _bundle(name: str) -> Wav2Vec2Bundle:
    bundle = getattr(torchaudio.pipelines, name, None)
    if not isinstance(bundle, Wav2Vec2Bundle):
        bundles = [key for key, value in vars(torchaudio.pipelines).items() if isinstance(value, Wav2Vec2Bundle)]
        near = difflib.get_close_matches(name.upper(), bundles, n=3) or bundles
        raise ValueError(f"torchaudio has no speech encoder {name!r}; the nearest are {', '.join(near)}")
    return bundle


def _masked(network: nn.Module, convolutions: Convolutions) -> Convolutions | None:
    network.eval()
    is_masked = masks_suffice(lambda samples_US, lengths_U: network(samples_US, lengths_U)[0], convolutions)
    return convolutions if is_masked else None


def _create(
    name: str,
    bundle: Wav2Vec2Bundle,
    pretrained: bool | WeightsSource,
    architecture: dict[str, Any],
    sha256: str | None,
) -> Any:
    if unknown := sorted(architecture.keys() - bundle._params.keys()):
        raise ValueError(f"architecture of {name!r}: unknown key {unknown[0]!r}; known are {', '.join(bundle._params)}")
    path = locate(pretrained) if isinstance(pretrained, str) else None
    if isinstance(pretrained, str) and path is None:
        raise FileNotFoundError(f"pretrained weights {pretrained}: no such file; a state dict is a local file")
    if sha256 is not None and path is None:
        raise ValueError(f"sha256 of {name!r} needs pretrained weights that are a local file")
    network: Any
    if pretrained is True:
        if architecture:
            raise ValueError(
                f"architecture of {name!r}: its own weights have its own; give a file, or pretrained: false"
            )
        network = _download(name, bundle)
    else:
        network = BUILDERS[bundle._model_type](**{**bundle._params, **architecture})
    if path is not None:
        check_sha256(path, sha256)
        load_by_order(network, weights_file(path))
    network.aux = None  # letters of speech, which are no tokens
    network.encoder.transformer.layer_drop = 0.0
    return network


def _download(name: str, bundle: Wav2Vec2Bundle) -> Any:
    if not Path(torch.hub.get_dir(), "checkpoints", Path(bundle._path).name).is_file():
        require_hub(name, HUB)
    try:
        network = bundle.get_model(dl_kwargs={"weights_only": True})
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConnectionError(f"weights of {name!r} cannot be downloaded from {HUB}: {error}") from error
    return getattr(network, "model", network)  # without what normalises a whole batch at once
