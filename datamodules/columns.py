"""Which columns of a table make a modality, and how their cells are read.

Legend: R rows of a split.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from datamodules.decoding import is_url
from datamodules.faults import InputError
from datamodules.tables import Table

Kind = Literal["image", "text", "audio", "array", "table", "sequence"]
FILES = ("image", "audio", "array")
WHOLE = re.compile(r"-?[0-9]+\.0+")  # a whole number, as a data frame writes it


@dataclass
class Column:
    """Which columns make a modality.

    Args:
        type: What a cell holds: the path of a picture, of a sound or of an array (.npy, .npz, .pt; or a list of
            numbers), or text; `table` takes several columns of numbers and categories, `sequence` several inputs a row.
        column: Its name.
        columns: Of a sequence: one for each input, where they are not all in one cell.
        numeric: Of a table: columns of numbers.
        categorical: Of a table: columns of categories.
        of: Of a sequence: the type of its inputs.
        separator: Of a sequence: what stands between the inputs in a cell of text.
        key: Of an array in an .npz file, or in a dictionary in a .pt file.
        missing: `allow` takes an empty cell or an absent file for absence; else it is a fault of the row (but in a
            table, where a value may be missing).
    """

    type: Kind
    column: str | None = None
    columns: list[str] | None = None
    numeric: list[str] | None = None
    categorical: list[str] | None = None
    of: Literal["image", "text", "audio", "array"] | None = None
    separator: str | None = None
    key: str | None = None
    missing: Literal["error", "allow"] = "error"

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ValueError: The message names the keys.
        """
        match self.type:
            case "table":
                wanted = {"numeric", "categorical"}
                complete = bool(self.numeric or self.categorical)
                hint = "a table needs `numeric` or `categorical`, lists of columns"
            case "sequence":
                wanted = {"column", "columns", "of", "separator", "key"}
                complete = (self.column is None) != (not self.columns) and self.of is not None
                hint = "a sequence needs `of`, and either `column` or `columns`"
            case _:
                wanted = {"column", "key"} if self.type == "array" else {"column"}
                complete = self.column is not None
                hint = f"{self.type} needs `column`"
        given = {
            key
            for key in ("column", "columns", "numeric", "categorical", "of", "separator", "key")
            if getattr(self, key)
        }
        if extra := given - wanted:
            raise ValueError(f"`{min(extra)}` is not for type {self.type}; {hint}")
        if not complete:
            raise ValueError(hint)

    @property
    def names(self) -> list[str]:
        """All columns that it takes."""
        if self.type == "table":
            return [*(self.numeric or []), *(self.categorical or [])]
        return self.columns or [str(self.column)]


@dataclass(frozen=True)
class Place:
    """Where relative paths begin.

    Args:
        folder: Or a URL.
        is_fenced: Paths may not lead out of it.
    """

    folder: str
    is_fenced: bool = False

    def locate(self, path: str) -> str:
        """Return a path or URL.

        Raises:
            InputError: It leads out.
        """
        if is_url(path):
            located = path
        elif is_url(self.folder):
            located = f"{self.folder.rstrip('/')}/{path.lstrip('/')}"
        else:
            located = os.path.join(self.folder, path)
        if self.is_fenced and not self._is_inside(located):
            raise InputError("outside root", f"leads out of {self.folder}")
        return located

    def _is_inside(self, located: str) -> bool:
        located, folder = (path.removeprefix("file://") for path in (located, self.folder))
        if is_url(folder):
            return located.startswith(f"{self.folder.rstrip('/')}/") and ".." not in unquote(located).split("/")
        try:
            return not is_url(located) and Path(located).resolve().is_relative_to(Path(folder).resolve())
        except (OSError, RuntimeError, ValueError):  # a loop of links, or a null character: reading it will tell
            return True


def is_empty(cell: Any) -> bool:
    """Return whether a cell holds nothing: null, only spaces, NaN, or a list of nulls and spaces."""
    match cell:
        case None:
            return True
        case str():
            return not cell.strip()
        case float():
            return math.isnan(cell)
        case list():
            return all(item is None or (isinstance(item, str) and not item.strip()) for item in cell)
        case {"bytes": content, "path": path}:
            return content is None and path is None
    return False


def as_name(cell: Any) -> str:
    """Return a class or category as text: 1 and 1.0 are the same, as a column with an empty cell makes 1.0 of 1."""
    if isinstance(cell, bytes):
        cell = cell.decode(errors="backslashreplace")
    if isinstance(cell, str):
        text = cell.strip()
        return text.split(".")[0] if WHOLE.fullmatch(text) else text
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def parse_number(cell: Any) -> float:
    """Return a number; what only Python takes for one (1_000, or digits of other scripts) is none.

    Raises:
        TypeError: The cell is neither text nor a number.
        ValueError: It is no number.
    """
    if isinstance(cell, str) and ("_" in cell or not cell.isascii()):
        raise ValueError(cell)
    return float(cell)


def empty_rows(table: Table, columns: Sequence[str], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of these rows have nothing in any of the columns."""
    parts = [
        np.logical_and.reduce([_empty(batch.column(column)) for column in columns]) for batch in table.batches(columns)
    ]
    empty_R: NDArray[np.bool_] = np.concatenate(parts)[rows]
    return empty_R


def _empty(cells: pa.Array) -> NDArray[np.bool_]:
    kind = cells.type
    if pa.types.is_dictionary(kind):
        cells, kind = cells.dictionary_decode(), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        empty = pc.fill_null(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(cells)), 0), True)
    elif pa.types.is_floating(kind):
        empty = pc.is_null(cells, nan_is_null=True)
    elif pa.types.is_struct(kind):  # such as a file: its bytes and its path
        fields: NDArray[np.bool_] = np.logical_and.reduce([_empty(field) for field in cells.flatten()])
        return fields
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        empty = pc.equal(pc.fill_null(pc.list_value_length(cells), 0), 0)
    else:
        empty = pc.is_null(cells)
    flags: NDArray[np.bool_] = empty.to_numpy(zero_copy_only=False).astype(bool)
    return flags


def coded(
    table: Table, column: str, rows: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.integer[Any]], list[Any]]:
    """Return each row's cell as a number, -1 where it is null or NaN, and the cells that the numbers stand for.

    Args:
        table: With the column.
        column: Whose cells are few, or not very many.
        rows: Of the table; by default all.
    """
    nested = pa.types.is_nested(table.type_of(column))
    known: dict[Any, int] = {}
    codes_R = np.empty(len(table), np.int32)
    end = 0
    for batch in table.batches([column]):
        cells = batch.column(0)
        if nested:
            found, places_R = [_hashable(cell) for cell in cells.to_pylist()], np.arange(len(cells))
        else:
            encoded = cells if pa.types.is_dictionary(cells.type) else cells.dictionary_encode()
            found, places_R = encoded.dictionary.to_pylist(), encoded.indices.fill_null(-1).to_numpy()
        numbers = [-1 if cell is None or cell != cell else known.setdefault(cell, len(known)) for cell in found]
        begin, end = end, end + len(cells)
        codes_R[begin:end] = np.array([*numbers, -1], np.int32)[places_R]
    return codes_R if rows is None else codes_R[rows], list(known)


def _hashable(cell: Any) -> Any:
    return tuple(map(_hashable, cell)) if isinstance(cell, list) else str(cell) if isinstance(cell, dict) else cell
