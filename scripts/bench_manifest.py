"""Seconds and memory to open a Parquet manifest of 10,000,000 rows, and to read rows of it.

A training split of two modalities and a target is made of it, as `crossmodal fit` does.
The file is written once, a batch at a time, and opened twice in processes of their own: the first finds nothing in the
cache, the second finds the table. The peak is the operating system's own figure (VmHWM: ru_maxrss would begin with that
of the process that wrote the file), mapped pages included; what is anonymous is the process's own.

    python scripts/bench_manifest.py [--rows 10000000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 2**20  # a row group, of the size that pyarrow writes by default
READ = 1_000

OPENED = """
import json, sys, time
from pathlib import Path
from datamodules.columns import Column
from datamodules.manifest import Manifest
from datamodules.rows import PairedDataset
from datamodules.sources import RawReader
from datamodules.splits import Split
from datamodules.targets import Target

class AsItIs:
    def __call__(self, raw): return raw
    def collate(self, items): return list(items)
    for_evaluation = property(lambda self: self)

def megabytes(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 / 1e6 for line in file if line.startswith(field))

path, cache, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
before, own_before = megabytes("VmRSS"), megabytes("RssAnon")
began = time.perf_counter()
data = Manifest(
    train=path, cache=cache, split=Split(column="split"), batch_size=100,
    modalities={"image": Column("image", "image"), "text": Column("text", "text")},
    targets={"label": Target("class", "label")},
)
data.connect({"image": AsItIs(), "text": AsItIs()})
rows = data.rows("train")
figures = {"seconds to open": round(time.perf_counter() - began, 2), "training rows": len(rows)}
figures["imports MB"] = round(before)
figures["peak MB above the imports"] = round(megabytes("VmHWM") - before)
figures["anonymous MB above the imports"] = round(megabytes("RssAnon") - own_before)
# the pictures do not exist; the texts are read
dataset = PairedDataset(rows, {"text": RawReader(rows.sources["text"], AsItIs())})
data.rows("train").sources["image"].load = lambda position: None
import numpy as np
began = time.perf_counter()
for start in range(0, count, 100):
    assert len(dataset[np.arange(start, start + 100)]) == 100
figures[f"seconds for the first {count:,} rows"] = round(time.perf_counter() - began, 3)
began = time.perf_counter()
batches = iter(data.train_dataloader())
for _ in range(count // 100):
    assert len(next(batches).ids) == 100
figures[f"seconds for {count:,} rows by chance"] = round(time.perf_counter() - began, 3)
figures["peak MB above the imports in the end"] = round(megabytes("VmHWM") - before)
print(json.dumps(figures))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, help="with room for 2 GB; by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        manifest, cache = Path(name) / "manifest.parquet", Path(name) / "cache"
        began = time.perf_counter()
        write(manifest, options.rows)
        size = manifest.stat().st_size
        print(f"wrote {options.rows:,} rows, {size / 1e6:.0f} MB, in {time.perf_counter() - began:.1f} s", flush=True)
        figures: dict[str, object] = {"rows": options.rows, "parquet MB": round(size / 1e6)}
        for run in ("first", "cached"):
            arguments = [str(manifest), str(cache), str(READ)]
            program = [sys.executable, "-c", OPENED, *arguments]
            done = subprocess.run(program, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.PIPE)
            for title, value in json.loads(done.stdout).items():
                figures[f"{run}: {title}"] = value
                print(f"{run + ': ' + title:<44}{value:>10,}", flush=True)
        kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        print(json.dumps({**figures, "cache MB": round(kept / 1e6)}))


def write(path: Path, num_rows: int) -> None:
    labels, splits = np.array([f"class {number}" for number in range(100)]), np.array(["train", "val", "test"])
    random = np.random.default_rng(0)
    with pq.ParquetWriter(path, batch(np.arange(1), labels, splits, random).schema) as writer:
        for start in range(0, num_rows, BATCH):
            ids = np.arange(start, min(start + BATCH, num_rows))
            writer.write_batch(batch(ids, labels, splits, random))


def batch(ids: np.ndarray, labels: np.ndarray, splits: np.ndarray, random: np.random.Generator) -> pa.RecordBatch:
    numbers = random.integers(10**9, size=len(ids))
    columns = {
        "id": ids,
        "image": [
            f"photos/{number % 1000:03}/{number:09}-{row:08}.jpg" for row, number in zip(ids, numbers, strict=True)
        ],
        "text": [f"What is to be seen in picture {number:09}?" for number in numbers],
        "label": labels[numbers % 100],
        "split": splits[np.minimum(numbers % 10 // 7, 2)],
    }
    return pa.record_batch({name: pa.array(column) for name, column in columns.items()})


if __name__ == "__main__":
    main()
