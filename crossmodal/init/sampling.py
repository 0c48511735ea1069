"""A sample of somebody's data: its files of rows, some of their rows, and the files that these name.

Imports nothing heavy.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crossmodal.errors import UsageError
from datamodules.faults import Fault
from datamodules.tables import Table, open_table

ROWS = re.compile(r"(.+?)(\.parquet|\.(csv|tsv|jsonl|ndjson)(\.(gz|bz2|zst))?)", re.IGNORECASE)
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "predict": "predict",
}
FIRST_ROWS = 2000
SPREAD_ROWS = 2000
WHOLE_BYTES = 2**22  # of a larger file parts are read
PARTS = 8
ROOTS_TO_TRY = 50


@dataclass(frozen=True)
class Source:
    """The files of rows.

    Args:
        train: A file, or a folder of class folders.
        others: Files by split: val, test, predict.
    """

    train: Path
    others: Mapping[str, Path]


def find_source(path: Path) -> Source:
    """Find the files of rows at a path.

    Raises:
        UsageError: There are none, or it cannot be told which.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    if path.is_file():
        if not ROWS.fullmatch(path.name):
            raise UsageError(f"{path}: no file of rows; its name would end in .csv, .tsv, .jsonl, .ndjson or .parquet")
        return Source(path, {})
    if any((path / name).exists() for name in ("dataset_dict.json", "state.json")):
        raise UsageError(f"{path}: is a Hugging Face data set, which `init` does not read; docs/data.md shows its YAML")
    files = [entry for entry in sorted(path.iterdir()) if entry.is_file() and ROWS.fullmatch(entry.name)]
    by_split: dict[str, Path] = {}
    for file in files:
        match = ROWS.fullmatch(file.name)
        split = SPLITS.get(match[1].lower()) if match else None
        if split in by_split:
            raise UsageError(f"{path}: both {by_split[split].name} and {file.name} may be the {split} split; name one")
        if split:
            by_split[split] = file
    if "train" in by_split:
        return Source(by_split.pop("train"), by_split)
    if len(files) == 1:
        return Source(files[0], {})
    if files:
        listed = ", ".join(file.name for file in files[:10])
        raise UsageError(f"{path}: which file has the rows to train on? Name one of {listed}; or call it train")
    if not any(entry.is_dir() and entry.name[0] != "." for entry in path.iterdir()):
        raise UsageError(f"{path}: has neither a file of rows (.csv, .tsv, .jsonl, .parquet) nor class folders")
    return Source(path, {})


@dataclass(frozen=True)
class Sample:
    """Some rows of a table.

    Args:
        cells: By column, None where a cell is empty.
        num_rows: Of the whole table, about.
        is_all: They are all of them.
        faults: Of rows that cannot be read.
        names: Of the rows; empty where their places in the file are not known.
    """

    cells: Mapping[str, Sequence[Any]]
    num_rows: int
    is_all: bool
    faults: Sequence[Fault] = ()
    names: Sequence[str] = ()

    def __len__(self) -> int:
        return max(map(len, self.cells.values()), default=0)


