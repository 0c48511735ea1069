"""The contract between experts and fusion: one modality's inputs become tokens.

Legend: U distinct inputs, B rows, N tokens, D width.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from experts.digests import digest_of, digest_of_state, plain, source_digest, without_source
from experts.inference import ROUNDING, cast

Precision = Literal["auto", "float32", "bfloat16"]
# attributes of every expert that are no settings of its own
NO_SETTINGS = {"training", "frozen", "precision", "transform"}


@dataclass
class ExpertTokens:
    """What an expert says of its inputs.

    Args:
        tokens_BND: Floating point tokens.
        mask_BN: True where a token is real. All false in a row without the modality.
    """

    tokens_BND: Tensor
    mask_BN: Tensor

    def __post_init__(self) -> None:
        if self.mask_BN.dtype != torch.bool or self.tokens_BND.shape[:2] != self.mask_BN.shape:
            raise ValueError(
                f"tokens of shape {tuple(self.tokens_BND.shape)} need a bool mask of their first two axes, "
                f"not {self.mask_BN.dtype} of shape {tuple(self.mask_BN.shape)}"
            )

    def __len__(self) -> int:
        return len(self.tokens_BND)

    def mean(self) -> Tensor:
        """Return each row's mean token, shape (B, D); zeros where it has none."""
        mask_BN1 = self.mask_BN.unsqueeze(-1)
        return self.tokens_BND.masked_fill(~mask_BN1, 0).sum(1) / mask_BN1.sum(1).clamp_min(1)

    def take(self, rows: Tensor) -> ExpertTokens:
        """Return some of the rows by number."""
        rows = rows.to(self.mask_BN.device)
        return ExpertTokens(self.tokens_BND[rows], self.mask_BN[rows])

    def to(self, *args: Any, **kwargs: Any) -> ExpertTokens:
        """Move or cast the tokens as ``Tensor.to`` does; the mask only moves."""
        tokens_BND = self.tokens_BND.to(*args, **kwargs)
        return ExpertTokens(tokens_BND, self.mask_BN.to(tokens_BND.device))

    def pin_memory(self) -> ExpertTokens:
        """Pin both tensors."""
        return ExpertTokens(self.tokens_BND.pin_memory(), self.mask_BN.pin_memory())


class Transform(Protocol):
    """From a raw input to what an expert's ``forward`` takes; knows no weights, so it travels to workers.

    A transform may also have a method ``complaint(raw) -> tuple[str, str] | None``: what of a usable raw input is
    lost, as its kind and its cause, such as `("text too long", "300 word pieces, cut to 256")`, or None if nothing.
    What is not usable at all is refused with a ValueError by `__call__`. One that lets another transform do the work
    has that as its attribute `wrapped`.
    """

    def __call__(self, raw: Any) -> Any:
        """Transform one raw input."""

    def collate(self, items: Sequence[Any]) -> Any:
        """Join transformed inputs to what ``Expert.forward`` takes."""

    def describe(self) -> dict[str, Any]:
        """Return, as JSON, everything that changes what the transform gives."""

    @property
    def for_evaluation(self) -> Transform:
        """The transform without chance, for what is not trained on: itself, if it has none."""


