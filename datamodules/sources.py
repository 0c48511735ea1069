"""The distinct raw inputs of one modality, and how they are read."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules.audio_decoding import AUDIO_SUFFIXES, decode_audio
from datamodules.decoding import ARRAY_SUFFIXES, DECODING, decode_array, decode_image, read_file
from datamodules.faults import WHAT_TO_DO, Fault, InputError

KEY_BYTES = 16
T = TypeVar("T")


class UnreadableInputsError(ValueError):
    """Inputs of one modality that cannot be used.

    Args:
        faults: By position in the source, at least one.
    """

    def __init__(self, faults: Mapping[int, Fault]) -> None:
        first = next(iter(faults.values()))
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"cannot read {first}{more}" + (WHAT_TO_DO if first.column else ""))
        self.faults = faults


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

    def reader(self, transform: InputTransform) -> RawReader:
        """Return what gives inputs as an expert takes them."""
        return RawReader(self, transform)

    def fault(self, position: int, error: Exception) -> Fault:
        """Say what is wrong with an input that cannot be used."""
        kind = error.kind if isinstance(error, InputError) else "not usable"
        return Fault(kind, str(error), value=self.name(position))

    def keys(self, positions: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Hash the content of inputs: 16 bytes each, equal where the content is and is loaded by the same code.

        Raises:
            UnreadableInputsError: There are inputs whose content cannot be read.
        """
        code = _code_of(type(self).load)

        def digest(position: int) -> bytes:
            return hashlib.blake2b(self.content(position), digest_size=KEY_BYTES, key=code).digest()

        return np.array(_for_each(digest, self, positions), dtype=f"S{KEY_BYTES}")


def _for_each(function: Callable[[int], T], source: Source, positions: NDArray[np.int64]) -> list[T]:
    """Call a function with each position; whatever cannot be read is told of at once."""
    results: list[T] = []
    errors: dict[int, Exception] = {}
    for position in positions.tolist():
        try:
            results.append(function(position))
        except (OSError, ValueError) as error:
            errors[position] = error
    if errors:
        faults = {position: source.fault(position, error) for position, error in errors.items()}
        raise UnreadableInputsError(faults) from next(iter(errors.values()))
    return results


def read_usable(
    read: Callable[[NDArray[np.int64]], T], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], T | None, Mapping[int, Fault]]:
    """Read what can be read of these positions.

    Returns:
        The positions that were read, what was read of them (None of no position), and the others' faults.
    """
    try:
        return positions, read(positions), {}
    except UnreadableInputsError as error:
        usable = positions[~np.isin(positions, list(error.faults))]
        return usable, read(usable) if len(usable) else None, error.faults


def _code_of(load: Any) -> bytes:
    """Hash a `load` of one's own: a source that crops its pictures must not be given the tokens of whole ones."""
    own = ""
    if load.__module__ not in (__name__, "datamodules.cells"):
        with suppress(OSError):  # typed in at a prompt
            own = inspect.getsource(load)
    return hashlib.blake2b(f"{DECODING} {own}".encode(), digest_size=KEY_BYTES).digest()


class Files(Source):
    """Files, each an input; a subclass loads one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, position: int) -> str:
        """Return the path."""
        return str(self.paths[position])

    def content(self, position: int) -> bytes:
        """Return the file's bytes."""
        return read_file(self.paths[position])


class ImageFiles(Files):
    """Pictures in files that Pillow reads."""

    def load(self, position: int) -> Image.Image:
        """Open one picture."""
        return decode_image(self.content(position))


class AudioFiles(Files):
    """Sounds in files that libsndfile reads."""

    def load(self, position: int) -> tuple[NDArray[np.float32], int]:
        """Return samples of shape (T, C), T samples in C channels, and their rate in Hz."""
        return decode_audio(self.content(position))


class AnyFiles(Files):
    """Files whose names tell what they hold: sound, an array, text (.txt), or else a picture."""

    def load(self, position: int) -> Any:
        """Return a picture, (samples, rate), an array or a text.

        Raises:
            InputError: It cannot be read.
        """
        content, suffix = self.content(position), self.paths[position].suffix.lower()
        if suffix in AUDIO_SUFFIXES:
            return decode_audio(content)
        if suffix in ARRAY_SUFFIXES:
            return decode_array(content, suffix)
        return _decode_text(content) if suffix == ".txt" else decode_image(content)


def _decode_text(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise InputError("undecodable", "is no text in UTF-8") from None
    if not text:
        raise InputError("empty file", "has no text")
    return text


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
    """What an expert wants done to its inputs.

    Where inputs are made of those of several modalities, it also has `parts`, the transforms of these by modality. What
    it takes is a dictionary with the raw inputs of those that there are, what it gives a `PairedBatch`.
    """

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
            UnreadableInputsError: There are inputs that cannot be read.
        """
        return self.transform.collate(_for_each(self.item, self.source, positions))

    def item(self, position: int) -> Any:
        """Load and transform one input."""
        return self.transform(self.source.load(position))
