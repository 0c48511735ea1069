"""Sound through any audio encoder of Hugging Face's transformers.

Legend: U inputs, T times of the features, X further axes of them, S samples, N tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoFeatureExtractor

from experts.audio.front_end import HOP_SECONDS, AudioTransform, Sound
from experts.audio.lengths import Convolutions, as_tokens, by_length, mask_of, masks_suffice, num_outputs
from experts.audio.wav2vec2 import SHORTEST_SECONDS
from experts.base import Expert, ExpertTokens, Precision, drawn_weights
from experts.hugging_face import find_model, here_or_hub, load_network, read_settings
from experts.weights import WeightsSource

SOUND = ("input_values", "input_features")  # as encoders of sound name what they take
# what hides frames or skips layers at random in training: a sound shorter than one mask would be an error, and
# NumPy's generator draws some of them
CHANCE = ("layerdrop", "encoder_layerdrop", "mask_time_prob", "mask_feature_prob")


class ExtractorTransform:
    """Resamples sound, and makes of it what a model's own feature extractor does.

    Each sound is extracted by itself, so that no other sound of its batch changes what is made of it.

    Args:
        extractor: A Hugging Face feature extractor.
        max_seconds: What is longer is cut; at most what the extractor takes.
    """

    def __init__(self, extractor: Any, *, max_seconds: float) -> None:
        self.seconds = _seconds_of(extractor)
        self.sound = AudioTransform(
            sample_rate=extractor.sampling_rate, max_seconds=min(max_seconds, self.seconds or max_seconds)
        )
        self.extractor = extractor
        self._digest = hashlib.sha256(extractor.to_json_string().encode()).hexdigest()

    def __call__(self, raw: Sound) -> dict[str, Tensor]:
        """Turn samples of shape (T, channels) and their rate in Hz into `features`, and their number of `samples`.

        Raises:
            ValueError: No samples, another shape or type, or a value that is no finite number.
        """
        samples_S, rate = self.sound(raw), self.sound.sample_rate
        missing = round(SHORTEST_SECONDS * rate) - len(samples_S)
        filled_S = F.pad(samples_S, (0, max(0, missing)))
        made = self.extractor(filled_S.numpy(), sampling_rate=rate, return_tensors="np")
        features_TX = np.asarray(made[self.extractor.model_input_names[0]][0], dtype=np.float32)
        if self.seconds is None and "attention_mask" in made:
            features_TX = features_TX[: int(np.sum(made["attention_mask"][0]))]
        return {"features": torch.from_numpy(features_TX), "samples": torch.tensor(len(filled_S))}

    def collate(self, items: Sequence[Any]) -> dict[str, Tensor]:
        """Pad to `features` of shape (U, T, X), with `lengths` in times of these and in `samples` of shape (U,)."""
        return {
            "features": pad_sequence([item["features"] for item in items], batch_first=True),
            "lengths": torch.tensor([len(item["features"]) for item in items]),
            "samples": torch.stack([item["samples"] for item in items]),
        }

    def complaint(self, raw: Sound) -> tuple[str, str] | None:
        """Tell of a sound of too low a rate, or that is cut."""
        return self.sound.complaint(raw)

    @property
    def for_evaluation(self) -> ExtractorTransform:
        """Itself: there is no chance in it."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what the features depend on."""
        return {**self.sound.describe(), "extractor": self._digest, "shortest": SHORTEST_SECONDS}


def _seconds_of(extractor: Any) -> float | None:
    """Return what an extractor fills or cuts every sound to, in seconds, or None if it leaves sounds as they are."""
    if samples := getattr(extractor, "n_samples", None):  # Whisper and its kin
        return float(samples / extractor.sampling_rate)
    if frames := getattr(extractor, "max_length", None):  # AST
        return float(frames * HOP_SECONDS)
    return None


