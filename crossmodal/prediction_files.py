"""Predictions on disk: parts, which a killed job leaves, and the one file that they become.

    FOLDER/FILE                                   all predictions; it appears when all are in it
    FOLDER/.FILE.parts/job.json                   until then: what is predicted, from which checkpoint
    FOLDER/.FILE.parts/00000000-00000017.parquet  the rows of the first 17 batches, and so on

Each is written under a temporary name, and renamed: whoever reads sees it whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from crossmodal.whole_files import write_json

SUFFIXES = (".parquet", ".csv")
GROUP_CELLS = 2**20  # of a part, and of a row group: what is held in memory


class PredictionParts:
    """Predictions of the first batches, in files beside the one that they will be.

    Args:
        path: Of the file with all of them, .parquet or .csv.

    Raises:
        ValueError: It ends otherwise, or another process writes it.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"output {path}: give a name that ends in {' or '.join(SUFFIXES)}")
        self.path = path
        self.folder = path.with_name(f".{path.name}.parts")
        self.batches = 0  # that are done
        self.rows = 0  # that are in them: a batch may lack rows that cannot be read
        self._schema: pa.Schema | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")  # its lock ends with the process
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise ValueError(f"another process writes {path}; wait for its end, or give another --output") from None

    @property
    def _job(self) -> Path:
        return self.folder / "job.json"

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("*.parquet"))

    def job(self) -> Any:
        """Return what the parts are of, or None if there are none."""
        return json.loads(self._job.read_text()) if self._job.exists() and self._paths() else None

    def begin(self, job: Any) -> None:
        """Remove all parts; what comes is of this job, which JSON can hold."""
        self._remove_parts()
        write_json(self._job, job)

    def go_on(self) -> None:
        """Count what is done.

        Raises:
            ValueError: A part is damaged.
        """
        for path in self._paths():
            try:
                with pq.ParquetFile(path) as part:
                    self.rows += part.metadata.num_rows
                    self._schema = part.schema_arrow
            except pa.ArrowInvalid as error:
                raise ValueError(f"{path} is damaged ({error}); remove its folder") from error
            self.batches = int(path.stem.partition("-")[2])

    def add(self, tables: Sequence[pa.Table], batches: int) -> None:
        """Keep further rows.

        Args:
            tables: The rows, in order.
            batches: How many are done with these.
        """
        schema = tables[0].schema if self._schema is None else self._schema
        table = pa.concat_tables([table.cast(schema) for table in tables])
        with _whole(self.folder / f"{self.batches:08}-{batches:08}.parquet", self.folder / "part.tmp") as file:
            pq.write_table(table, file)
        self._schema = table.schema
        self.batches = batches
        self.rows += len(table)

    def merge(self) -> None:
        """Put all rows into the one file, and remove the parts.

        Raises:
            ValueError: There are no rows.
        """
        if not self.rows:
            raise ValueError("nothing to write: not one row could be read")
        schema = pq.read_schema(self._paths()[0])
        is_csv = self.path.suffix.lower() == ".csv"
        make_writer, shape = (pa_csv.CSVWriter, _flat) if is_csv else (pq.ParquetWriter, _as_it_is)
        with (
            _whole(self.path, self.folder / "whole.tmp") as file,
            make_writer(file, shape(schema.empty_table()).schema) as writer,
        ):
            for table in self._groups(schema):
                writer.write_table(shape(table))
        self._remove_parts()
        shutil.rmtree(self.folder, ignore_errors=True)  # all is written, and what might be left is of no job
        self._lock.close()

    def _groups(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield all rows in tables whose size depends on nothing else: two runs give the same bytes."""
        size = max(1, GROUP_CELLS // len(schema))
        waiting = schema.empty_table()
        for path in self._paths():
            waiting = pa.concat_tables([waiting, pq.read_table(path).cast(schema)])
            while len(waiting) >= size:
                yield waiting[:size].combine_chunks()
                waiting = waiting[size:]
        yield waiting.combine_chunks()

    def _remove_parts(self) -> None:
        self._job.unlink(missing_ok=True)  # first: without it, what is left belongs to no job
        for path in (*self._paths(), *self.folder.glob("*.tmp")):
            path.unlink()


@contextmanager
def _whole(path: Path, temporary: Path) -> Iterator[BinaryIO]:
    """Open a file that is at its place when all is written."""
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _flat(table: pa.Table) -> pa.Table:
    """Return a table without lists, which CSV has not: their items are joined."""
    for number, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            joined = pc.binary_join(table[number].cast(pa.list_(pa.string())), ";")
            table = table.set_column(number, field.name, joined)
    return table


def _as_it_is(table: pa.Table) -> pa.Table:
    return table