def sample_rows(path: Path) -> Sample:
    """Read the first rows, and some from everywhere: a table may be sorted.

    Raises:
        ValueError: It cannot be read.
    """
    table: Table | None = None
    num_rows, faults = 0, list[Fault]()
    if path.is_file() and path.stat().st_size > WHOLE_BYTES:
        match path.suffix.lower():
            case ".parquet":
                table, num_rows = _parts_of_parquet(path)
            case ".csv" | ".tsv" | ".jsonl" | ".ndjson":
                table, num_rows, faults = _parts_of_text(path)
    is_of_parts = table is not None
    if table is None:
        table, faults = open_table(path)
        num_rows = len(table) + len(faults)
    rows = range(len(table))
    chosen = [*rows[:FIRST_ROWS], *rows[FIRST_ROWS :: max(1, (len(rows) - FIRST_ROWS) // SPREAD_ROWS)]]
    cells = {column: [table.cell(column, row) for row in chosen] for column in table.column_names}
    names = [] if is_of_parts else list(map(table.row_name, chosen))
    return Sample(cells, num_rows, len(chosen) + len(faults) == num_rows, faults, names)


def _parts_of_text(path: Path) -> tuple[Table | None, int, list[Fault]]:
    """Read the beginning of a file of lines, and lines from everywhere in it.

    None where a cell has lines of its own, and the file has to be read as a whole.
    """
    size, length = path.stat().st_size, WHOLE_BYTES // PARTS
    with tempfile.TemporaryDirectory() as folder, path.open("rb") as lines:
        parts = Path(folder, path.name)
        with parts.open("wb") as copy:
            for part in range(PARTS):
                lines.seek(part * (size - length) // (PARTS - 1) if part else 0)
                content = lines.read(length)
                first = content.find(b"\n") + 1 if part else 0
                copy.write(content[first : content.rfind(b"\n") + 1])
        try:
            table, faults = open_table(parts)
        except ValueError:
            return None, 0, []
        read = len(table) + len(faults)
        num_rows = read * size // parts.stat().st_size
    if len(faults) > PARTS:
        return None, 0, []
    is_json = path.suffix.lower() in (".jsonl", ".ndjson")  # else it may be the rest of a cell of several lines
    return table, num_rows, [replace(fault, row=path.name) for fault in faults] if is_json else []


def _parts_of_parquet(path: Path) -> tuple[Table, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # of a column a little is read at a time, even where the whole file is one row group
        with pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as file:
            num_rows, groups = file.metadata.num_rows, file.metadata.num_row_groups
            some = sorted({part * (groups - 1) // (PARTS - 1) for part in range(PARTS)})
            rows = max(1, min(FIRST_ROWS, 4 * WHOLE_BYTES * num_rows // path.stat().st_size) // len(some))
            batches = [next(file.iter_batches(batch_size=rows, row_groups=[group])) for group in some]
    except (OSError, StopIteration, pa.ArrowException) as error:
        raise ValueError(f"{path}: is no Parquet file that can be read: {error}") from error
    return Table(path.name, pa.Table.from_batches(batches)), num_rows


class LocalFiles:
    """The files that cells name.

    Args:
        root: Folder that paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def exist(self, path: str) -> bool:
        """Whether there is one; an address counts as one, since nothing is fetched."""
        if "://" in path:
            return True
        try:
            return (self.root / path).is_file()
        except (OSError, ValueError):  # a name that is too long, or has a null character
            return False

    def array(self, path: str) -> tuple[tuple[int, ...], str | None]:
        """Return the shape of an array in a file, and its key where there are several.

        Raises:
            ValueError: There is none that can be read.
        """
        import numpy as np

        file = self.root / path
        try:
            if file.suffix.lower() == ".npy":
                return np.load(file, mmap_mode="r", allow_pickle=False).shape, None
            if file.suffix.lower() == ".npz":
                with np.load(file, allow_pickle=False) as arrays:
                    return _choose({key: arrays[key].shape for key in arrays.files})
            return _choose(_tensors(file))
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error

    def sound(self, path: str) -> tuple[int, float]:
        """Return the rate in Hz and the length in seconds of a file of sound.

        Raises:
            ValueError: It cannot be read.
        """
        import soundfile

        try:
            header = soundfile.info(self.root / path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from error
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} cannot be read: {error.error_string}") from error
        return int(header.samplerate), float(header.duration)


def _tensors(path: Path) -> dict[str, tuple[int, ...]]:
    import pickle

    import torch  # takes seconds; nothing else reads its files

    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ValueError(str(error)) from error
    named = value if isinstance(value, dict) else {"": value}
    return {str(key): tuple(one.shape) for key, one in named.items() if isinstance(one, torch.Tensor)}


def _choose(shapes: dict[str, tuple[int, ...]]) -> tuple[tuple[int, ...], str | None]:
    fitting = [key for key, shape in shapes.items() if len(shape) in (1, 2)]
    if not fitting:
        raise ValueError(f"no array of one or two axes: {shapes}")
    return shapes[fitting[0]], fitting[0] if shapes.keys() - {fitting[0]} else None


def find_root(folder: Path, paths: Sequence[str]) -> Path:
    """Return the folder that most paths are relative to: the manifest's own, one in it, the current one, or above."""
    below = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and entry.name[0] != "."]
    candidates = [folder, *below[:ROOTS_TO_TRY], Path.cwd(), folder.absolute().parent]
    return max(candidates, key=lambda root: sum(map(LocalFiles(root).exist, paths)))  # of equal ones the first


def paths_in(cells: Mapping[str, Sequence[Any]], suffixes: tuple[str, ...], *, limit: int = 200) -> list[str]:
    """Return some of the cells that may name files."""
    found = (cell for column in cells.values() for cell in _spread(column, limit) if isinstance(cell, str))
    return [cell for cell in found if cell.strip().lower().endswith(suffixes)]


def _spread(cells: Sequence[Any], limit: int) -> Iterator[Any]:
    return iter(cells[:: max(1, len(cells) // limit)])