class AudioExpert(Expert):
    """Any Hugging Face audio encoder as an expert for sound: wav2vec 2.0, HuBERT, WavLM, AST, Whisper's encoder...

    Padding changes nothing: where a network's masks do not keep it out (as one batch shows), sounds of equal length are
    encoded at a time, which is slow on a GPU where all differ.
    Whisper and AST fill every sound to one length with silence, as they were trained; of Whisper's states, those
    behind a sound's end are no tokens, and AST has no such order. A model's own hiding of frames and skipping of layers
    in training is off.

    Args:
        model: The hub's name of a model, or `package:NAME[/path]`, or a local folder.
        pretrained: False builds the model from its configuration with random weights (always the same where frozen).
        sha256: Refuse a weights file with another SHA-256.
        layers: Read these hidden layers (0 is the embedding) instead of the last, side by side.
        tokens: `mean` gives one token a sound, `all` all hidden states.
        max_seconds: What is longer is cut; what is shorter than 0.1 s is followed by silence.
        freeze: Nothing trains.
        precision: Of a frozen network; see `Expert`.

    Raises:
        ValueError: The source is unusable, or has no such layers.
        FileNotFoundError: Nothing where the model should be.
        ConnectionError: It must come from a hub, and there is none.
    """

    transform: ExtractorTransform
    network: Any

    def __init__(
        self,
        model: WeightsSource,
        *,
        pretrained: bool = True,
        sha256: str | None = None,
        layers: list[int] | None = None,
        tokens: Literal["mean", "all"] = "mean",
        max_seconds: float = 30.0,
        freeze: bool = True,
        precision: Precision = "auto",
    ) -> None:
        if max_seconds <= 0:
            raise ValueError(f"max_seconds must be above 0, not {max_seconds}")
        source = find_model(model, sha256)
        with drawn_weights(fixed=freeze):
            network, extractor, settings = _load(source, pretrained)
        config = network.config
        if not hasattr(config, "num_hidden_layers") or network.main_input_name not in SOUND:
            raise ValueError(f"{model!r} is no audio encoder: {type(network).__name__} has no hidden layers of sound")
        count = config.num_hidden_layers + 1
        if layers is not None and (not layers or any(not -count <= layer < count for layer in layers)):
            raise ValueError(f"{model!r} has {count} hidden layers, 0 to {count - 1}; got layers: {layers}")
        self._masked = _convolutions_that_are_masked(network)
        super().__init__(
            network,
            width=config.hidden_size * (len(layers) if layers else 1),
            transform=ExtractorTransform(extractor, max_seconds=max_seconds),
            freeze=freeze,
            precision=precision,
        )
        self.config = settings
        self._name = model  # may be a path, which the tokens do not depend on
        self.layers = layers
        self.tokens: Literal["mean", "all"] = tokens

    def encode(self, inputs: dict[str, Tensor]) -> ExpertTokens:
        """Turn features of shape (U, T, X) into tokens."""
        features_UTX, lengths_U = inputs["features"].to(self.dtype), inputs["lengths"]
        if self._masked:
            hidden_UND = self._run(features_UTX, lengths_U)
            num_tokens_U = num_outputs(lengths_U, self._masked)
        else:
            hidden_UND, num_tokens_U = by_length(self._run, features_UTX, lengths_U)
        if num_samples := getattr(self.transform.extractor, "n_samples", None):
            # ceil; the states of Whisper and its kin are in the order of time, a part of the whole length each
            num_tokens_U = -(-inputs["samples"] * hidden_UND.shape[1]).div(num_samples, rounding_mode="floor")
        return as_tokens(hidden_UND, mask_of(num_tokens_U, hidden_UND.shape[1]), self.tokens)

    def _run(self, features_UTX: Tensor, lengths_U: Tensor | None) -> Tensor:
        return _run(self.network, features_UTX, lengths_U, self.layers)

    def label(self) -> str:
        """Return the model's name, too."""
        return f"{super().label()} {self._name}"


def _run(network: Any, features_UTX: Tensor, lengths_U: Tensor | None, layers: list[int] | None) -> Tensor:
    masks = {} if lengths_U is None else {"attention_mask": mask_of(lengths_U, features_UTX.shape[1]).long()}
    output = network(features_UTX, output_hidden_states=layers is not None, **masks)
    hidden_UND: Tensor = output.last_hidden_state
    if layers is not None:
        hidden_UND = torch.cat([output.hidden_states[layer] for layer in layers], dim=-1)
    if hidden_UND.dim() != 3:
        raise ValueError(f"{type(network).__name__} gives no sequence of states, but {tuple(hidden_UND.shape)}")
    return hidden_UND


def _convolutions_that_are_masked(network: Any) -> Convolutions | None:
    """Return the convolutions over samples of a network whose masks keep padding out, or else None."""
    kernels, strides = (getattr(network.config, key, None) for key in ("conv_kernel", "conv_stride"))
    if kernels is None or strides is None or network.main_input_name != "input_values":
        return None
    convolutions = list(zip(kernels, strides, strict=True))
    network.eval()
    is_masked = masks_suffice(lambda samples_US, lengths_U: _run(network, samples_US, lengths_U, None), convolutions)
    return convolutions if is_masked else None


def _load(source: str, pretrained: bool) -> tuple[Any, Any, dict[str, str]]:
    def read(*, local: bool) -> tuple[Any, Any, dict[str, str]]:
        extractor = AutoFeatureExtractor.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        for key in CHANCE:
            if hasattr(config, key):
                setattr(config, key, 0.0)
        network = load_network(source, config, pretrained=pretrained, local=local, optional="decoder.")
        return network, extractor, read_settings(source, local=local)

    network, extractor, settings = here_or_hub(source, read)
    return (
        network.get_encoder() if getattr(network.config, "is_encoder_decoder", False) else network,
        extractor,
        settings,
    )
