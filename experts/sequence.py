"""Rows with several inputs of one kind, such as several pictures: any expert, over each of them.

Legend: U inputs (sequences), L items of a sequence, J = U * L, N tokens of an item, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import register_dataclass

from experts.base import Expert, ExpertTokens, Precision, Transform
from experts.digests import digest_of
from experts.raw import require_kind
from experts.wrapping import WrappingExpert

NO_ITEM = -1


@dataclass
class Sequences:
    """Collated sequences.

    Args:
        items: Of all of them, J, as their expert takes them.
        index_UL: int64, which item stands where in which sequence, -1 where none does.
    """

    items: Any
    index_UL: Tensor

    def take_nested(self, used_U: Tensor, take: Callable[[Any, Tensor], Any]) -> Sequences:
        """Return some of the sequences, without the items of others.

        Args:
            used_U: Their numbers.
            take: Returns some of collated inputs by number.
        """
        index_UL = self.index_UL[used_U.to(self.index_UL.device)]
        index_UL = index_UL[:, (index_UL != NO_ITEM).any(0)]
        has_item_UL = index_UL != NO_ITEM
        numbers_J = torch.arange(int(has_item_UL.sum()), device=index_UL.device)
        own_UL = torch.full_like(index_UL, NO_ITEM).masked_scatter(has_item_UL, numbers_J)
        return Sequences(take(self.items, index_UL[has_item_UL]), own_UL)


register_dataclass(Sequences)  # so that a batch moves and pins what is in it


class SequenceTransform:
    """Transforms each item of a sequence as its expert wants it.

    Args:
        item: The expert's own transform.
        max_length: In items; what is longer is cut.
    """

    def __init__(self, item: Transform, *, max_length: int | None = None) -> None:
        self.item = item
        self.max_length = max_length

    def __call__(self, raw: Sequence[Any]) -> list[Any]:
        """Transform each item.

        Raises:
            ValueError: There is none, or one that cannot be transformed.
        """
        require_kind(raw, (list, tuple), "a list of inputs")
        if not len(raw):
            raise ValueError("a sequence of no items; a row without any must lack the modality")
        return [self._transformed(number, item) for number, item in enumerate(raw[: self.max_length])]

    def _transformed(self, number: int, item: Any) -> Any:
        try:
            return self.item(item)
        except ValueError as error:
            raise ValueError(f"item {number}: {error}") from error

    def collate(self, items: Sequence[list[Any]]) -> Sequences:
        """Collate all sequences' items, and say which are whose."""
        stops = list(accumulate(map(len, items), initial=0))
        indices = [torch.arange(start, stop) for start, stop in pairwise(stops)]
        index_UL = pad_sequence(indices, batch_first=True, padding_value=NO_ITEM)
        return Sequences(self.item.collate(list(chain.from_iterable(items))), index_UL)

    def complaint(self, raw: Sequence[Any]) -> tuple[str, str] | None:
        """Tell of a sequence that is cut, or else what the first item to complain of loses."""
        if self.max_length is not None and len(raw) > self.max_length:
            return "sequence too long", f"{len(raw)} items, cut to {self.max_length}"
        if (complaint := getattr(self.item, "complaint", None)) is None:
            return None
        for number, item in enumerate(raw):
            if found := complaint(item):
                kind, cause = found
                return kind, f"item {number}: {cause}"
        return None

    @property
    def for_evaluation(self) -> SequenceTransform:
        """Itself, if the items' transform has no chance in it."""
        item = self.item.for_evaluation
        return self if item is self.item else SequenceTransform(item, max_length=self.max_length)

    def describe(self) -> dict[str, Any]:
        """Return what the items depend on."""
        return {"item": self.item.describe(), "max_length": self.max_length}


class SequenceExpert(WrappingExpert):
    """Any expert for rows with several inputs of its kind: the tokens of all items, side by side.

    It is frozen or trained as the expert is, and what the expert gives can be stored. The order of the items is not
    told: they are a set, such as several views of one thing.

    Args:
        expert: For one item.
        max_length: In items; what is longer is cut.

    Raises:
        ValueError: The length is below 1.
    """

    def __init__(self, expert: Expert, *, max_length: int | None = None) -> None:
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length must be at least 1, not {max_length}")
        super().__init__(expert, transform=SequenceTransform(expert.transform, max_length=max_length))
        self.frozen = expert.frozen
        self.precision = expert.precision

    def encode(self, inputs: Sequences) -> ExpertTokens:
        """Turn items into tokens of shape (U, L * N, D)."""
        index_UL = inputs.index_UL
        tokens = self.network(inputs.items)
        chosen_J = index_UL.clamp_min(0).flatten()
        tokens_ULND = tokens.tokens_BND.index_select(0, chosen_J).unflatten(0, index_UL.shape)
        mask_ULN = tokens.mask_BN.index_select(0, chosen_J).unflatten(0, index_UL.shape)
        mask_ULN = mask_ULN & (index_UL != NO_ITEM).unsqueeze(-1)
        return ExpertTokens(
            tokens_ULND.masked_fill(~mask_ULN.unsqueeze(-1), 0).flatten(1, 2),
            mask_ULN.flatten(1, 2),
        )

    def learn_statistics(self, batches: Iterable[Sequences]) -> None:
        """Let the expert learn them of the items."""
        self.network.learn_statistics(inputs.items for inputs in batches)

    def why_not_stored(self) -> str | None:
        """Return why the expert's tokens cannot be kept, or None if they can."""
        return self.network.why_not_stored()

    def set_precision(self, precision: Literal["float32", "bfloat16"]) -> None:
        """Cast the expert."""
        self.network.set_precision(precision)
        self.precision = precision

    def parameters_outside_network(self) -> list[str]:
        """Return the expert's own."""
        return [f"network.{name}" for name in self.network.parameters_outside_network()]

    def fingerprint(self, precision: Precision | None = None) -> str:
        """Hash the expert's fingerprint and what is done here. 32 hexadecimal digits.

        Raises:
            ValueError: The expert is trained, so that its tokens change.
        """
        return digest_of({"expert": self.network.fingerprint(precision or self.precision), **self._own()})

    def identity(self) -> str:
        """Hash the expert's identity and the settings here: 32 hexadecimal digits."""
        own = {key: value for key, value in self._own().items() if key != "source"}
        return digest_of({"expert": self.network.identity(), **own})

    def _own(self) -> dict[str, Any]:
        return {key: value for key, value in self.describe().items() if key != "expert"}
