"""What a replica sends, made smaller: the largest numbers alone, or eight bits of each; what is lost is sent later.

Legend: P numbers of an entry.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from crossmodal.replicas.aggregation import State


@dataclass(frozen=True)
class Sparse:
    """The largest numbers of an entry (top-k; Aji & Heafield 2017, arXiv 1704.05021).

    Args:
        values: Of them.
        places: Of them, int32, in the flattened entry.
        shape: Of the entry.
    """

    values: Tensor
    places: Tensor
    shape: torch.Size

    @property
    def num_bytes(self) -> int:
        """What is sent of it."""
        return _bytes(self.values) + _bytes(self.places)

    def dense(self) -> Tensor:
        """Return the entry, zero where nothing was sent."""
        flat_P = torch.zeros(self.shape.numel(), dtype=self.values.dtype, device=self.values.device)
        flat_P[self.places.long()] = self.values
        return flat_P.reshape(self.shape)


@dataclass(frozen=True)
class Quantized:
    """Eight bits of each number, and how large the largest is.

    Args:
        codes: int8, -127 to 127.
        scale: What one step is, of the entry's type.
    """

    codes: Tensor
    scale: Tensor

    @property
    def num_bytes(self) -> int:
        """What is sent of it."""
        return _bytes(self.codes) + _bytes(self.scale)

    def dense(self) -> Tensor:
        """Return the entry."""
        return self.codes.to(self.scale.dtype) * self.scale


def top_k(entry: Tensor, share: float) -> Sparse:
    """Return the largest numbers of an entry, by their size.

    Args:
        entry: Of any shape.
        share: Of its numbers, above 0, at most 1; at least one is kept.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, not {share}")
    flat_P = entry.flatten()
    places = flat_P.abs().topk(max(1, math.ceil(share * flat_P.numel()))).indices.sort().values
    return Sparse(flat_P[places], places.int(), entry.shape)


def to_eight_bits(entry: Tensor, generator: torch.Generator | None = None) -> Quantized:
    """Return eight bits of each number (QSGD, Alistarh et al. 2017, arXiv 1610.02132).

    Args:
        entry: Of any shape, floating-point.
        generator: Of rounding at random, by which the mean of many is right; None rounds to the nearest.

    Raises:
        ValueError: A number is not finite.
    """
    scale = entry.abs().max() / 127
    if not scale.isfinite():
        raise ValueError("a number is not finite, so that none can be sent in eight bits")
    steps = entry / scale.where(scale > 0, torch.ones_like(scale))
    if generator is None:
        codes = steps.round()
    else:
        codes = (steps + torch.rand(entry.shape, generator=generator).to(entry)).floor()
    return Quantized(codes.clamp(-127, 127).to(torch.int8), scale)


Compressed = Sparse | Quantized | Tensor


class Compressor(ABC):
    """Makes what a replica sends smaller, as a configuration says it."""

    @abstractmethod
    def __call__(self, entry: Tensor) -> Sparse | Quantized:
        """Return what is sent of an entry."""


class TopK(Compressor):
    """Sends the largest numbers alone.

    Args:
        share: Of an entry's numbers, above 0, at most 1.
    """

    def __init__(self, share: float = 0.01) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        self.share = share

    def __call__(self, entry: Tensor) -> Sparse:
        """Return them."""
        return top_k(entry, self.share)


class EightBits(Compressor):
    """Sends eight bits of each number."""

    def __call__(self, entry: Tensor) -> Quantized:
        """Return them."""
        return to_eight_bits(entry)


def compress(
    change: State, left: Mapping[str, Tensor], how: Callable[[Tensor], Sparse | Quantized]
) -> tuple[dict[str, Compressed], dict[str, Tensor]]:
    """Return what is sent of a change, and what is left of it for the next round (error feedback, Stich et al. 2018,
    arXiv 1809.07599): nothing is lost, it comes later.

    Args:
        change: Of each entry since the last round.
        left: Of the round before; empty at first.
        how: `top_k` or `to_eight_bits`, with what they take; integers are sent as they are.
    """
    sent: dict[str, Compressed] = {}
    remains = {name: value for name, value in left.items() if name not in change}  # it comes when they change again
    for name, value in change.items():
        if not value.is_floating_point() or value.numel() == 0:
            sent[name] = value
            continue
        whole = value + left[name] if name in left else value
        small = how(whole)
        sent[name], remains[name] = small, whole - small.dense()
    return sent, remains


def decompress(sent: Mapping[str, Compressed]) -> dict[str, Tensor]:
    """Return the entries that were sent."""
    return {name: value if isinstance(value, Tensor) else value.dense() for name, value in sent.items()}


def num_bytes(sent: Mapping[str, Compressed]) -> int:
    """Return how many bytes of numbers are sent, their names not counted."""
    return sum(_bytes(value) if isinstance(value, Tensor) else value.num_bytes for value in sent.values())


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
