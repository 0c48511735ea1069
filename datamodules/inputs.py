"""The distinct inputs of a modality in some rows of a table, and which of them each row has.

Legend: R rows of a split, U distinct inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from datamodules.batch import ABSENT
from datamodules.cells import Cells, items_of
from datamodules.columns import FILES, Column, Place, coded, empty_rows, is_empty
from datamodules.decoding import is_url
from datamodules.faults import Fault
from datamodules.tables import Table

# of longer columns a sample says whether many rows share a cell: looking takes memory by the distinct ones
LOOKED_THROUGH = 2_000_000
SAMPLE = 10_000
MANY_FILES = 1_000_000  # more are not looked for before they are read


@dataclass(frozen=True)
class Inputs:
    """The U distinct inputs of a modality, and which of them each of R rows has.

    Args:
        source: Of the U inputs.
        index_R: -1 where the row has none.
        faults: Of rows that should have one, by their place among the R.
    """

    source: Cells
    index_R: NDArray[np.int64]
    faults: dict[int, Fault]


def inputs_of(table: Table, spec: Column, place: Place, rows: NDArray[np.int64], *, must_exist: bool = False) -> Inputs:
    """Find them.

    Args:
        table: With the modality's columns.
        spec: Which these are.
        place: Where relative paths begin.
        rows: Of the table.
        must_exist: Refuse files of which not one exists, even where they may be absent.

    Raises:
        ValueError: None of the files exists, or some of the columns are not there.
    """
    index_R, rows_U = _distinct(table, spec, rows)
    source = Cells(table, spec, place, rows_U)
    if spec.type == "sequence" and spec.column is not None:
        empty_U = np.fromiter((not _has_items(source, position) for position in range(len(rows_U))), bool, len(rows_U))
        index_R = np.where(np.append(empty_U, False)[index_R], ABSENT, index_R)
    kind = spec.of or spec.type
    allowed = spec.missing == "allow"
    faults: dict[int, Fault] = {}
    if not allowed:
        for row in np.flatnonzero(index_R == ABSENT).tolist():
            faults[row] = Fault(
                "missing cell",
                "is empty (`missing: allow` takes that for absence)",
                table.row_name(int(rows[row])),
                ", ".join(spec.names),
            )
    names_files = kind in FILES and any(_may_be_path(table, column) for column in spec.names)
    if names_files and (allowed or len(rows_U) <= MANY_FILES):
        absent_U = np.fromiter((not _is_there(source, position) for position in range(len(rows_U))), bool, len(rows_U))
        absent_R = np.append(absent_U, False)[index_R]
        if len(absent_U) > 1 and absent_U.all() and (must_exist or not allowed):
            raise ValueError(
                f"{table.name}, column {', '.join(spec.names)!r}: none of its {len(absent_U):,} files exists in "
                f"{place.folder}; the first is {source.name(0)} (set `root` to the folder that paths begin in)"
            )
        if allowed:
            index_R = np.where(absent_R, ABSENT, index_R)
            if absent_U.any():
                print(
                    f"{table.name}, column {', '.join(spec.names)!r}: {int(absent_U.sum()):,} of {len(absent_U):,} "
                    f"files do not exist, and are absent; the first is {source.name(int(absent_U.argmax()))}",
                    flush=True,
                )
        else:
            for row in np.flatnonzero(absent_R).tolist():
                position = int(index_R[row])
                faults[row] = Fault(
                    "missing file",
                    "no such file (`missing: allow` takes that for absence)",
                    table.row_name(int(rows[row])),
                    ", ".join(spec.names),
                    source.name(position),
                )
    return Inputs(source, index_R, faults)


def _has_items(source: Cells, position: int) -> bool:
    try:
        return bool(items_of(source.cell(position), source.spec))
    except ValueError:  # reading it will tell
        return True


def _may_be_path(table: Table, column: str) -> bool:
    """Return whether a column's cells may be text; those that hold whole files need not be looked at."""
    if column not in table.column_names:
        return False
    kind = table.type_of(column)
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_there(source: Cells, position: int) -> bool:
    cell = source.cell(position)
    if source.spec.missing == "error" and isinstance(cell, str) and is_url(cell):
        return True  # asking a server for each file takes too long, where reading it will tell
    if source.spec.type != "sequence":
        return source.is_there(cell)
    try:
        return any(source.is_there(item) for item in items_of(cell, source.spec))
    except ValueError:  # reading it will tell
        return True


def _distinct(table: Table, spec: Column, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which distinct input each row has, and the row in which each of these stands."""
    if missing := sorted(set(spec.names) - set(table.column_names)):
        if len(missing) < len(spec.names):
            raise ValueError(f"{table.name}: there is no column {missing[0]!r}; a modality needs all of {spec.names}")
        return np.full(len(rows), ABSENT), np.empty(0, np.int64)
    if spec.column is not None and spec.type != "sequence" and _is_shared(table, spec.column):
        codes, values = coded(table, spec.column, rows)
        empty = np.fromiter(map(is_empty, values), bool, len(values))
        codes[np.append(empty, False)[codes]] = ABSENT
        used, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        if len(used) and used[0] == ABSENT:
            first, inverse = first[1:], inverse - 1
        return inverse.astype(np.int64, copy=False), rows[first]
    if spec.type == "table" and spec.missing == "error":  # values that are missing have tokens of their own
        return _each(len(rows)), rows
    present_R = ~empty_rows(table, spec.names, rows)
    if present_R.all():
        return _each(len(rows)), rows
    return np.where(present_R, np.cumsum(present_R) - 1, ABSENT), rows[present_R]


@lru_cache(maxsize=1)
def _each(num_rows: int) -> NDArray[np.int64]:
    """Return 0, 1, …: one vector for all modalities that every row has, 56 MB of seven million."""
    index_R = np.arange(num_rows)
    index_R.flags.writeable = False
    return index_R


def _is_shared(table: Table, column: str) -> bool:
    """Return whether it is worth looking for cells that several rows have."""
    kind = table.type_of(column)
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return False
    if len(table) <= LOOKED_THROUGH:
        return True
    near, far = range(SAMPLE), range(0, len(table), len(table) // SAMPLE)
    return min(len({table.cell(column, row) for row in rows}) for rows in (near, far)) < SAMPLE // 2
