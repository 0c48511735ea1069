"""What a column is for, guessed from its name and its values: a target, a name, a group, a split.

Imports nothing heavy.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from crossmodal.init.columns import Column
from crossmodal.init.file_columns import SOME


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


ANSWERS = _names("label labels class classes target targets answer answers y")
LABELS = ANSWERS | _names("category categories tag tags diagnosis genre sentiment outcome species")
NUMBERS = _names("target y price score rating value amount cost salary income")
IDS = _names("id uid uuid guid key index idx row name identifier")
GROUPS = _names("patient subject speaker user session participant person customer household family donor")
FEWEST_OF_A_CLASS = 10  # rows that have it, in a sample
SPLIT = _names("split subset partition fold set")
VALIDATION = _names("val valid validation dev")
SPLITS = VALIDATION | _names("train training test testing predict")
OF_FILES = _names("path paths file files filename filepath url uri src fname")
# names that torch's modules use themselves, which no part of a model can have
TAKEN = _names(
    "apply bfloat16 buffers children clear compile cpu cuda double eval float forward half ipu items keys modules mtia "
    "parameters pop to train training type update values xpu"
)


@dataclass(frozen=True)
class Target:
    """A task.

    Args:
        name: Of the task.
        settings: As the data source takes them.
        column: Where it stands.
        note: What was seen.
    """

    name: str
    settings: dict[str, Any]
    column: Column
    note: str

    @property
    def type(self) -> str:
        """class, labels or number."""
        return str(self.settings["type"])


def words(name: str) -> list[str]:
    """Return a name's words in small letters: of photo_path, photoPath and `Photo path 2` photo and path."""
    return [word for word in re.split(r"[\W_\d]+", _spaced(name)) if word]


def _spaced(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()


def identifier(name: str, default: str, taken: Collection[str]) -> str:
    """Make a name that a key of the YAML, an option of the command line and a part of a model can have.

    Args:
        name: A column's.
        default: Where nothing is left of it.
        taken: Names that it must not be.
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    parts = [part for part in re.split(r"[\W_]+", _spaced(plain)) if part]
    while parts and parts[-1] in OF_FILES:
        parts.pop()
    result = "_".join(parts) or default
    if not result[0].isalpha():
        result = f"{default}_{result}"
    if result in TAKEN:
        result = f"{result}_{default}"
    number, unique = 2, result
    while unique in taken:
        unique, number = f"{result}_{number}", number + 1
    return unique


def as_target(column: Column, name: str) -> Target | str:
    """Return the task that a column makes, or why it makes none."""
    settings: dict[str, Any] = {"type": "class", "column": column.name}
    if column.is_file or column.kind in ("image", "audio"):
        return f"{column.kind} files are no target"
    if column.kind == "labels" or (column.kind == "array" and column.is_whole and column.values):
        settings["type"] = "labels"
        if column.separator:
            settings["separator"] = column.separator
        return Target(name, {**settings, **_rare_classes(column)}, column, column.note)
    if column.is_sequence or column.kind in ("array", "empty"):
        return column.note
    if column.distinct < 2:
        return f"it has one value only: {column.note}"
    named_number = bool(NUMBERS & set(words(column.name))) and not column.is_whole
    if column.kind == "number" and (named_number or not column.repeats or column.distinct > 20):
        return Target(name, {**settings, "type": "number"}, column, column.note)
    if not column.repeats:
        return f"{column.distinct:,} different values in {column.filled:,} sampled cells are no classes"
    rarest = min(column.counts.values())
    note = f"{column.distinct:,} classes; the rarest has {rarest:,} of {column.filled:,} sampled rows"
    return Target(name, {**settings, **_rare_classes(column)}, column, note)


def _rare_classes(column: Column) -> dict[str, Any]:
    """Name the classes, if one is so rare that by chance no row for training may have it."""
    is_rare = column.names and min(column.counts.values()) < FEWEST_OF_A_CLASS
    return {"classes": list(column.names)} if is_rare else {}


def rank(target: Target) -> int:
    """Say how surely a column is the target: 3 by its whole name, 2 by a word of it, 1 by what it holds."""
    column, names = target.column, NUMBERS if target.type == "number" else LABELS
    if is_group(column):
        return 0
    if "_".join(words(column.name)) in names:
        return 3
    return 2 if names & set(words(column.name)) else 1 if column.kind in ("category", "labels") else 0


def tells_target(column: Column) -> bool:
    """Whether a column is named as what is to be predicted is."""
    return "_".join(words(column.name)) in ANSWERS or column.name.lower() in ("class_name", "label_name", "class_id")


def says_the_same(column: Column, other: Column) -> bool:
    """Whether each value of one column stands beside one value of the other, and the other way round."""
    pairs = {pair for pair in zip(column.by_row, other.by_row, strict=False) if None not in pair}
    ones, others = {one for one, _ in pairs}, {other for _, other in pairs}
    return len(pairs) == len(ones) == len(others) and 1 < len(pairs) < len(other.values)


def is_split(column: Column) -> bool:
    """Whether it names each row's split."""
    if column.kind != "category" or column.is_sequence:
        return False
    is_named, values = bool(SPLIT & set(words(column.name))), _small(column)
    if is_named:  # so that a few values may be wrong
        known = sum(count for value, count in column.counts.items() if str(value).strip().lower() in SPLITS)
        return known >= (1 - SOME) * len(column.values)
    return values <= SPLITS and len(values) > 1


def has_validation(split: Column) -> bool:
    """Whether a column of splits names rows to validate on."""
    return bool(_small(split) & VALIDATION)


def _small(column: Column) -> set[str]:
    return {name.lower() for name in column.names}


def is_id(column: Column) -> bool:
    """Whether it names each row."""
    return (
        _is_plain(column) and bool(IDS & set(words(column.name))) and column.cells == column.filled == column.distinct
    )


def is_reference(column: Column) -> bool:
    """Whether its numbers name something, and so are no quantities."""
    return column.kind == "number" and column.is_whole and bool((IDS - {"name"}) & set(words(column.name)))


def is_group(column: Column) -> bool:
    """Whether it names whose row it is, several rows each; a split needs three of them."""
    return _is_plain(column) and bool(GROUPS & set(words(column.name))) and 3 <= column.distinct < column.filled


def _is_plain(column: Column) -> bool:
    return column.kind in ("category", "other", "number") and not column.is_sequence
