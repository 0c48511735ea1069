"""How stored tokens lie on disk. Nothing here imports torch: `crossmodal cache` must answer at once.

    ROOT/FINGERPRINT/expert.json             what was encoded, with which expert
    ROOT/FINGERPRINT/DIGEST.safetensors      a shard: `keys` (n, 16), `starts` (n + 1), `tokens` (total, D)
    ROOT/precision/FINGERPRINT.json          what `precision: auto` was found to be

A shard is written once, under a temporary name, and renamed: whoever reads sees it whole or not at all, and
processes that write at the same time write different shards. Its name is the digest of its content.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUFFIX = ".safetensors"
DESCRIPTION = "expert.json"
PRECISION = "precision"
KEY_TYPE = "S16"
NUMPY_TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "U8": np.uint8}


class DamagedShardError(ValueError):
    """A shard that is cut short or not what its name says."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"feature store: {path} {fault}; run: crossmodal cache verify --delete")


class Shard:
    """One file of stored tokens.

    Args:
        path: A file that `feature_store.ShardWriter` wrote.

    Raises:
        DamagedShardError: The file is cut short or no shard.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            (header_bytes,) = struct.unpack("<Q", self._file.read(8))
            if header_bytes > os.fstat(self._file.fileno()).st_size:
                raise ValueError("cut short")
            self._header = json.loads(self._file.read(header_bytes))
            self._data_start = 8 + header_bytes
            self.keys: NDArray[np.bytes_] = self._read("keys").view(KEY_TYPE).reshape(-1)
            self.starts: NDArray[np.int64] = self._read("starts")
            self.dtype: str = self._header["tokens"]["dtype"]
            self.num_tokens, self.width = self._header["tokens"]["shape"]
            self._item_bytes = np.dtype(NUMPY_TYPES[self.dtype]).itemsize
            self._tokens_start, _ = self._span("tokens")
            if len(self.starts) != len(self.keys) + 1 or self.starts[-1] != self.num_tokens:
                raise ValueError("lengths that do not agree")
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, IndexError, struct.error) as error:
            raise DamagedShardError(path, "is damaged") from error

    def _span(self, name: str) -> tuple[int, int]:
        """Return where an array begins in the file, and how many numbers it has."""
        entry = self._header[name]
        begin, end = entry["data_offsets"]
        count, rest = divmod(end - begin, np.dtype(NUMPY_TYPES[entry["dtype"]]).itemsize)
        if rest or begin < 0 or self._data_start + end > os.fstat(self._file.fileno()).st_size:
            raise ValueError("cut short")
        if count != math.prod(entry["shape"]):
            raise ValueError("another shape")
        return self._data_start + begin, count

    def _read(self, name: str) -> NDArray[Any]:
        start, count = self._span(name)
        self._file.seek(start)
        values = np.fromfile(self._file, NUMPY_TYPES[self._header[name]["dtype"]], count)
        return values.reshape(self._header[name]["shape"])

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """All tokens, memory-mapped when they are first asked for."""
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        values = np.frombuffer(mapped, NUMPY_TYPES[self.dtype], self.num_tokens * self.width, self._tokens_start)
        return values.reshape(self.num_tokens, self.width)

    @property
    def num_bytes(self) -> int:
        """Of all tokens."""
        return int(self.num_tokens * self.width * self._item_bytes)

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, row: int, out: NDArray[Any]) -> None:
        """Copy one input's tokens into the first rows of `out`, without the memory map."""
        start, stop = self.starts[row], self.starts[row + 1]
        if start == stop:
            return
        row_bytes = self.width * self._item_bytes
        target = out[: stop - start].data.cast("B")
        if os.preadv(self._file.fileno(), [target], self._tokens_start + int(start) * row_bytes) != target.nbytes:
            raise DamagedShardError(self.path, "is cut short")

    def fault(self) -> str | None:
        """Return what is wrong with the content, or None."""
        digest = content_digest(self.keys, self.starts, self.tokens)
        return None if digest == self.path.stem else "does not hold what its name says"


def content_digest(keys: NDArray[Any], starts: NDArray[np.int64], tokens: NDArray[Any]) -> str:
    """Hash a shard's content: 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for array in (keys, starts, tokens):
        digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()[:32]


def shard_paths(folder: Path) -> list[Path]:
    """Return a fingerprint's shards, oldest first."""
    paths = [path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith(".")]
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))


@dataclass(frozen=True)
class Entry:
    """One expert's stored tokens.

    Args:
        folder: Where they lie.
        description: What `expert.json` says.
        inputs: How many inputs are encoded.
        num_bytes: On disk.
        faults: Per damaged shard what is wrong with it.
    """

    folder: Path
    description: dict[str, Any]
    inputs: int
    num_bytes: int
    faults: dict[Path, str]


def entries(root: Path, *, verify: bool = False) -> Iterator[Entry]:
    """Yield what a store holds.

    Args:
        root: The store's folder.
        verify: Read every byte and compare it with its digest.
    """
    for folder in sorted(path for path in root.glob("*") if (path / DESCRIPTION).exists()):
        inputs, num_bytes, faults = 0, 0, {}
        for path in shard_paths(folder):
            num_bytes += path.stat().st_size
            try:
                shard = Shard(path)
            except DamagedShardError:
                faults[path] = "is damaged"
                continue
            inputs += len(shard)
            if verify and (fault := shard.fault()):
                faults[path] = fault
        try:
            description = json.loads((folder / DESCRIPTION).read_text())
        except ValueError:
            description = {}  # the tokens do not depend on it
        yield Entry(folder, description, inputs, num_bytes, faults)


def remove(folder: Path) -> None:
    """Delete one expert's stored tokens. Who has them open can read on."""
    shutil.rmtree(folder)