class Expert(nn.Module, ABC):
    """A network that turns one modality's inputs into tokens.

    Args:
        network: The network, its weights loaded.
        width: D of the tokens.
        transform: Makes a raw input into the network's own.
        freeze: Nothing trains, normalisation stays in eval mode and no gradient is kept.
        precision: Of a frozen network. `auto` takes bfloat16 for tokens that are stored, where the device has
            units for it and a short trial shows that they are nearly the same, else float32.
        original: The network as it was loaded, if `network` is one made faster: its weights are what the
            fingerprint is of, so that it is the same on every machine.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        width: int,
        transform: Transform,
        freeze: bool = True,
        precision: Precision = "auto",
        original: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not freeze and precision == "bfloat16":
            raise ValueError("precision: bfloat16 is for frozen experts; train in bfloat16 by trainer.precision")
        self.width = width
        self.transform = transform
        self.frozen = freeze
        self.precision: Precision = precision if freeze else "float32"
        self._settings: dict[str, Any] | None = None
        self.network = network
        self.network.train(not freeze)
        if freeze:
            whole = original or network
            self._weights_digest = digest_of_state(whole.state_dict())
            # strides and the like are in no state; what Python adds of addresses differs from run to run
            layers = re.sub(r" at 0x[0-9a-f]+", "", repr(whole))
            self._layers_digest = digest_of({"layers": layers, "buffers": digest_of_state(dict(whole.named_buffers()))})
            self.network.requires_grad_(False)
            cast(self.network, self.dtype)

    def label(self) -> str:
        """Return what `crossmodal cache ls` shows."""
        return type(self).__qualname__

    @abstractmethod
    def encode(self, inputs: Any) -> ExpertTokens:
        """Turn collated inputs into tokens, one row each."""

    def why_not_stored(self) -> str | None:
        """Return why this expert's tokens cannot be kept and read back, or None if they can."""
        if not self.frozen:
            return "it is trained"
        is_random = self.transform.for_evaluation is not self.transform
        return "its inputs are transformed at random" if is_random else None

    @property
    def needs_statistics(self) -> bool:
        """Whether `learn_statistics` must come before the first input is encoded."""
        return False

    def learn_statistics(self, batches: Iterable[Any]) -> None:
        """Learn what the training split's inputs are like, before anything else is learned; by default nothing.

        What is learned are persistent buffers of a fixed shape, so that a checkpoint brings them back.

        Args:
            batches: Of distinct inputs of the training split, each what `forward` takes.
        """

    def forward(self, inputs: Any) -> ExpertTokens:
        """Turn collated inputs, or tokens made earlier, into tokens: one row for each of the U inputs.

        Raises:
            ValueError: Statistics of the training split are needed, and were never learned.
        """
        if isinstance(inputs, ExpertTokens):
            return inputs
        if self.needs_statistics:
            raise ValueError(
                f"{type(self).__name__} has no statistics of the training split (none was read, or none of its rows "
                "has this input): train first, or give a checkpoint (--ckpt_path)"
            )
        if not self.frozen:
            return self.encode(inputs)
        with torch.no_grad():
            return self.encode(inputs)

    def train(self, mode: bool = True) -> Expert:
        """Set training mode; a frozen network stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def set_precision(self, precision: Literal["float32", "bfloat16"]) -> None:
        """Cast a frozen network."""
        if not self.frozen:
            raise ValueError("only a frozen expert can be cast")
        self.precision = precision
        cast(self.network, self.dtype)

    def parameters_outside_network(self) -> list[str]:
        """Return the names of a frozen expert's parameters that would neither be frozen nor train."""
        names = (name for name, _ in self.named_parameters() if not name.startswith("network."))
        return list(names) if self.frozen else []

    def rate_scales(self) -> dict[str, float]:
        """Return by parameter the share of the learning rate that it trains with, where that is not 1."""
        return {}

    @property
    def dtype(self) -> torch.dtype:
        """The type that floating point inputs are cast to, and of the tokens."""
        return torch.bfloat16 if self.precision == "bfloat16" else torch.float32

    def describe(self) -> dict[str, Any]:
        """Return, as JSON, everything but the weights and the precision that changes the tokens.

        A class's own settings are in it by themselves where they are public attributes: numbers, texts, paths,
        arrays, and collections of these. What they are when this is first called counts.
        """
        if self._settings is None:
            public = {key: value for key, value in vars(self).items() if not key.startswith("_")}
            self._settings = {key: plain(value) for key, value in public.items() if key not in NO_SETTINGS}
        return {
            "class": type(self).__qualname__,
            "source": [
                f"{kind.__module__} {source_digest(kind)}"
                for top in dict.fromkeys([type(self), *self._own_transforms(), *self._own_layers()])
                for kind in top.__mro__[:-1]
                if kind not in Expert.__mro__
            ],
            "settings": self._settings,
            "transform": self.transform.describe(),
        }

    def _own_transforms(self) -> list[type]:
        """Return the class of the transform, and those of what it wraps."""
        found: list[Any] = [self.transform]
        while (inner := getattr(found[-1], "wrapped", None)) is not None:
            found.append(inner)
        return [type(one) for one in found]

    def _own_layers(self) -> list[type]:
        """Return the classes of layers that come from the packages of the expert's own class, not from a library."""
        packages = {kind.__module__.partition(".")[0] for kind in type(self).__mro__ if kind not in Expert.__mro__}
        return [type(module) for module in self.modules() if type(module).__module__.partition(".")[0] in packages]

    def fingerprint(self, precision: Precision | None = None) -> str:
        """Hash what the tokens depend on: weights, layers, transform, settings, code, precision. 32 hexadecimal digits.

        Raises:
            ValueError: The expert is trained, so that its tokens change.
        """
        if not self.frozen:
            raise ValueError("an expert that is trained has no fingerprint")
        buffers = {name: value for name, value in self.named_buffers() if not name.startswith("network.")}
        own = {"identity": self.identity(), "layers": self._layers_digest, "buffers": digest_of_state(buffers)}
        parts = {"precision": precision or self.precision, **own, **self.describe()}
        if parts["precision"] != "float32":
            parts["rounding"] = ROUNDING
        return digest_of(parts)

    def identity(self) -> str:
        """Hash weights, transform and settings: 32 hexadecimal digits.

        Code and precision are not in it, so that a checkpoint outlives an update and another machine.
        """
        weights = self._weights_digest if self.frozen else digest_of_state(self.network.state_dict())
        parts = without_source(self.describe())
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("network.")}
        return digest_of({"weights": weights, "own": digest_of_state(own), **parts})


@contextmanager
def drawn_weights(*, fixed: bool) -> Iterator[None]:
    """Draw random weights by the global seed, or always the same ones.

    A frozen network's weights are in no checkpoint, so that random ones must be drawn again as they were.
    """
    if not fixed:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
