"""A file of rows as a table that Arrow keeps: in memory where it is small, on the disk where it is not.

Legend: R rows.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from functools import cache as run_once
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.decoding import is_url
from datamodules.faults import Fault
from datamodules.tables.files import BATCH_ROWS, FORMATS, Numbered, Rows, TableFile, Wanted, reading
from datamodules.tables.readers import read_file, read_folder

IN_MEMORY_BYTES = 2**28
READS = 16  # between which mapped pages are let go
VERSION = 1  # of what is written
DATA, NUMBERS, FAULTS = "table.arrow", "numbers.int64", "faults.jsonl"


class MappedFile:
    """The mapped file of a table. Pages that were read are let go again and again, so that few are resident.

    Linux maps up to megabytes where a byte is read, and takes none of them back while there is room.

    Args:
        folder: In which it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with (folder / DATA).open("rb") as file:
            self.pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._reads = 0

    def count_read(self) -> None:
        """Count one more place that will be read."""
        self._reads += 1
        if self._reads % READS == 0:
            self.pages.madvise(mmap.MADV_DONTNEED)  # they stay in the system's cache


class Table:
    """Rows of named columns.

    Args:
        name: The file's name.
        data: The columns, in memory or mapped.
        numbers_R: The line on which each row begins, the first being 1; by default rows are counted from 0.
        file: Where the table is, if it is mapped.
    """

    def __init__(
        self, name: str, data: pa.Table, numbers_R: NDArray[np.int64] | None = None, file: MappedFile | None = None
    ) -> None:
        self.name = name
        self.separator = "#" if numbers_R is None else ":"
        self._file = file
        self._numbers_R = numbers_R
        self._columns: dict[str, pa.ChunkedArray] = dict(zip(data.column_names, data.columns, strict=True))
        self._data = data

    def __len__(self) -> int:
        return int(self._data.num_rows)

    def __reduce__(self) -> tuple[Callable[..., Table], tuple[Any, ...]]:
        """Send a mapped table to another process by its place, not by its bytes."""
        if self._file:
            return mapped, (self._file.folder, self.name)
        return Table, (self.name, self._data, self._numbers_R)

    @property
    def column_names(self) -> list[str]:
        """The columns: in the file's order, or sorted where each line of a file names its own."""
        return list(self._columns)

    @property
    def row_numbers(self) -> NDArray[np.int64]:
        """The number in each row's name."""
        return np.arange(len(self)) if self._numbers_R is None else self._numbers_R

    def row_name(self, row: int) -> str:
        """Return `train.csv:17` for the row that begins on line 17, or `train.parquet#17` for row 17 from 0."""
        return f"{self.name}{self.separator}{row if self._numbers_R is None else self._numbers_R[row]}"

    def type_of(self, column: str) -> pa.DataType:
        """Return the type of a column's cells."""
        return self._columns[column].type

    def chunked(self, column: str) -> pa.ChunkedArray:
        """Return a column without copying it; one chunk, if the table is in memory.

        What is read of a mapped one stays resident for a while: `batches` is for all rows.
        """
        return self._columns[column]

    def cell(self, column: str, row: int) -> Any:
        """Return one cell as Python's own type; None where it is empty."""
        if self._file:
            self._file.count_read()
        return self._columns[column][row].as_py()

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order; of a table on the disk one batch at a time is in memory."""
        if self._file is None:
            yield from self._data.select(list(columns)).to_batches(max_chunksize=BATCH_ROWS)
            return
        places = [self._data.column_names.index(column) for column in columns]
        options = pa.ipc.IpcReadOptions(included_fields=places)
        with pa.OSFile(str(self._file.folder / DATA)) as stream, pa.ipc.open_file(stream, options=options) as opened:
            for number in range(opened.num_record_batches):
                yield opened.get_batch(number).select(list(columns))


def mapped(folder: Path, name: str) -> Table:
    """Open a table that was written into a folder."""
    file = MappedFile(folder)
    data = pa.ipc.open_file(pa.py_buffer(file.pages)).read_all()
    numbers = folder / NUMBERS
    numbers_R = np.memmap(numbers, dtype=np.int64, mode="r") if numbers.stat().st_size else None
    if numbers_R is not None and len(numbers_R) != data.num_rows:
        raise ValueError(f"{folder}: holds {len(numbers_R)} line numbers of {data.num_rows} rows")
    return Table(name, data, numbers_R, file)


def open_table(
    path: Path | str,
    columns: Collection[str] | None = None,
    *,
    optional: Collection[str] = (),
    strings: Collection[str] = (),
    cache: Path | None = None,
) -> tuple[Table, list[Fault]]:
    """Open a file of rows: .csv, .tsv, .jsonl, .ndjson, .parquet, these as text also .gz, .bz2 or .zst; or a folder.

    Args:
        path: On a disk, or a URL that fsspec opens.
        columns: What to read; by default all that have a name.
        optional: Those of them that the file need not have.
        strings: Columns that hold text: in JSON lines, another value there is a fault.
        cache: Folder that keeps tables of more than 256 MB, so that they are read once; by default they are written
            anew into a temporary folder that goes when the process ends.

    Returns:
        The rows that can be read, and what is wrong with those that are left out.

    Raises:
        ValueError: The file cannot be read, has no such column, or no row that can be used.
    """
    wanted = Wanted(None if columns is None else set(columns), optional, strings)
    local = None if is_url(str(path)) else Path(path)
    if local and local.suffix.lower() not in FORMATS and local.is_dir():
        return _read(local.resolve().name, read_folder(local, wanted), None)
    file = TableFile(path)
    state = file.state()
    kept = None
    if cache and state:
        key = json.dumps([VERSION, state, columns and sorted(columns), sorted(optional), sorted(strings)])
        kept = cache / hashlib.sha256(key.encode()).hexdigest()[:32]
        if kept.is_dir() and (found := _reopened(kept, file.name)):
            return found
    opened = _read(file.name, read_file(file, wanted), kept)
    if file.state() != state:
        if kept:
            shutil.rmtree(kept, ignore_errors=True)
        raise ValueError(f"{path}: was changed while it was read; try again")
    return opened


def _read(name: str, rows: Rows, kept: Path | None) -> tuple[Table, list[Fault]]:
    """Read all rows into memory, or into a folder where they are many."""
    waiting: deque[Numbered] = deque()
    num_bytes = 0
    for batch, numbers_R in rows.batches:
        waiting.append((batch, numbers_R))
        num_bytes += batch.nbytes + (0 if numbers_R is None else numbers_R.nbytes)
        if max(num_bytes, rows.num_bytes) > IN_MEMORY_BYTES:
            folder = _write(rows, waiting, kept or Path(_temporary_folder(), uuid4().hex))
            pa.default_memory_pool().release_unused()
            return mapped(folder, name), rows.faults
    if not waiting:
        if rows.faults:
            raise ValueError(f"{name}: no row can be used; the first: {rows.faults[0]}")
        raise ValueError(f"{name}: {rows.empty}")
    numbers = [part for _, part in waiting if part is not None]
    data = pa.Table.from_batches([batch for batch, _ in waiting])
    waiting.clear()
    # a column at a time, so that no second copy of all is in memory
    for place, field in enumerate(data.schema):
        data = data.set_column(place, field, data.column(place).combine_chunks())
        pa.default_memory_pool().release_unused()
    return Table(name, data, np.concatenate(numbers) if numbers else None), rows.faults


def _write(rows: Rows, waiting: deque[Numbered], folder: Path) -> Path:
    """Write what waits and what comes into a folder, which appears when it is complete."""
    with reading(folder.parent, "cannot be written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with reading(folder.parent, "cannot be written"):
            with (
                pa.OSFile(str(unfinished / DATA), "wb") as sink,
                pa.ipc.new_file(sink, rows.schema) as out,
                (unfinished / NUMBERS).open("wb") as numbers,
            ):
                while waiting or (waiting := deque(islice(rows.batches, 1))):
                    batch, part = waiting.popleft()
                    out.write_batch(batch)
                    if part is not None:
                        numbers.write(part.data)
            with (unfinished / FAULTS).open("w", encoding="utf-8") as stream:
                stream.writelines(json.dumps(asdict(fault)) + "\n" for fault in rows.faults)
            try:
                unfinished.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster; its folder holds the same
                    raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _reopened(folder: Path, name: str) -> tuple[Table, list[Fault]] | None:
    """Open what an earlier run wrote; a folder that the disk has damaged is removed."""
    try:
        with (folder / FAULTS).open(encoding="utf-8") as lines:
            return mapped(folder, name), [Fault(**json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


@run_once
def _temporary_folder() -> str:
    """Return a folder that goes with this process, but not with one that it forks."""
    folder = tempfile.mkdtemp(prefix="crossmodal-tables-")
    owner = os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
