"""Tokens of frozen experts, each input encoded once and kept on disk.

Legend: U inputs, N tokens, D width.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from crossmodal.feature_files import DESCRIPTION, KEY_TYPE, SUFFIX, Shard, content_digest, shard_paths
from crossmodal.whole_files import remove_abandoned, temporary_name, write_json
from experts.base import ExpertTokens

SPARE_FILES = 512  # that may be opened later
TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class StoredTokens:
    """The tokens of one expert that are on disk now.

    Args:
        folder: Of one fingerprint.
        mapped_bytes: A store up to this size is read through its memory map, a larger one row by row: a kernel
            may map megabytes around every row that is touched, and counts them as resident.
        paths: The shards; by default all that there are. Rows are counted over them, in this order.

    Raises:
        DamagedShardError: A file is cut short.
    """

    def __init__(self, folder: Path, *, mapped_bytes: int = 256 * 2**20, paths: Sequence[Path] | None = None) -> None:
        self.folder = folder
        self.mapped_bytes = mapped_bytes
        paths = shard_paths(folder) if paths is None else paths
        _allow_open_files(len(paths))
        self.shards = [Shard(path) for path in paths]
        self._first_row = np.cumsum([0, *(len(shard) for shard in self.shards)])
        keys = np.concatenate([np.empty(0, KEY_TYPE), *(shard.keys for shard in self.shards)])
        self._order = np.argsort(keys, kind="stable")
        self._sorted_keys = keys[self._order]
        lengths = [np.diff(shard.starts) for shard in self.shards]
        self._lengths = np.concatenate([np.empty(0, np.int64), *lengths])
        uniform = len(self._lengths) and (self._lengths == self._lengths[0]).all()
        self._num_tokens = int(self._lengths[0]) if uniform else None
        self._is_mapped = sum(shard.num_bytes for shard in self.shards) <= mapped_bytes

    def __len__(self) -> int:
        return len(self._sorted_keys)

    def __reduce__(self) -> tuple[Any, ...]:
        # a memory map does not travel to another process; the files are there too
        return _open_stored, (self.folder, self.mapped_bytes, [shard.path for shard in self.shards])

    def find(self, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Return the row of each key, -1 where it is not stored."""
        if not len(self):
            return np.full(len(keys), -1, np.int64)
        place = np.searchsorted(self._sorted_keys, keys).clip(max=len(self) - 1)
        return np.where(self._sorted_keys[place] == keys, self._order[place], -1).astype(np.int64)

    def gather(self, rows: NDArray[np.int64]) -> ExpertTokens:
        """Read the tokens of U rows, padded to the longest.

        Args:
            rows: As `find` gives them, none of them -1.
        """
        shard_of_row = np.searchsorted(self._first_row, rows, side="right") - 1
        lengths_U = self._lengths[rows]
        num_tokens = self._num_tokens or int(lengths_U.max(initial=0))
        first = self.shards[0]
        width = first.width
        tokens_UND = torch.zeros((len(rows), num_tokens, width), dtype=TORCH_TYPES[first.dtype])
        out = _as_numpy(tokens_UND)
        for number in np.unique(shard_of_row):
            chosen = np.flatnonzero(shard_of_row == number)
            shard, inside = self.shards[number], rows[chosen] - self._first_row[number]
            if self._num_tokens and self._is_mapped:
                values = shard.tokens.reshape(-1, num_tokens, width)
                if len(chosen) == len(rows):
                    np.take(values, inside, axis=0, out=out, mode="clip")
                else:
                    out[chosen] = values[inside]
            else:
                for place, row in zip(chosen.tolist(), inside.tolist(), strict=True):
                    shard.read(row, out[place])
        mask_UN = torch.arange(num_tokens) < torch.from_numpy(lengths_U).unsqueeze(1)
        return ExpertTokens(tokens_UND, mask_UN)


def _allow_open_files(count: int) -> None:
    """Raise this process's own limit, often 1024, as far as the system lets it: each shard stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(os.listdir("/dev/fd")) + count + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _open_stored(folder: Path, mapped_bytes: int, paths: list[Path]) -> StoredTokens:
    return StoredTokens(folder, mapped_bytes=mapped_bytes, paths=paths)


class ShardWriter:
    """Collects tokens and writes them as shards.

    Args:
        folder: Of one fingerprint.
        shard_bytes: A shard is written when it has grown so large.
    """

    def __init__(self, folder: Path, *, shard_bytes: int = 128 * 2**20) -> None:
        self.folder = folder
        self.shard_bytes = shard_bytes
        self._batches: list[tuple[NDArray[np.bytes_], Tensor, Tensor]] = []  # keys, tokens, tokens of each input
        self._bytes = 0

    def add(self, keys: NDArray[np.bytes_], tokens: ExpertTokens) -> None:
        """Take the tokens of some inputs; what is masked is left out.

        Raises:
            ValueError: There are more or fewer than inputs.
        """
        if len(tokens) != len(keys):
            raise ValueError(f"the expert gave tokens for {len(tokens)} inputs; it was given {len(keys)}")
        tokens_UND, mask_UN = tokens.tokens_BND.cpu(), tokens.mask_BN.cpu()
        # in one step: Ctrl-C may come between any two
        self._batches.append((keys, tokens_UND[mask_UN], mask_UN.sum(1)))
        self._bytes += tokens_UND.nbytes
        if self._bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected: all of it is there afterwards, or, if this is killed, none."""
        if not self._batches:
            return
        keys_of_batches, tokens_of_batches, lengths_of_batches = zip(*self._batches, strict=True)
        keys = np.concatenate(keys_of_batches)
        tokens = torch.cat(tokens_of_batches).contiguous()
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), torch.cat(lengths_of_batches).cumsum(0)])
        keys_tensor = torch.from_numpy(keys.view(np.uint8).reshape(-1, 16).copy())
        digest = content_digest(keys, starts.numpy(), _as_numpy(tokens))
        temporary = temporary_name(self.folder)
        try:
            save_file({"keys": keys_tensor, "starts": starts, "tokens": tokens}, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.folder / f"{digest}{SUFFIX}")
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(f"the feature store cannot be written: {self.folder}: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)
        self._batches, self._bytes = [], 0


class FeatureStore:
    """A folder of stored tokens, shared by runs, experiments and processes.

    Args:
        root: The folder; it is made when something is stored.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self, fingerprint: str) -> StoredTokens:
        """Return what is stored of an expert now."""
        return StoredTokens(self.root / fingerprint)

    def writer(self, fingerprint: str, description: Mapping[str, Any]) -> ShardWriter:
        """Return a writer for an expert's tokens."""
        folder = self.root / fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        write_json(folder / DESCRIPTION, dict(description))
        return ShardWriter(folder)


def _as_numpy(tokens: Tensor) -> NDArray[Any]:
    return tokens.view(torch.uint16).numpy() if tokens.dtype == torch.bfloat16 else tokens.numpy()
