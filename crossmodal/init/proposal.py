"""Which columns are inputs, and which are targets: what `crossmodal init` proposes. Imports nothing heavy."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossmodal.errors import UsageError
from crossmodal.init.columns import Column
from crossmodal.init.roles import (
    FEWEST_OF_A_CLASS,
    Target,
    as_target,
    identifier,
    is_group,
    is_id,
    is_reference,
    is_split,
    rank,
    says_the_same,
    tells_target,
)

FEWEST_TO_STRATIFY = 20  # rows


@dataclass(frozen=True)
class Modality:
    """A modality.

    Args:
        name: Of the modality.
        settings: As the data source takes them.
        columns: Where it stands.
    """

    name: str
    settings: dict[str, Any]
    columns: list[Column]

    @property
    def type(self) -> str:
        """What a single input is: of a sequence, what each of its parts is."""
        return str(self.settings.get("of", self.settings["type"]))

    @property
    def is_sequence(self) -> bool:
        """A row has several inputs."""
        return bool(self.settings["type"] == "sequence")

    @property
    def notes(self) -> list[str]:
        """What was seen, a line a column."""
        return [_note(column) for column in self.columns]


@dataclass(frozen=True)
class Proposal:
    """What is made of a table's columns.

    Args:
        modalities: At least one.
        targets: At least one.
        id: The column of the rows' names.
        split: The column that names each row's split.
        group: The column of what a split must not tear apart.
        unused: By column, why.
    """

    modalities: list[Modality]
    targets: list[Target]
    id: Column | None = None
    split: Column | None = None
    group: Column | None = None
    unused: dict[str, str] = field(default_factory=dict)

    @property
    def stratify(self) -> str | None:
        """The column whose classes every split should have alike, if there are enough rows of each."""
        target = self.targets[0]
        if self.targets[1:] or target.type != "class" or len(target.column.values) < FEWEST_TO_STRATIFY:
            return None
        return target.column.name if min(target.column.counts.values()) >= FEWEST_OF_A_CLASS else None


def propose(columns: Sequence[Column], wanted: Sequence[str] = ()) -> Proposal:
    """Propose what each column is.

    Args:
        columns: Of the table.
        wanted: Those that are targets, where somebody says so.

    Raises:
        UsageError: The target cannot be told, or nothing can be an input.
    """
    split = _first(columns, lambda column: is_split(column) and column.name not in wanted)
    rest = [column for column in columns if column is not split]
    targets = _wanted_targets(columns, wanted) if wanted else [_only_target(rest)]
    rest = [column for column in rest if all(column is not target.column for target in targets)]
    own_name = _first(rest, is_id)
    group = _first(rest, lambda column: is_group(column) and column is not own_name)
    rest = [column for column in rest if column is not own_name and column is not group]
    unused = {column.name: why for column in rest if (why := _why_no_input(column, targets))}
    modalities = _modalities([column for column in rest if column.name not in unused])
    # rows that share a picture must not be torn apart: a test split would ask what was learned by heart
    group = group or _first(rest, lambda column: column.is_file and 3 <= column.distinct < column.filled)
    if not modalities:
        reasons = "".join(f"\n  {name}: {why}" for name, why in unused.items())
        raise UsageError(f"no column {'but the target ' if not unused else ''}can be an input{reasons}")
    return Proposal(modalities, targets, own_name, split, group, unused)


def _first(columns: Sequence[Column], fits: Callable[[Column], bool]) -> Column | None:
    return next((column for column in columns if fits(column)), None)


def _wanted_targets(columns: Sequence[Column], wanted: Sequence[str]) -> list[Target]:
    by_name = {column.name: column for column in columns}
    targets: dict[str, Target] = {}
    for name in wanted:
        if name not in by_name:
            raise UsageError(f"--target {name}: there is no such column; there are {', '.join(by_name)}")
        target = as_target(by_name[name], identifier(name, "target", targets))
        if isinstance(target, str):
            raise UsageError(f"--target {name}: {target}")
        targets[target.name] = target
    return list(targets.values())


def _only_target(columns: Sequence[Column]) -> Target:
    """Find the one column that must be the target."""
    possible = [
        target
        for column in columns
        if isinstance(target := as_target(column, identifier(column.name, "target", ())), Target)
    ]
    if not possible:
        seen = "".join(f"\n  {column.name}: {column.note}" for column in columns)
        raise UsageError(f"no column can be a target: values would have to come several times, or be numbers{seen}")
    best = max(map(rank, possible))
    for column in columns:  # another column is hardly what is meant
        if best < 3 and tells_target(column) and column.filled and column.distinct < 2:
            raise UsageError(
                f"{column.name}: has one value only, {column.note}; say what is to be predicted with --target"
            )
    chosen = [target for target in possible if rank(target) == best]
    first = chosen[0]
    if best and all(says_the_same(first.column, other.column) for other in chosen[1:]):
        return next((one for one in chosen if one.column.kind == "category"), first)  # names say more than numbers
    options = "".join(f"\n  --target {shlex.quote(one.column.name)}  ({one.type}: {one.note})" for one in chosen)
    raise UsageError(f"which column is to be predicted? Say one, or several after --target:{options}")


def _why_no_input(column: Column, targets: Sequence[Target]) -> str | None:
    if column.kind in ("empty", "other"):
        return column.note
    if any(says_the_same(column, target.column) for target in targets):
        return "says the same as the target"
    if tells_target(column):
        return f"is named as a target, which no input may tell: {column.note}"
    if is_id(column) or is_reference(column):
        return f"names something, and is no quantity: {column.note}"
    if column.kind in ("category", "number") and column.distinct < 2:
        return f"has one value only: {column.note}"
    if column.kind == "labels" or (column.is_sequence and column.kind == "category"):
        return f"no expert takes several labels a row: {column.note}"
    if column.is_file and not column.existing:
        return f"{column.note}; if they are elsewhere, data.init_args.root says what paths are relative to"
    if column.kind == "array" and column.dim is None:
        return f"{column.note}: an expert takes arrays of one width"
    return None


def _modalities(columns: Sequence[Column]) -> list[Modality]:
    found: list[Modality] = []
    views = _numbered(columns)
    for column in columns:
        members = views.get(column.name, [column])
        if column.kind not in ("number", "category") and column is members[0]:
            found.append(_modality(members, [modality.name for modality in found]))
    numeric, categorical = ([one for one in columns if one.kind == kind] for kind in ("number", "category"))
    if numeric or categorical:
        names = {"numeric": [one.name for one in numeric], "categorical": [one.name for one in categorical]}
        used = {key: value for key, value in names.items() if value}
        found.append(Modality("table", {"type": "table", **used}, [*numeric, *categorical]))
    return found


def _numbered(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Return, by column, all that differ from it by a number, such as photo1 and photo2."""
    groups: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        if column.is_file and not column.is_sequence and column.name[-1:].isdigit():
            groups.setdefault((_stem(column.name), column.kind), []).append(column)
    return {column.name: group for group in groups.values() if len(group) > 1 for column in group}


def _stem(name: str) -> str:
    return re.sub(r"[\W_]*\d+$", "", name)


def _modality(columns: list[Column], taken: list[str]) -> Modality:
    first = columns[0]
    settings: dict[str, Any] = {"type": first.kind}
    if first.is_sequence or columns[1:]:
        settings = {"type": "sequence", "of": first.kind}
    if columns[1:]:
        settings["columns"] = [column.name for column in columns]
    else:
        settings["column"] = first.name
    if first.separator:
        settings["separator"] = first.separator
    if first.key is not None:
        settings["key"] = first.key
    if any(column.missing for column in columns):
        settings["missing"] = "allow"
    name = _stem(first.name) if columns[1:] else first.name
    return Modality(identifier(name, first.kind, {"table", *taken}), settings, columns)


def _note(column: Column) -> str:
    empty = f"; {column.empty:,} of {column.cells:,} cells are empty" if column.empty else ""
    return f"{column.name}: {column.note}{empty}"
