"""Text through any Hugging Face encoder.

Legend: U inputs, N tokens, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer

from experts.base import Expert, ExpertTokens, Precision, drawn_weights
from experts.hugging_face import find_model, here_or_hub, load_network, read_settings
from experts.raw import require_kind
from experts.weights import WeightsSource


class TextTransform:
    """Tokenization, done for whole batches.

    Args:
        tokenizer: A Hugging Face tokenizer.
        max_length: In word pieces; what is longer is cut.
    """

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        backend = getattr(tokenizer, "backend_tokenizer", None)
        # hashed now: a fast tokenizer writes its last call's padding into what it says of itself
        text = backend.to_str() if backend is not None else str(sorted(tokenizer.get_vocab().items()))
        self._digest = hashlib.sha256(text.encode()).hexdigest()

    def __call__(self, raw: str) -> str:
        """Leave the text as it is: `collate` tokenizes.

        Raises:
            ValueError: It is no text.
        """
        require_kind(raw, str, "a text")
        return raw

    def collate(self, items: Sequence[str]) -> dict[str, Tensor]:
        """Tokenize to `input_ids` and `attention_mask` of shape (U, N), padded to the longest."""
        encoded = self.tokenizer(
            list(items), padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        )
        return dict(encoded)

    def complaint(self, raw: str) -> tuple[str, str] | None:
        """Tell of a text that is cut."""
        count = len(self.tokenizer(raw, verbose=False)["input_ids"])
        cut = ("text too long", f"{count} word pieces, cut to {self.max_length}")
        return cut if count > self.max_length else None

    @property
    def for_evaluation(self) -> TextTransform:
        """Itself: tokenization has no chance in it."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what the word pieces depend on."""
        return {"tokenizer": self._digest, "max_length": self.max_length}


class TextExpert(Expert):
    """Any Hugging Face encoder as an expert for text.

    Args:
        model: The hub's name of a model, or `package:NAME[/path]`, or a local folder.
        pretrained: False builds the model from its configuration with random weights (always the same where frozen).
        sha256: Refuse a weights file with another SHA-256.
        layers: Read these hidden layers (0 is the embedding) instead of the last, side by side.
        tokens: `mean` or `cls` gives one token a text, `all` one for each word piece.
        max_length: In word pieces; by default the model's own limit.
        freeze: Nothing trains.
        precision: Of a frozen network; see `Expert`.

    Raises:
        ValueError: The source is unusable, or has no such layers.
        FileNotFoundError: Nothing where the model should be.
        ConnectionError: It must come from a hub, and there is none.
    """

    def __init__(
        self,
        model: WeightsSource,
        *,
        pretrained: bool = True,
        sha256: str | None = None,
        layers: list[int] | None = None,
        tokens: Literal["mean", "cls", "all"] = "mean",
        max_length: int | None = None,
        freeze: bool = True,
        precision: Precision = "auto",
    ) -> None:
        source = find_model(model, sha256)
        with drawn_weights(fixed=freeze):
            network, tokenizer, settings = _load(source, pretrained)
        config: Any = network.config
        if not hasattr(config, "num_hidden_layers"):
            raise ValueError(f"{model!r} is no text encoder: {type(network).__name__} has no hidden layers of one kind")
        count = config.num_hidden_layers + 1
        if layers is not None and (not layers or any(not -count <= layer < count for layer in layers)):
            raise ValueError(f"{model!r} has {count} hidden layers, 0 to {count - 1}; got layers: {layers}")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        limit = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", 512))
        super().__init__(
            network,
            width=config.hidden_size * (len(layers) if layers else 1),
            transform=TextTransform(tokenizer, max_length=min(limit if max_length is None else max_length, limit)),
            freeze=freeze,
            precision=precision,
        )
        self.config = settings
        self._name = model  # may be a path, which the tokens do not depend on
        self.layers = layers
        self.tokens = tokens

    def encode(self, inputs: dict[str, Tensor]) -> ExpertTokens:
        """Turn word pieces of shape (U, N) into tokens."""
        output = self.network(**inputs, output_hidden_states=self.layers is not None)
        if self.layers is None:
            hidden_UND = output.last_hidden_state
        else:
            hidden_UND = torch.cat([output.hidden_states[layer] for layer in self.layers], dim=-1)
        mask_UN = inputs["attention_mask"].bool()
        if self.tokens == "all":
            return ExpertTokens(hidden_UND.masked_fill(~mask_UN.unsqueeze(-1), 0), mask_UN)
        if self.tokens == "cls":
            pooled_UD = hidden_UND[:, 0]
        else:
            weights_UN1 = mask_UN.unsqueeze(-1).to(hidden_UND.dtype)
            pooled_UD = (hidden_UND * weights_UN1).sum(1) / weights_UN1.sum(1).clamp_min(1)
        return ExpertTokens(pooled_UD.unsqueeze(1), mask_UN.any(1, keepdim=True))

    def label(self) -> str:
        """Return the model's name, too."""
        return f"{super().label()} {self._name}"


def _load(source: str, pretrained: bool) -> tuple[nn.Module, Any, dict[str, str]]:
    def read(*, local: bool) -> tuple[Any, Any, dict[str, str]]:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        config = AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        network = load_network(source, config, pretrained=pretrained, local=local, optional="pooler.")
        return network, tokenizer, read_settings(source, local=local)

    network, tokenizer, settings = here_or_hub(source, read)
    tokenizer.padding_side = "right"  # `cls` is the first place
    if getattr(network, "pooler", None) is not None:
        network.pooler = None  # never used here, and drawn at random where the weights have none
    return network, tokenizer, settings
