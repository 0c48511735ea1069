"""Formats for stored tokens: what each costs to write, to open and to gather shuffled rows from.

safetensors, Arrow IPC and NumPy's own format, each read through a memory map, as shards of 128 MB. Resident
memory is what reading every row in random order leaves mapped. The feature store is safetensors too, with keys,
and reads row by row what is larger than 256 MB: its rows/s are the price of staying small.

    python scripts/bench_store.py [--rows 400000] [--width 256]
"""

from __future__ import annotations

import argparse
import json
import mmap
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file

from crossmodal.feature_store import ShardWriter, StoredTokens
from experts.base import ExpertTokens

SHARD_BYTES = 128 * 2**20
BATCH = 512
Gather = Callable[[np.ndarray], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    values = np.random.default_rng(0).standard_normal((options.rows, options.width), dtype=np.float32)
    per_shard = SHARD_BYTES // values[0].nbytes
    pieces = [values[start : start + per_shard] for start in range(0, len(values), per_shard)]
    formats = {
        "safetensors": (write_safetensors, open_safetensors),
        "arrow ipc": (write_arrow, open_arrow),
        "npy": (write_npy, open_npy),
        "the feature store": (write_store, open_store),
    }
    found: dict[str, dict[str, float]] = {}
    order = np.random.default_rng(1).permutation(len(values))
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    with tempfile.TemporaryDirectory() as name:
        for title, (write, opened) in formats.items():
            folder = Path(name) / title.replace(" ", "_")
            folder.mkdir()
            began = time.perf_counter()
            write(folder, pieces)
            wrote = time.perf_counter() - began
            began = time.perf_counter()
            gather = opened(folder, per_shard)
            opening = time.perf_counter() - began
            before = resident()
            rates = []
            for _ in range(options.rounds):
                began = time.perf_counter()
                for batch in batches:
                    gather(batch)
                rates.append(len(order) / (time.perf_counter() - began))
            found[title] = {
                "write MB/s": round(values.nbytes / wrote / 1e6),
                "open ms": round(1e3 * opening, 1),
                "rows/s": round(statistics.median(rates)),
                "resident MB": round((resident() - before) / 1e6),
            }
            del gather
    print(f"{'':<20}" + "".join(f"{column:>14}" for column in next(iter(found.values()))))
    for title, row in found.items():
        print(f"{title:<20}" + "".join(f"{value:>14,}" for value in row.values()))
    print(json.dumps(found))


def resident() -> int:
    with open("/proc/self/status") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("RssFile"))


def by_shard(arrays: list[np.ndarray], per_shard: int) -> Gather:
    def gather(rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), arrays[0].shape[1]), arrays[0].dtype)
        shard_of_row = rows // per_shard
        for number in np.unique(shard_of_row):
            chosen = np.flatnonzero(shard_of_row == number)
            out[chosen] = arrays[number][rows[chosen] - number * per_shard]
        return out

    return gather


def write_safetensors(folder: Path, pieces: list[np.ndarray]) -> None:
    for number, piece in enumerate(pieces):
        save_file({"tokens": piece}, folder / f"{number:05}.safetensors")


def open_safetensors(folder: Path, per_shard: int) -> Gather:
    return by_shard([load_file(path)["tokens"].numpy() for path in sorted(folder.iterdir())], per_shard)


def write_arrow(folder: Path, pieces: list[np.ndarray]) -> None:
    for number, piece in enumerate(pieces):
        column = pa.FixedSizeListArray.from_arrays(pa.array(piece.reshape(-1)), piece.shape[1])
        table = pa.table({"tokens": column})
        with pa.OSFile(str(folder / f"{number:05}.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
            out.write_table(table)


def open_arrow(folder: Path, per_shard: int) -> Gather:
    arrays = []
    for path in sorted(folder.iterdir()):
        column = pa.ipc.open_file(pa.memory_map(str(path))).read_all()["tokens"].chunk(0)
        arrays.append(column.flatten().to_numpy(zero_copy_only=True).reshape(len(column), -1))
    return by_shard(arrays, per_shard)


def write_npy(folder: Path, pieces: list[np.ndarray]) -> None:
    for number, piece in enumerate(pieces):
        np.save(folder / f"{number:05}.npy", piece)


def open_npy(folder: Path, per_shard: int) -> Gather:
    arrays = [np.load(path, mmap_mode="r") for path in sorted(folder.iterdir())]
    for array in arrays:
        array._mmap.madvise(mmap.MADV_RANDOM)
    return by_shard(arrays, per_shard)


def write_store(folder: Path, pieces: list[np.ndarray]) -> None:
    writer = ShardWriter(folder, shard_bytes=1)
    for number, piece in enumerate(pieces):
        keys = np.char.add(f"{number:04}".encode(), np.arange(len(piece)).astype("S12"))
        writer.add(keys.astype("S16"), ExpertTokens(torch.from_numpy(piece)[:, None], torch.ones(len(piece), 1) > 0))


def open_store(folder: Path, per_shard: int) -> Gather:
    return StoredTokens(folder).gather


if __name__ == "__main__":
    main()
