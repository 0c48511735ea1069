"""The distinct raw inputs of one modality, and how they are read."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KEY_BYTES = 16


class Source(ABC):
    """The distinct raw inputs of one modality."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, position: int) -> Any:
        """Return one raw input, as an expert's transform takes it."""

    @abstractmethod
    def name(self, position: int) -> str:
        """Say which input it is, for an error message."""

    @abstractmethod
    def content(self, position: int) -> bytes:
        """Return the bytes that make the input what it is: all that `load` reads, and what it is told to do."""

    def keys(self, positions: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Hash the content of inputs: 16 bytes each, equal where the content is and is loaded by the same code."""
        code = _code_of(type(self).load)
        digests = (hashlib.blake2b(self.content(int(p)), digest_size=KEY_BYTES, key=code).digest() for p in positions)
        return np.fromiter(digests, dtype=f"S{KEY_BYTES}", count=len(positions))


def _code_of(load: Any) -> bytes:
    """Hash a `load` of one's own: a source that crops its pictures must not be given the tokens of whole ones."""
    if load.__module__ == __name__:
        return b""
    try:
        return hashlib.blake2b(inspect.getsource(load).encode(), digest_size=KEY_BYTES).digest()
    except OSError:  # typed in at a prompt
        return b""


class ImageFiles(Source):
    """Pictures in files that Pillow reads."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, position: int) -> Image.Image:
        """Open one picture."""
        with Image.open(self.paths[position]) as image:
            image.load()
            return image

    def name(self, position: int) -> str:
        """Return the path."""
        return str(self.paths[position])

    def content(self, position: int) -> bytes:
        """Return the file's bytes."""
        return self.paths[position].read_bytes()


class Texts(Source):
    """Strings in memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def load(self, position: int) -> str:
        """Return one text."""
        return self.texts[position]

    def name(self, position: int) -> str:
        """Return the beginning of the text."""
        return repr(self.texts[position][:80])

    def content(self, position: int) -> bytes:
        """Return the text as UTF-8."""
        return self.texts[position].encode()


class Reader(Protocol):
    """Gives collated inputs for positions in a source."""

    def read(self, positions: NDArray[np.int64]) -> Any:
        """Return what the modality's expert takes."""


class InputTransform(Protocol):
    """What an expert wants done to its inputs."""

    def __call__(self, raw: Any) -> Any:
        """Transform one raw input."""

    def collate(self, items: Sequence[Any]) -> Any:
        """Join transformed inputs."""

    @property
    def for_evaluation(self) -> InputTransform:
        """The transform without chance, for what is not trained on: itself, if it has none."""


class RawReader:
    """Loads and transforms inputs when they are asked for.

    Args:
        source: Where the raw inputs are.
        transform: What the modality's expert wants done to them.
    """

    def __init__(self, source: Source, transform: InputTransform) -> None:
        self.source = source
        self.transform = transform

    def read(self, positions: NDArray[np.int64]) -> Any:
        """Load, transform and collate.

        Raises:
            ValueError: An input cannot be read; the message names it and the cause.
        """
        return self.transform.collate([self._item(int(position)) for position in positions])

    def _item(self, position: int) -> Any:
        try:
            return self.transform(self.source.load(position))
        # Pillow calls a broken PNG a SyntaxError
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read {self.source.name(position)}: {error}") from error
