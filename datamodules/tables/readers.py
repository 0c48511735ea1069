"""From files of rows to Arrow record batches, by the ending of their names; and from folders of class folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datamodules.faults import Fault
from datamodules.tables.files import BATCH_BYTES, BATCH_ROWS, Numbered, Rows, TableFile, Wanted, choose, reading
from datamodules.tables.text import read_delimited, read_json_lines, text_batch

SPLIT_OF_FOLDER = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def read_file(file: TableFile, wanted: Wanted) -> Rows:
    """Read a file by the ending of its name.

    Args:
        file: Of rows.
        wanted: Columns.

    Raises:
        ValueError: The file has not these columns, or is damaged; some of that is found when batches are read.
    """
    match file.format:
        case ".csv" | ".tsv":
            return read_delimited(file, wanted)
        case ".parquet":
            return read_parquet(file, wanted)
    return read_json_lines(file, wanted)


def read_parquet(file: TableFile, wanted: Wanted) -> Rows:
    """Read Parquet: columns keep their types, but that dictionaries and views become what they stand for."""
    with reading(file.name, "is no Parquet file that can be read"):
        # of a column a little is read at a time, even where the whole file is one row group
        source = file.open()
        opened = pq.ParquetFile(source, buffer_size=2**20, pre_buffer=False)
        chosen = choose(file.name, opened.schema_arrow.names, wanted)
        fields = [opened.schema_arrow.field(column) for column in chosen]
        schema = pa.schema([(column.name, _plain(column.type)) for column in fields])
        metadata = opened.metadata
        tops = [metadata.schema.column(place).path.partition(".")[0] for place in range(metadata.num_columns)]
        places = [place for place, top in enumerate(tops) if top in chosen]
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        num_bytes = sum(group.column(place).total_uncompressed_size for group in groups for place in places)
    rows = min(max(BATCH_BYTES * metadata.num_rows // max(num_bytes, 1), 1), BATCH_ROWS)

    def batches() -> Iterator[Numbered]:
        with source, opened, reading(file.name, "is no Parquet file that can be read"):
            for batch in opened.iter_batches(batch_size=rows, columns=chosen):
                kinds = zip((batch.column(name) for name in chosen), schema.types, strict=True)
                plain = [column if column.type == kind else column.cast(kind) for column, kind in kinds]
                part = pa.record_batch(plain, schema=schema)
                part.validate(full=True)
                if len(part):
                    yield part, None

    return Rows(schema, batches(), "has no rows", [], num_bytes)


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionaries, which differ from batch to batch, and without views; times become text."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_temporal(kind):  # a year may be beyond those of Python
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(member.name, _plain(member.type)) for member in kind])
    return kind


def read_folder(folder: Path, wanted: Wanted) -> Rows:
    """List the files of a folder in sorted order.

    Columns: `file`, relative to the folder; `label`, the name of the class folder, null where there is none; `split`
    (train, val or test), if all top folders are named after splits; class folders then lie in these. What is in
    folders below a class folder belongs to it. Hidden files are left out.
    """
    with reading(folder):
        top = [name for name in os.listdir(folder) if name[0] != "." and os.path.isdir(os.path.join(folder, name))]
    has_splits = bool(top) and all(name.lower() in SPLIT_OF_FOLDER for name in top)
    known = ["file", "label", *["split"] * has_splits]
    chosen = choose(str(folder), known, wanted)
    schema = pa.schema([(column, pa.string()) for column in chosen])
    faults: list[Fault] = []

    def batches() -> Iterator[Numbered]:
        rows: list[list[str | None]] = []
        for file in _files_below(folder, faults):
            parts = file.split("/")
            split = SPLIT_OF_FOLDER[parts.pop(0).lower()] if has_splits and parts[1:] else None
            row = {"file": file, "label": parts[0] if parts[1:] else None, "split": split}
            rows.append([row[column] for column in chosen])
            if len(rows) == BATCH_ROWS:
                yield text_batch(zip(*rows, strict=True), schema), None
                rows = []
        if rows:
            yield text_batch(zip(*rows, strict=True), schema), None

    return Rows(schema, batches(), "has no files", faults)


def _files_below(folder: Path, faults: list[Fault]) -> Iterator[str]:
    """Yield paths relative to a folder; a link that leads back into a folder that it is in is left out."""
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        path, above = waiting.pop()
        place = os.path.join(folder, path)
        row = f"{folder.name}/{path}"
        try:
            path.encode()
            status = os.stat(place)
        except UnicodeEncodeError:
            faults.append(Fault("file name", "its name is not UTF-8; rename it", row=ascii(row)))
            continue
        except OSError as error:  # a link to nothing, or to itself
            faults.append(Fault("missing file", str(error.strerror), row=row))
            continue
        if stat.S_ISREG(status.st_mode):
            yield path
        identity = (status.st_dev, status.st_ino)
        if stat.S_ISDIR(status.st_mode) and identity not in above:
            with reading(place):
                names = sorted((name for name in os.listdir(place) if not name.startswith(".")), reverse=True)
            above |= {identity}
            waiting += [(f"{path}/{name}" if path else name, above) for name in names]
