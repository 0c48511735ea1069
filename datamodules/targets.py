"""Which columns of a table make a target, and how their cells are read.

Legend: R rows of a split, C outputs.
"""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from datamodules.columns import as_name, coded, is_empty, parse_number
from datamodules.faults import Fault, shown
from datamodules.tables import Table


@dataclass
class Target:
    """Which columns make a target.

    Args:
        type: `class` is one of several, `labels` any number of them, `number` one or more quantities.
        column: Its name.
        columns: Of numbers: one for each quantity; of labels: one for each label, with 0 or 1.
        classes: The classes or labels; by default those of the training split, sorted.
        separator: Of labels: what stands between them in a cell of text.
        weights: Of the classes or labels in the loss: `balanced` gives those that are rare as much as the others
            have together, or a number for each by name.
        minimum: Of numbers: less is a fault.
        maximum: Of numbers: more is a fault.
    """

    type: Literal["class", "labels", "number"]
    column: str | None = None
    columns: list[str] | None = None
    classes: list[str | int | float | bool] | None = None
    separator: str = ";"
    weights: Literal["balanced"] | dict[str, float] | None = None
    minimum: float | None = None
    maximum: float | None = None

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ValueError: The message names the keys.
        """
        if (self.column is None) == (not self.columns):
            raise ValueError("a target needs `column`, or `columns`")
        if self.columns and self.classes and len(self.columns) != len(self.classes):
            raise ValueError("`classes` names the labels of `columns`, one each")
        if self.type == "class" and self.columns:
            raise ValueError("a class needs one `column`")
        if self.type == "number" and (self.classes or self.weights):
            raise ValueError("`classes` and `weights` are not for numbers")
        if self.type != "number" and not (self.minimum is None and self.maximum is None):
            raise ValueError("`minimum` and `maximum` are for numbers")
        if any(isinstance(name, bool) for name in self.classes or []):
            raise ValueError("`classes`: YAML reads yes, no, on and off as true and false; put quotes round them")
        if self.classes is not None and len(set(self.given)) != len(self.classes):
            raise ValueError("`classes` names one twice")

    @property
    def names(self) -> list[str]:
        """All columns that it takes."""
        return self.columns or [str(self.column)]

    @property
    def given(self) -> list[str]:
        """The classes as text: YAML reads 1 as a number."""
        return [as_name(name) for name in self.classes or []]


@dataclass(frozen=True)
class Targets:
    """The targets of R rows.

    Args:
        values: int64 class numbers (R,), uint8 0 or 1 for each label (R, C), or float32 quantities (R, C).
        faults: By row; its value means nothing.
    """

    values: Tensor
    faults: dict[int, Fault]


def outputs_of(table: Table, target: Target, rows: NDArray[np.int64]) -> list[str]:
    """Return the names of a target's outputs: those given, or those that these rows have."""
    if target.classes is not None:
        return target.given
    if target.type == "number" or target.columns:
        return target.names
    codes_R, cells = coded(table, str(target.column), rows)
    used = set(np.unique(codes_R).tolist())
    found = {name for code, cell in enumerate(cells) if code in used for name in _names(cell, target)}
    if not found:
        raise ValueError(f"{table.name}, column {target.column!r}: has no class in the training split")
    if target.type == "class" and len(found) == 1:
        raise ValueError(
            f"{table.name}, column {target.column!r}: has the one class {min(found)!r}; nothing is to learn"
        )
    return sorted(found, key=_in_order)


def targets_of(table: Table, target: Target, rows: NDArray[np.int64], outputs: list[str]) -> Targets:
    """Read the targets of some rows.

    Args:
        table: With the target's columns.
        target: Which these are.
        rows: Of the table.
        outputs: As `outputs_of` gives them.
    """
    faults: dict[int, Fault] = {}
    columns = []
    for name in target.names:
        values_R, column_faults = (
            _numbers(table, name, target, rows)
            if target.type == "number"
            else _labels(table, name, target, rows, outputs)
        )
        columns.append(values_R)
        for place, (kind, cause, value) in column_faults.items():
            faults.setdefault(place, Fault(kind, cause, table.row_name(int(rows[place])), name, value))
    values = np.stack(columns, axis=1) if target.columns or target.type == "number" else columns[0]
    return Targets(torch.from_numpy(values), faults)


Told = tuple[str, str, str]  # kind, cause and value of a fault


