"""From lines of text to Arrow record batches: CSV, TSV and JSON lines."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.faults import Fault, shown
from datamodules.tables.files import (
    BATCH_BYTES,
    BATCH_ROWS,
    MAX_CHARACTERS,
    Lines,
    Numbered,
    Rows,
    TableFile,
    Wanted,
    choose,
)

TOO_DEEP = "lists and objects are nested too deeply"


def read_delimited(file: TableFile, wanted: Wanted) -> Rows:
    """Read CSV or TSV: every cell is text, an empty one is null.

    The cells of a .csv stand between commas, semicolons or tabs: the first of these under which the header has all
    wanted columns, or else the most.
    """
    delimiters = "\t" if file.format == ".tsv" else ",;\t"
    headers = {delimiter: _header(file, delimiter) for delimiter in delimiters}
    required = set(wanted.columns or ()) - set(wanted.optional)
    complete = [delimiter for delimiter in headers if required and required <= set(headers[delimiter])]
    delimiter = complete[0] if complete else max(headers, key=lambda delimiter: len(headers[delimiter]))
    header = headers[delimiter]
    if not header:
        for _ in _records(Lines(file, newline=""), delimiter):
            break
        raise ValueError(f"{file.name}: is empty")
    chosen = choose(file.name, header, wanted)
    places = [header.index(column) for column in chosen]
    lines = Lines(file, newline="")
    faults: list[Fault] = []

    def cells() -> Iterator[tuple[int, list[str | None]]]:
        records = _records(lines, delimiter)
        next(records)
        for number, record in records:
            if len(record) == len(header):
                yield number, [record[place] or None for place in places]
            elif len(record) > 1 or record[0].strip():
                counted = f"{len(record)} {'field' if len(record) == 1 else 'fields'}"
                cause = f"{counted}, the header has {len(header)}"
                value = shown(delimiter.join(record))
                faults.append(Fault("ragged line", cause, row=f"{file.name}:{number}", value=value))

    schema = pa.schema([(column, pa.string()) for column in chosen])
    return Rows(schema, _batched(cells(), lines, schema), "has a header but no rows", faults, file.size)


def _header(file: TableFile, delimiter: str) -> list[str]:
    try:
        return next(_records(Lines(file, newline=""), delimiter), (0, []))[1]
    except ValueError:  # it may be none under another delimiter
        return []


def _records(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield records that are not blank with the lines on which they begin."""
    # a setting of the whole process: never lower it
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CHARACTERS))
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for record in reader:
            if record:
                yield begins, record
            begins = reader.line_num + 1
    except csv.Error as error:
        place = f"{lines.file.name}:{begins}"
        if "unexpected end" in str(error):
            raise ValueError(f"{place}: a quote opens in this row and is never closed") from error
        if "field limit" in str(error):
            raise ValueError(
                f"{place}: a cell of over {MAX_CHARACTERS:,} characters; is a quote not closed?"
            ) from error
        raise ValueError(f'{place}: {error}; a quote inside a quoted cell is written ""') from error


def _batched(cells: Iterable[tuple[int, Sequence[str | None]]], lines: Lines, schema: pa.Schema) -> Iterator[Numbered]:
    """Gather rows of text into batches."""
    numbers: list[int] = []
    columns: list[list[str | None]] = [[] for _ in schema]
    began = 0
    for number, row in cells:
        numbers.append(number)
        # rows that are kept as objects would be searched for cycles again and again, which takes as long as all else
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)
        if len(numbers) == BATCH_ROWS or lines.characters - began > BATCH_BYTES:
            yield text_batch(columns, schema), np.array(numbers, np.int64)
            numbers, columns, began = [], [[] for _ in schema], lines.characters
    if numbers:
        yield text_batch(columns, schema), np.array(numbers, np.int64)


def text_batch(columns: Iterable[Sequence[str | None]], schema: pa.Schema) -> pa.RecordBatch:
    """Return columns of text as a batch."""
    return pa.record_batch([pa.array(column, pa.string()) for column in columns], schema=schema)


def read_json_lines(file: TableFile, wanted: Wanted) -> Rows:
    """Read one JSON object a line. Text stays text; other values become their JSON text; null, absent and "" are null.

    Args:
        file: Of text.
        wanted: Columns; by default the keys of all lines, for which the file is read twice.
    """
    if wanted.columns is None:
        found: dict[str, None] = {}
        for _, record in _objects(Lines(file, newline="\n"), []):
            found.update(dict.fromkeys(record))
        chosen = [column for column in found if column]
    else:
        chosen = sorted(set(wanted.columns))
    lines = Lines(file, newline="\n")
    faults: list[Fault] = []

    def cells() -> Iterator[tuple[int, list[str | None]]]:
        known: dict[str, None] = {}
        seen = False
        for number, record in _objects(lines, faults):
            seen = True
            if not known.keys() >= record.keys():
                known.update(dict.fromkeys(record))
            row = f"{file.name}:{number}"
            try:
                texts = [_as_text(record.get(column)) for column in chosen]
            except RecursionError:  # writing goes a little less deep than reading
                faults.append(Fault("no JSON", TOO_DEEP, row=row))
                continue
            wrong = {column: record[column] for column in wanted.strings if not _is_text(record.get(column))}
            for column, value in wrong.items():
                cause = f"expected text, found {_kind(value)}"
                faults.append(Fault("wrong type", cause, row=row, column=column, value=shown(_as_text(value))))
            if not wrong:
                yield number, texts
        if seen:
            choose(file.name, list(known), replace(wanted, columns=chosen))

    schema = pa.schema([(column, pa.string()) for column in chosen])
    return Rows(schema, _batched(cells(), lines, schema), "is empty", faults, file.size)


def _objects(lines: Lines, faults: list[Fault]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of lines that are not blank; add a fault for what is none."""
    decode = json.JSONDecoder(object_pairs_hook=_without_repeats).decode
    for line in lines:
        try:
            record = decode(line)
            if not isinstance(record, dict):
                raise ValueError(f"expected an object, found {_kind(record)}")
            if "\\u" in line:  # may be half of a pair of surrogates, which is no text
                json.dumps(record, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            if line.isspace():
                continue
            match error:
                case json.JSONDecodeError():
                    cause = f"no JSON object: {error.msg} at character {error.pos + 1}"
                case UnicodeEncodeError():
                    cause = "half of a pair of surrogates is no text"
                case RecursionError():
                    cause = TOO_DEEP
                case _:
                    cause = str(error)
            row = f"{lines.file.name}:{lines.number}"
            faults.append(Fault("no JSON", cause, row=row, value=shown(line.strip())))
        else:
            yield lines.number, record


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(ascii(key))} stands twice in one object")
    return record


def _is_text(value: object) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, str)


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    return json.dumps(value, ensure_ascii=False)


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
    return "an object"
