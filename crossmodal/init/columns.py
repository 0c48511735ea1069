"""What a column of a table holds, guessed from a sample of its cells. Imports nothing heavy.

A guess is only ever a proposal: it is written to a file that a person reads.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossmodal.init.file_columns import SOME, Files, Kind, agreed, contents, files_in, kind_of_files
from datamodules.columns import is_empty
from datamodules.faults import shown

SEPARATORS = (";", "|", ",")
MOST_CATEGORIES = 100
MOST_LABELS = 1000
LONGEST_LABEL = 40  # characters


@dataclass(frozen=True)
class Column:
    """A column, as its sampled cells look.

    Args:
        name: Its name.
        kind: What a cell holds; of a sequence, what each of its parts is.
        cells: How many were looked at.
        empty: How many of them are empty.
        note: What was seen, in words.
        is_file: Cells name files.
        is_sequence: A cell holds several.
        separator: Between the parts of a cell that is one string.
        existing: Of the cells that name files, those whose files are all there.
        dim: Numbers in an array; None where that differs, or is not known.
        key: Of the array in each file, where there are several.
        wrong: What is wrong with single cells, by their place among all, where the rest agree.
        sound: The lowest rate in Hz and the greatest length in seconds of some files.
        is_whole: Numbers without a fraction.
        values: Cells that can be compared, empty ones left out; of labels, each single one.
        by_row: The same, a cell a row, None where it is empty.
        names: What classes or labels would be named.
    """

    name: str
    kind: Kind
    cells: int
    empty: int
    note: str = ""
    is_file: bool = False
    is_sequence: bool = False
    separator: str | None = None
    existing: int = 0
    dim: int | None = None
    key: str | None = None
    wrong: Mapping[int, str] = field(default_factory=dict, repr=False)
    sound: tuple[int, float] | None = None
    is_whole: bool = False
    values: Sequence[Any] = field(default=(), repr=False)
    by_row: Sequence[Any] = field(default=(), repr=False)
    names: Sequence[str] = field(default=(), repr=False)

    @property
    def filled(self) -> int:
        """How many cells are not empty."""
        return self.cells - self.empty

    @property
    def missing(self) -> int:
        """How many cells are empty, or name files that are not there."""
        return self.empty + (self.filled - self.existing if self.is_file else 0)

    @property
    def distinct(self) -> int:
        """How many different values there are."""
        return len(set(self.values))

    @property
    def counts(self) -> Counter[Any]:
        """How often each value comes."""
        return Counter(self.values)

    @property
    def repeats(self) -> bool:
        """Few enough values, that come often enough, to be categories."""
        return 2 <= self.distinct <= max(2, min(MOST_LABELS, len(self.values) // 2))


def look(name: str, cells: Sequence[Any], files: Files) -> Column:
    """Say what a column holds.

    Args:
        name: Of the column.
        cells: A sample, None where one is empty.
        files: Those that cells name.
    """
    cells = [None if is_empty(cell) else cell for cell in cells]
    filled = [cell for cell in cells if cell is not None]
    common: dict[str, Any] = {"name": name, "cells": len(cells), "empty": len(cells) - len(filled)}
    if not filled:
        return Column(**common, kind="empty", note="every sampled cell is empty")
    if all(isinstance(cell, str) for cell in filled):
        found = _strings(filled, files)
    elif all(isinstance(cell, bool) for cell in filled):
        found = {"kind": "category", "values": filled}
    elif all(isinstance(cell, int | float) for cell in filled):
        found = _numbers(filled)
    elif all(isinstance(cell, list | tuple) for cell in filled):
        found = _lists(filled, files)
    elif all(isinstance(cell, dict | bytes) for cell in filled):
        found = contents(filled)
    else:
        found = {"kind": "other", "note": f"cells are {_types(filled)}"}
    found.setdefault("note", _described(found))
    if wrong := found.get("wrong"):
        places = [place for place, cell in enumerate(cells) if cell is not None]
        found["wrong"] = {places[number]: cause for number, cause in wrong.items()}
    if found["kind"] != "labels" and len(found.get("values", ())) == len(filled):
        values = iter(found["values"])
        found["by_row"] = [None if cell is None else next(values) for cell in cells]
    if found["kind"] in ("category", "number") and not found.get("is_sequence"):
        found["names"] = sorted({_as_name(cell) for cell in filled})
    elif found["kind"] == "labels":
        found["names"] = sorted(set(map(_as_name, found["values"])))
    return Column(**common, **found)


def _as_name(cell: Any) -> str:
    """Return a class as the data source names it."""
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _described(found: dict[str, Any]) -> str:
    values = found.get("values", ())
    distinct = sorted(set(map(str, values)))
    match found["kind"]:
        case "number":
            numbers = [value for value in values if math.isfinite(value)]
            return f"numbers from {min(numbers):g} to {max(numbers):g}" if numbers else "numbers"
        case "category" | "labels":
            some = ", ".join(map(shown, distinct[:4])) + (", …" if distinct[4:] else "")
            return f"{len(distinct):,} different {'values' if found['kind'] == 'category' else 'labels'}: {some}"
        case "text":
            return f"text, {len(distinct):,} different of {len(values):,}"
    return str(found["kind"])


def _types(cells: Iterable[Any]) -> str:
    return " and ".join(sorted({"null" if cell is None else type(cell).__name__ for cell in cells}))


def _strings(cells: list[str], files: Files) -> dict[str, Any]:
    for separator in (None, *SEPARATORS):
        if separator is None or any(separator in cell for cell in cells):
            paths = [[cell] if separator is None else _parts(cell, separator) for cell in cells]
            if kind := kind_of_files([path for cell in paths for path in cell]):
                is_sequence = separator is not None
                values = {} if is_sequence else {"values": cells}
                return {**files_in(kind, paths, files), **values, "separator": separator, "is_sequence": is_sequence}
    if all(cell.lstrip().startswith("[") for cell in cells) and (lists := _inline_lists(cells)):
        return _lists(lists, files)
    numbers = {cell: number for cell in cells if (number := _as_number(cell)) is not None}
    if wrong := [cell for cell in cells if cell not in numbers]:
        if len(wrong) < SOME * len(cells):
            others = ", ".join(map(shown, sorted(set(wrong))[:3]))
            return {"kind": "other", "note": f"numbers, but for {others}; an empty cell would say that there is none"}
    else:
        return _numbers([numbers[cell] for cell in cells])
    for separator in SEPARATORS:
        if labels := _labels(cells, separator):
            return {"kind": "labels", "separator": separator, "values": labels, "is_sequence": True}
    return _words(cells)


def _words(cells: list[str]) -> dict[str, Any]:
    distinct = len(set(cells))
    words = sum(len(cell.split()) for cell in cells) / len(cells)
    length = sum(map(len, cells)) / len(cells)
    is_prose = words >= 3 or length >= 60
    few = 2 if is_prose and len(cells) > 4 else MOST_CATEGORIES
    if is_prose and distinct > 12:
        few = min(few, len(cells) // 100)
    if distinct <= max(1, min(few, max(2, len(cells) // 2))):
        return {"kind": "category", "values": cells}
    spaced = sum(" " in cell.strip() for cell in cells) > len(cells) / 2
    foreign = sum(not cell.isascii() for cell in cells) > len(cells) / 2  # not every script writes spaces
    if (spaced and words >= 2) or (foreign and length >= 4):
        return {"kind": "text", "values": cells}
    return {"kind": "other", "values": cells, "note": f"{distinct:,} different words or codes"}


def _parts(cell: str, separator: str) -> list[str]:
    return [part.strip() for part in cell.split(separator) if part.strip()]


def _as_number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _numbers(cells: Sequence[float]) -> dict[str, Any]:
    cells = [cell for cell in cells if not math.isnan(cell)]
    whole = all(math.isfinite(cell) and cell == int(cell) for cell in cells)
    return {"kind": "number", "values": [int(cell) for cell in cells] if whole else list(cells), "is_whole": whole}


def _inline_lists(cells: list[str]) -> list[list[Any]] | None:
    import json

    try:
        lists = [json.loads(cell) for cell in cells]
    except ValueError:
        return None
    return lists if all(isinstance(one, list) for one in lists) else None


def _labels(cells: list[str], separator: str) -> list[str] | None:
    """Return the single labels, if the cells are few words in many combinations."""
    several = sum(separator in cell for cell in cells)
    if several < SOME * len(cells):
        return None
    labels = [part for cell in cells for part in _parts(cell, separator)]
    return labels if _are_labels(labels, len(set(cells))) else None


def _are_labels(labels: Sequence[Any], combinations: int) -> bool:
    distinct = set(labels)
    short = all(len(str(label)) <= LONGEST_LABEL for label in distinct)
    return short and len(distinct) <= min(MOST_LABELS, max(2, len(labels) // 2), combinations)


def _lists(cells: Sequence[Sequence[Any]], files: Files) -> dict[str, Any]:
    parts = [part for cell in cells for part in cell]
    if all(isinstance(part, str) for part in parts):
        if kind := kind_of_files(parts):
            return {**files_in(kind, cells, files), "is_sequence": True}
        if _are_labels(parts, len({tuple(cell) for cell in cells})):
            return {"kind": "labels", "values": parts, "is_sequence": True}
        return {**_words(parts), "is_sequence": True}
    if all(isinstance(part, dict | bytes) for part in parts):
        return {**contents(parts), "is_sequence": True}
    return _vectors(cells)


def _vectors(cells: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """Look at lists of numbers, or of lists of numbers; a few may differ from all others."""
    widths = list(map(_width, cells))
    lengths = sorted({width for width in widths if isinstance(width, int)})
    refused = [cell for cell, width in zip(cells, widths, strict=True) if not isinstance(width, int)]
    if not lengths or len(refused) > SOME * len(cells):
        return {"kind": "other", "note": f"lists of {_types(part for cell in refused for part in cell)}"}
    parts = [part for cell in cells for part in cell]
    whole = all(isinstance(part, int) for part in parts)
    found: dict[str, Any] = {"kind": "array", "is_whole": whole, "values": parts if whole and lengths[1:] else ()}
    dim = agreed(widths)
    if not isinstance(dim, int):
        return {**found, "note": f"lists of {lengths[0]:,} to {lengths[-1]:,} numbers"}
    wrong = {
        number: f"is of length {width:,}, not {dim:,}" if isinstance(width, int) else width
        for number, width in enumerate(widths)
        if width != dim
    }
    but = f", but for {len(wrong):,} of {len(cells):,}" if wrong else ""
    return {**found, "note": f"lists of {dim:,} numbers{but}", "dim": dim, "wrong": wrong}


def _width(cell: Sequence[Any]) -> int | str:
    """Return how many numbers a list has, or each of its lists; or what is wrong with it, in words."""
    vectors = cell if all(isinstance(part, list | tuple) for part in cell) else [cell]
    numbers = [number for vector in vectors for number in vector]
    if others := [number for number in numbers if not isinstance(number, int | float)]:
        return f"has {_types(others)} among its numbers"
    if not all(map(math.isfinite, numbers)):
        return "has NaN or Inf among its numbers"
    widths = set(map(len, vectors))
    return widths.pop() if len(widths) == 1 else "has lists of different lengths"