def _labels(
    table: Table, column: str, target: Target, rows: NDArray[np.int64], outputs: list[str]
) -> tuple[NDArray[Any], dict[int, Told]]:
    """Read classes, labels, or whether one label is on; each distinct cell is looked at once."""
    codes_R, cells = coded(table, column, rows)
    cells.append(None)  # which the code -1 finds
    number = {name: place for place, name in enumerate(outputs)}
    read = [_flag(cell) if target.columns else _read_names(cell, target, number) for cell in cells]
    wrong = np.array([isinstance(value, tuple) for value in read])
    faults = {place: read[codes_R[place]] for place in np.flatnonzero(wrong[codes_R]).tolist()}
    blank = 0 if target.type == "class" else np.zeros(() if target.columns else len(outputs), np.uint8)
    values = np.array([blank if isinstance(value, tuple) else value for value in read])
    return values[codes_R], faults


def _read_names(cell: Any, target: Target, number: dict[str, int]) -> Any:
    names = _names(cell, target)
    if target.type == "class" and not names:
        return ("missing target", "has no class", "")
    for name in names:
        if name not in number:
            known = ", ".join(list(number)[:10]) + (", …" if len(number) > 10 else "")
            return ("unknown class", f"is none of the classes {known}", shown(name))
    if target.type == "class":
        return number[names[0]]
    flags = np.zeros(len(number), np.uint8)
    flags[[number[name] for name in names]] = 1
    return flags


def _flag(cell: Any) -> Any:
    text = "0" if is_empty(cell) else as_name(cell).lower()
    flags = {"0": 0, "1": 1, "false": 0, "true": 1}
    return np.uint8(flags[text]) if text in flags else ("wrong type", "expected 0 or 1", shown(cell))


def _numbers(
    table: Table, column: str, target: Target, rows: NDArray[np.int64]
) -> tuple[NDArray[Any], dict[int, Told]]:
    cells = table.chunked(column)
    try:
        numbers_R = cells.cast(pa.float64()).to_numpy()[rows]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # there is text in it
        numbers_R = np.array([_parsed(cell) for cell in cells.to_pylist()])[rows]
    faults: dict[int, Told] = {}
    with np.errstate(over="ignore"):
        values_R = numbers_R.astype(np.float32)
    low, high = (
        given if given is not None else bound
        for given, bound in ((target.minimum, -math.inf), (target.maximum, math.inf))
    )
    with np.errstate(invalid="ignore"):
        usable_R = np.isfinite(values_R) & (numbers_R >= low) & (numbers_R <= high)
    for place in np.flatnonzero(~usable_R).tolist():
        cell, number = table.cell(column, int(rows[place])), numbers_R[place]
        if is_empty(cell):
            faults[place] = ("missing target", "has no number", "")
        elif math.isnan(number) and "nan" not in str(cell).lower():
            faults[place] = ("wrong type", "expected a number", shown(cell))
        elif not math.isfinite(values_R[place]):
            faults[place] = ("NaN or Inf", "is not finite", shown(cell))
        else:
            bound = f"below {low:g}" if number < low else f"above {high:g}"
            faults[place] = ("target out of range", f"is {bound}", shown(cell))
        values_R[place] = 0
    return values_R, faults


def _parsed(cell: Any) -> float:
    """Return NaN for what is no number."""
    try:
        return parse_number(cell)
    except (TypeError, ValueError):
        return math.nan


def _names(cell: Any, target: Target) -> list[str]:
    if is_empty(cell):
        return []
    if target.type == "class":
        return [as_name(cell)]
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):  # a label may begin so
            cell = json.loads(cell)
    items = cell if isinstance(cell, tuple | list) else as_name(cell).split(target.separator)
    return list(dict.fromkeys(as_name(item) for item in items if not is_empty(item)))


def _in_order(name: str) -> tuple[int, float, str]:
    """Numbers by their size, before text."""
    number = _parsed(name)
    return (0, number, name) if math.isfinite(number) else (1, 0.0, name)


def class_weights(target: Target, outputs: list[str], values: Tensor) -> list[float] | None:
    """Return each output's weight in the loss; None where they are equal.

    Args:
        target: Says which are wanted.
        outputs: The classes or labels.
        values: Those of the training split.

    Raises:
        ValueError: A weight is given for what is no class, or is not above 0.
    """
    if target.weights is None:
        return None
    if isinstance(target.weights, dict):
        given = {as_name(name): weight for name, weight in target.weights.items()}
        if unknown := given.keys() - set(outputs):
            raise ValueError(f"weights: {min(unknown)!r} is no class; there are {', '.join(outputs)}")
        if any(not 0 < weight < math.inf for weight in given.values()):
            raise ValueError("weights: they must be above 0")
        return [given.get(name, 1.0) for name in outputs]
    if target.type == "class":
        counts = torch.bincount(values, minlength=len(outputs)).clamp_min(1)
        weights: list[float] = (len(values) / (len(outputs) * counts)).tolist()
        return weights
    on = values.sum(0).clamp_min(1)
    positive: list[float] = ((len(values) - on).clamp_min(1) / on).tolist()
    return positive
