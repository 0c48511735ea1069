"""Inputs for an expert that are not those of a modality of its name: of another, or of several together.

Legend: R rows of a split, U distinct inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.batch import ABSENT, PairedBatch
from datamodules.faults import Fault
from datamodules.rows import PairedRows, distinct
from datamodules.sources import KEY_BYTES, InputTransform, RawReader, Source, UnreadableInputsError

T = TypeVar("T")


def parts_of(transform: InputTransform) -> Mapping[str, InputTransform]:
    """Return the transforms of the modalities that a transform's inputs are made of, if they are made of several."""
    parts: Mapping[str, InputTransform] = getattr(transform, "parts", {})
    return parts


def modality_of(name: str, transform: InputTransform) -> str:
    """Return the modality of the data that an expert reads: that of its name, if its transform names no other."""
    modality: str = getattr(transform, "modality", name)
    return modality


def bases(modality: str, transform: InputTransform) -> dict[str, InputTransform]:
    """Return by modality of the data the transforms of what an expert reads of it."""
    if not (parts := parts_of(transform)):
        return {modality_of(modality, transform): transform}
    return {name: one for part, inner in parts.items() for name, one in bases(part, inner).items()}


def with_combined(rows: PairedRows, transforms: Mapping[str, InputTransform]) -> PairedRows:
    """Return rows with the further modalities that are made of those that they have."""
    made: dict[str, tuple[Source, NDArray[np.int64]]] = {}
    for name, one in transforms.items():
        if parts := parts_of(one):
            made[name] = _combine(rows, parts)
        elif (modality := modality_of(name, one)) != name:
            made[name] = rows.sources[modality], rows.index[modality]
    if not made:
        return rows
    return replace(
        rows,
        sources={**rows.sources, **{name: source for name, (source, _) in made.items()}},
        index={**rows.index, **{name: index_R for name, (_, index_R) in made.items()}},
    )


def _combine(rows: PairedRows, parts: Mapping[str, InputTransform]) -> tuple[CombinedSource, NDArray[np.int64]]:
    """Return the distinct combinations that rows have, and which is each row's, -1 where it has none of the parts."""
    sources: dict[str, Source] = {}
    index: dict[str, NDArray[np.int64]] = {}
    for part, transform in parts.items():
        if inner := parts_of(transform):
            sources[part], index[part] = _combine(rows, inner)
        else:
            modality = modality_of(part, transform)
            sources[part], index[part] = rows.sources[modality], rows.index[modality]
    # in the order of the first part, so that inputs that are read together have much in common
    found_UP, inverse_R = np.unique(np.stack(list(index.values()), axis=1), axis=0, return_inverse=True)
    inverse_R = inverse_R.reshape(-1).astype(np.int64, copy=False)
    if len(found_UP) and (found_UP[0] == ABSENT).all():
        found_UP, inverse_R = found_UP[1:], inverse_R - 1
    return CombinedSource(sources, dict(zip(index, found_UP.T, strict=True))), inverse_R


class CombinedSource(Source):
    """Inputs each of which is made of one of each part, or lacks it.

    Args:
        sources: By part.
        index: By part an int64 vector of length U: which of the source's inputs each has, -1 where it has none.
    """

    def __init__(self, sources: Mapping[str, Source], index: Mapping[str, NDArray[np.int64]]) -> None:
        self.sources = sources
        self.index = index

    def __len__(self) -> int:
        return len(next(iter(self.index.values())))

    def load(self, position: int) -> dict[str, Any]:
        """Return the raw inputs of the parts that there are."""
        return {part: self.sources[part].load(at) for part, at in self._parts(position)}

    def name(self, position: int) -> str:
        """Return the names of its parts."""
        return ", ".join(f"{part} {self.sources[part].name(at)}" for part, at in self._parts(position))

    def content(self, position: int) -> bytes:
        """Return the parts' content, each after its name and length."""
        contents = ((part, self.sources[part].content(at)) for part, at in self._parts(position))
        return b"".join(f"{part} {len(content)} ".encode() + content for part, content in contents)

    def keys(self, positions: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Hash the parts' keys; the content of a part that many share is read once.

        Raises:
            UnreadableInputsError: There are inputs whose content cannot be read.
        """
        digests = [hashlib.blake2b(digest_size=KEY_BYTES) for _ in range(len(positions))]
        for part, (keys, index_U) in self.of_parts(positions, lambda part, at: self.sources[part].keys(at)).items():
            for digest, place in zip(digests, index_U.tolist(), strict=True):
                if keys is not None and place != ABSENT:
                    digest.update(f"{part} {keys[place].hex()} ".encode())
        return np.array([digest.digest() for digest in digests], dtype=f"S{KEY_BYTES}")

    def reader(self, transform: InputTransform) -> RawReader:
        """Return a reader that reads a part once where several inputs of a batch share it."""
        return CombinedReader(self, transform)

    def of_parts(
        self, positions: NDArray[np.int64], read: Callable[[str, NDArray[np.int64]], T]
    ) -> dict[str, tuple[T | None, NDArray[np.int64]]]:
        """Read, by part, the distinct inputs that are wanted, if there are any; say which of them each position has.

        Raises:
            UnreadableInputsError: A part of some cannot be read.
        """
        found: dict[str, tuple[T | None, NDArray[np.int64]]] = {}
        faults: dict[int, Fault] = {}
        for part, index in self.index.items():
            wanted, index_U = distinct(index[positions])
            try:
                found[part] = (read(part, wanted) if len(wanted) else None), index_U
            except UnreadableInputsError as error:
                faulty = zip(positions.tolist(), index[positions].tolist(), strict=True)
                faults |= {position: error.faults[at] for position, at in faulty if at in error.faults}
        if faults:
            raise UnreadableInputsError(faults)
        return found

    def _parts(self, position: int) -> list[tuple[str, int]]:
        return [(part, int(index[position])) for part, index in self.index.items() if index[position] != ABSENT]


class CombinedReader(RawReader):
    """Reads combined inputs as a batch of their parts, each distinct one once.

    Args:
        source: Where the raw inputs are.
        transform: With the transforms of the parts.
    """

    def __init__(self, source: CombinedSource, transform: InputTransform) -> None:
        super().__init__(source, transform)
        self._of_parts = source.of_parts
        parts = parts_of(transform)
        self._readers = {part: one.reader(parts[part]) for part, one in source.sources.items()}

    def read(self, positions: NDArray[np.int64]) -> PairedBatch:
        """Load, transform and collate the parts.

        Raises:
            UnreadableInputsError: There are inputs that cannot be read.
        """
        found = self._of_parts(positions, lambda part, wanted: self._readers[part].read(wanted))
        return PairedBatch(
            inputs={part: inputs for part, (inputs, _) in found.items() if inputs is not None},
            index={part: torch.from_numpy(index_U) for part, (_, index_U) in found.items()},
            targets={},
            ids=list(map(str, positions.tolist())),
        )
