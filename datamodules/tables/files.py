"""A file of rows on a disk or behind a URL, and its lines. Whatever cannot be read is told in one line."""

from __future__ import annotations

import difflib
import io
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.decoding import is_url
from datamodules.faults import Fault, shown

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
# A path or URL of rows. Checked by `check_manifest_file`.
ManifestFile = str
# one line or one cell; a file without line ends, or with a quote that is never closed, must not fill the memory
MAX_CHARACTERS = 2**26
BATCH_ROWS = 65_536
# of cells that hold whole pictures fewer rows make a batch
BATCH_BYTES = 2**24
Numbered = tuple[pa.RecordBatch, NDArray[np.int64] | None]


@dataclass
class Rows:
    """The rows of a file, while they are read.

    Args:
        schema: Of the batches.
        batches: Each with its rows' line numbers; without, where rows are counted from 0.
        empty: What is said of a file that has none.
        faults: Of the rows that are left out. Complete when all batches are read.
        num_bytes: About how much all batches will take; 0 where that is not known.
    """

    schema: pa.Schema
    batches: Iterator[Numbered]
    empty: str
    faults: list[Fault] = field(default_factory=list)
    num_bytes: int = 0


@contextmanager
def reading(name: object, says: str = "cannot be read") -> Iterator[None]:
    """Turn what a disk, a network or Arrow raises into one line.

    Raises:
        ValueError: Something is wrong with the file.
    """
    try:
        yield
    except (OSError, EOFError, MemoryError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"{name}: {says}: {reason}") from error


class TableFile:
    """A file of rows.

    Args:
        path: On a disk, or a URL that fsspec opens.

    Raises:
        ValueError: There is no such file, or none that can be read as rows.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.name = PurePosixPath(str(path)).name
        suffixes = [suffix.lower() for suffix in PurePosixPath(self.name).suffixes]
        self.compression = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
        self.suffix = (suffixes[:-1] if self.compression else suffixes)[-1:]
        self.format = self.suffix[0] if self.suffix else ""
        if self.format not in FORMATS or (self.compression and self.format == ".parquet"):
            raise ValueError(f"{path}: the name of a file of rows ends in {', '.join(FORMATS)}")
        self._remote = _remote(str(path)) if is_url(str(path)) else None
        self.size = self._size()

    def _size(self) -> int:
        if self._remote:
            system, place = self._remote
            return int(system.info(place).get("size") or 0)
        with reading(self.path):
            status = os.stat(self.path)
        # a pipe would be waited for, for ever
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder; name one of the files in it" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise ValueError(f"{self.path}: is {kind}")
        return status.st_size

    def state(self) -> tuple[str, int, int] | None:
        """Return what changes with the content; None where that is not known."""
        if self._remote:
            return None
        with reading(self.path):
            status = os.stat(self.path)
        return os.path.realpath(self.path), status.st_size, status.st_mtime_ns

    def open(self) -> IO[bytes]:
        """Open the file, decompressed."""
        with reading(self.path):
            if self._remote:
                system, place = self._remote
                raw: IO[bytes] = system.open(place, "rb")
            else:
                raw = open(self.path, "rb")  # noqa: SIM115 - the caller closes it
            return pa.CompressedInputStream(raw, self.compression) if self.compression else raw


class Lines:
    """The lines of a file of UTF-8 text, counted.

    Args:
        file: Of text.
        newline: What ends a line, as `open` takes it.

    Raises:
        ValueError: While iterated: the file is no text.
    """

    def __init__(self, file: TableFile, *, newline: str) -> None:
        self.file = file
        self.newline = newline
        self.number = 0
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        with reading(self.file.name), self._stream("strict") as stream:
            try:
                for line in iter(partial(stream.readline, MAX_CHARACTERS), ""):
                    self.number += 1
                    self.characters += len(line)
                    if len(line) == MAX_CHARACTERS:
                        raise ValueError(
                            f"{self.file.name}:{self.number}: a line of over {MAX_CHARACTERS:,} characters"
                        )
                    if "\0" in line:
                        raise ValueError(f"{self.file.name}:{self.number}: a NUL byte; the file is damaged or no text")
                    yield line
            except UnicodeDecodeError as error:
                raise ValueError(f"{self.file.name}:{self._not_text()}: not UTF-8; save it as UTF-8") from error

    def _stream(self, errors: str) -> io.TextIOWrapper:
        return io.TextIOWrapper(self.file.open(), encoding="utf-8-sig", errors=errors, newline=self.newline)

    def _not_text(self) -> int:
        """Return the first line that is not UTF-8; the decoder, which reads ahead, does not say."""
        with self._stream("surrogateescape") as stream:
            for number, line in enumerate(stream, 1):
                if any("\udc80" <= character <= "\udcff" for character in line):
                    return number
        return 1


def check_manifest_file(path: str) -> None:
    """Refuse a path where nothing is.

    Raises:
        FileNotFoundError: With the nearest name.
    """
    if not is_url(path) and not os.path.exists(path):
        folder = Path(path).parent
        names = [one.name for one in folder.iterdir()] if folder.is_dir() else []
        near = difflib.get_close_matches(Path(path).name, names, n=1)
        raise FileNotFoundError(f"{path}: no such file" + (f"; did you mean {folder / near[0]}?" if near else ""))


def _remote(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and where in it the file is."""
    protocol = url.partition("://")[0]
    fsspec = import_module("fsspec")
    try:
        system, place = fsspec.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url}: reading {protocol}:// needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise ValueError(f"{url}: no package that is installed reads {protocol}://") from error
    try:
        info = system.info(place)
    except Exception as error:  # each back end raises its own
        raise ValueError(f"{url}: cannot be opened: {type(error).__name__}: {error}") from error
    if info.get("type") == "directory":
        raise ValueError(f"{url}: is a folder; name one of the files in it")
    return system, place


@dataclass(frozen=True)
class Wanted:
    """The columns to read.

    Args:
        columns: By default all that have a name.
        optional: Those of them that a file need not have.
        strings: Those that hold text, or lists of it.
    """

    columns: Collection[str] | None = None
    optional: Collection[str] = ()
    strings: Collection[str] = ()


def choose(name: str, known: Sequence[str], wanted: Wanted) -> list[str]:
    """Return the columns to read, in the order of the file.

    Raises:
        ValueError: One is not there, twice there, or has no name.
    """
    columns = [column for column in known if column] if wanted.columns is None else wanted.columns
    if not columns:
        raise ValueError(f"{name}: no column has a name")
    if "" in columns:
        raise ValueError(f"{name}: a column without a name cannot be read; name it in the first line")
    optional = wanted.optional if set(columns) & set(known) else ()  # of all one must be there
    for column in sorted(set(columns) - set(known) - set(optional)):
        near = difflib.get_close_matches(column, known, n=1)
        hint = f" (did you mean {shown(near[0])!r}?)" if near else ""
        listed = ", ".join(repr(shown(other)) for other in known[:20]) + (", …" if known[20:] else "")
        raise ValueError(f"{name}: there is no column {column!r}{hint}; it has {listed}")
    chosen = [column for column in known if column in columns]
    for column, count in Counter(chosen).items():
        if count > 1:
            raise ValueError(f"{name}: {count} columns are named {shown(column)!r}; rename all but one")
    return chosen
