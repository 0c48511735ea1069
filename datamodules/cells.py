"""The inputs that lie in the cells of a table, or in the files that they name."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.audio_decoding import decode_audio
from datamodules.columns import FILES, Column, Place, as_name, is_empty, parse_number
from datamodules.decoding import (
    as_vectors,
    decode_array,
    decode_image,
    is_url,
    parse_vectors,
    read_file,
    tells_of_absence,
)
from datamodules.faults import Fault, InputError, shown
from datamodules.sources import Source
from datamodules.tables import Table


class Cells(Source):
    """The distinct inputs of a modality, each in a row of a table.

    Args:
        table: With the modality's columns.
        spec: Which these are.
        place: Where relative paths begin.
        rows: The row in which each input stands.
    """

    def __init__(self, table: Table, spec: Column, place: Place, rows: NDArray[np.int64]) -> None:
        self.table = table
        self.spec = spec
        self.place = place
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def load(self, position: int) -> Any:
        """Return a picture, (samples, rate), an array, text, cells by column, or a list of inputs."""
        cell = self.cell(position)
        match self.spec.type:
            case "table":
                return self._table(cell)
            case "sequence":
                return [self._load(str(self.spec.of), item) for item in self._items(cell)]
        return self._load(self.spec.type, cell)

    def content(self, position: int) -> bytes:
        """Return the bytes of the files, or of the cells."""
        cell = self.cell(position)
        match self.spec.type:
            case "table":
                return json.dumps(cell, default=str).encode()
            case "sequence":
                contents = [self._content(str(self.spec.of), item) for item in self._items(cell)]
                return b"".join(len(content).to_bytes(8, "little") + content for content in contents)
        return self._content(self.spec.type, cell)

    def name(self, position: int) -> str:
        """Return the path, or the beginning of the cell."""
        cell = self.cell(position)
        if isinstance(cell, dict) and "bytes" in cell:
            cell = cell.get("path") or "a file in the table"
        return shown(cell)

    def fault(self, position: int, error: Exception) -> Fault:
        """Say what is wrong, and where in the table."""
        kind = error.kind if isinstance(error, InputError) else "not usable"
        row = self.table.row_name(int(self.rows[position]))
        return Fault(kind, str(error), row, ", ".join(self.spec.names), self.name(position))

    def cell(self, position: int) -> Any:
        """Return the cell, or the cells by column."""
        row = int(self.rows[position])
        if self.spec.column is not None:
            return self.table.cell(self.spec.column, row)
        return {column: self.table.cell(column, row) for column in self.spec.names}

    def _items(self, cell: Any) -> list[Any]:
        allowed = self.spec.missing == "allow"
        items = [item for item in items_of(cell, self.spec) if not allowed or self.is_there(item)]
        if not items:
            raise InputError("missing cell", "has no items")
        return items

    def is_there(self, cell: Any) -> bool:
        """Return whether the file that a cell names exists; true of what names none."""
        kind = self.spec.of or self.spec.type
        if not _names_file(kind, cell):
            return True
        try:
            located = self.place.locate(cell)
            if is_url(located):
                return _exists(located)
            Path(located).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, ValueError):  # something is there; reading it will tell what is wrong
            return True
        return True

    def _content(self, kind: str, cell: Any) -> bytes:
        if kind == "text":
            return _text(cell).encode(errors="surrogatepass")
        if isinstance(cell, bytes):
            return cell
        if isinstance(cell, dict) and "bytes" in cell:  # as Hugging Face keeps files
            return self._content(kind, cell["bytes"] or cell.get("path"))
        if _names_file(kind, cell):
            key = f"{self.spec.key}\0".encode() if self.spec.key and kind == "array" else b""
            return key + read_file(self.place.locate(cell))
        return (cell if isinstance(cell, str) else json.dumps(cell, default=str)).encode()

    def _load(self, kind: str, cell: Any) -> Any:
        if kind == "text":
            return _text(cell)
        if kind == "array":
            return self._array(cell)
        if not isinstance(cell, str | bytes | dict):
            raise InputError("wrong type", f"expected a path, found {type(cell).__name__} {shown(cell)}")
        content = self._content(kind, cell)
        return decode_image(content) if kind == "image" else decode_audio(content)

    def _array(self, cell: Any) -> NDArray[np.float32]:
        if not isinstance(cell, str):
            return as_vectors(cell)
        if cell.lstrip().startswith("["):
            return parse_vectors(cell)
        suffix = os.path.splitext(cell)[1].lower()
        return decode_array(read_file(self.place.locate(cell)), suffix, self.spec.key)

    def _table(self, cells: dict[str, Any]) -> dict[str, float | str | None]:
        numeric = {column: _number(column, cells[column]) for column in self.spec.numeric or []}
        return numeric | {
            column: None if is_empty(cells[column]) else as_name(cells[column])
            for column in self.spec.categorical or []
        }


def _names_file(kind: str, cell: Any) -> bool:
    """Return whether a cell is a path; an array may also stand in the cell itself."""
    return isinstance(cell, str) and kind in FILES and not (kind == "array" and cell.lstrip().startswith("["))


def items_of(cell: Any, spec: Column) -> list[Any]:
    """Return the inputs of a row of a sequence, less empty ones."""
    if isinstance(cell, dict) and spec.columns:
        items = list(cell.values())
    elif isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            items = json.loads(cell)
        except ValueError as error:
            raise InputError("wrong type", f"{shown(cell)} is no list: {error}") from None
        except RecursionError:
            raise InputError("wrong type", f"{shown(cell)} is nested too deeply") from None
    elif isinstance(cell, str):
        items = [item.strip() for item in cell.split(spec.separator)] if spec.separator else [cell]
    else:
        items = cell if isinstance(cell, list) else [cell]
    return [item for item in items if not is_empty(item)]


def _text(cell: Any) -> str:
    if isinstance(cell, bytes):
        try:
            return cell.decode()
        except UnicodeDecodeError:
            raise InputError("wrong type", "is not UTF-8") from None
    if isinstance(cell, list | dict):
        raise InputError("wrong type", f"expected text, found {type(cell).__name__} {shown(cell)}")
    return str(cell)


def _number(column: str, cell: Any) -> float | None:
    if is_empty(cell):
        return None
    try:
        number = parse_number(cell)
    except (TypeError, ValueError):
        raise InputError("wrong type", f"{column}: expected a number, found {shown(cell)}") from None
    if math.isinf(number):
        raise InputError("NaN or Inf", f"{column}: is infinite")
    return None if math.isnan(number) else number


def _exists(url: str) -> bool:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        system.info(path)  # its `exists` is false where a server does not answer
    except FileNotFoundError as error:
        return not tells_of_absence(error)
    except ImportError as error:
        raise InputError("unreadable file", str(error)) from None
    except Exception:  # each back end raises its own; reading will tell what is wrong
        return True
    return True
