"""The base of data that lie in tables: columns become modalities and targets.

Legend: R rows of a split.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.columns import Column, Place
from datamodules.faults import Fault, FaultyRowsError, Quarantine
from datamodules.inputs import inputs_of
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import PairedRows, RowIds
from datamodules.splits import Split as SplitRule
from datamodules.splits import split_rows
from datamodules.tables import Table
from datamodules.targets import Target, Targets, class_weights, outputs_of, targets_of


@dataclass(frozen=True)
class Part:
    """The rows of one split.

    Args:
        table: That they are in.
        rows: Of the table.
        place: Where relative paths begin.
        faults: Of rows that were left out when the table was read.
        id: Column of the rows' names.
    """

    table: Table
    rows: NDArray[np.int64]
    place: Place
    faults: list[Fault]
    id: str | None = None


def parts_of(whole: Part, rule: SplitRule, seed: int) -> dict[Split, Part]:
    """Split the rows of a table; a row of no split is told of with the training rows.

    Raises:
        ValueError: No row is to be trained on.
    """
    rows, faults = split_rows(whole.table, rule, seed)
    if "train" not in rows:
        raise ValueError(f"{whole.table.name}: no row belongs to the training split")
    return {
        name: replace(whole, rows=chosen, faults=[*whole.faults, *faults] if name == "train" else [])
        for name, chosen in rows.items()
    }


class TableIds(RowIds):
    """Rows are named by a column, or by the place in their table.

    Args:
        table: That they are in.
        rows: Of the table.
        column: Of names.
    """

    def __init__(self, table: Table, rows: NDArray[np.int64], column: str | None) -> None:
        super().__init__(rows)
        self.table = table
        self.column = column

    def name(self, number: int) -> str:
        """Return the name of a row of the table."""
        name = None if self.column is None else self.table.cell(self.column, number)
        return self.table.row_name(number) if name in (None, "") else str(name)

    def place(self, number: int) -> str:
        """Return the row's name and its place in the table."""
        name, place = self.name(number), self.table.row_name(number)
        return place if name == place else f"{place} ({name})"


class TableData(PairedDataModule):
    """Base of what reads tables. A subclass gives `part`.

    Args:
        modalities: By name, which columns make it.
        targets: By task, which columns make it; predictions need none, and neither does a model that only aligns.
        split: How the rows of the training table are split: by a column, or by chance.
        id: Column of the rows' names.
        on_error: `stop` ends at the first rows that cannot be used; `quarantine` leaves them out, and lists them in
            quarantine.jsonl of the run, or beside predictions.
        max_quarantined: Stop where more than this share of a split's rows is left out.
        batch_size: Rows a batch.
        num_workers: Processes that read ahead.
        seed: Of splits by chance; of the order of the rows together with `seed_everything`.

    Raises:
        ValueError: Settings do not fit together.
    """

    def __init__(
        self,
        *,
        modalities: dict[str, Column],
        targets: dict[str, Target],
        split: SplitRule | None = None,
        id: str | None = None,
        on_error: Literal["stop", "quarantine"] = "stop",
        max_quarantined: float = 0.05,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.rule = split or SplitRule()
        if not modalities:
            raise ValueError("data.init_args.modalities: name at least one")
        for group, specs in (("modalities", modalities), ("targets", targets)):
            for name, spec in specs.items():
                _check(f"{group}.{name}", spec)
        _check("split", self.rule)
        self.modalities = modalities
        self.targets = targets
        self.id = id
        quarantine = Quarantine(limit=max_quarantined)
        if on_error == "quarantine":
            self.quarantine = quarantine

    @abstractmethod
    def part(self, split: Split) -> Part | None:
        """Return a split's rows, or None if there is no such split."""

    @property
    def outputs(self) -> dict[str, list[str]]:
        """Per task its classes, labels or quantities."""
        return self._outputs

    @cached_property
    def _outputs(self) -> dict[str, list[str]]:
        part = self.part("train") if any(target.classes is None for target in self.targets.values()) else None
        outputs = {}
        for task, target in self.targets.items():
            if target.classes is not None:
                outputs[task] = target.given
            elif part is not None:
                outputs[task] = outputs_of(part.table, target, part.rows)
            elif target.type == "number" or target.columns:
                outputs[task] = target.names
            else:
                raise ValueError(f"data.init_args.targets.{task}: without a training split, give its `classes`")
        return outputs

    @property
    def class_weights(self) -> dict[str, list[float]]:
        """Per task the weight of each class or label in the loss, where they are not equal."""
        weights = {}
        for task, target in self.targets.items():
            if target.weights is not None and (rows := self.rows("train")) is not None:
                try:
                    given = class_weights(target, self.outputs[task], rows.targets[task])
                except ValueError as error:
                    raise ValueError(f"data.init_args.targets.{task}.{error}") from None
                if given is not None:
                    weights[task] = given
        return weights

    def load(self, split: Split) -> PairedRows | None:
        """Return a split's rows; those that cannot be used end it, or are left out."""
        loaded = self.look_through(split)
        if loaded is None:
            return None
        rows, faults, others = loaded
        if not faults and not others:
            return rows
        first = dict(reversed(faults))
        found = [*others, *(first[row] for row in sorted(first))]
        if self.quarantine is None:
            raise FaultyRowsError(found)
        self.quarantine.add(found, split=split, num_rows=len(rows) + len(others))
        return rows.select(np.setdiff1d(np.arange(len(rows)), list(first)))

    def look_through(self, split: Split) -> tuple[PairedRows, list[tuple[int, Fault]], list[Fault]] | None:
        """Return a split's rows, every fault that its table shows, and the faults of lines that are no rows at all.

        Each fault of a row stands with the row's number; a row that has one cannot be used. Files are not opened.
        """
        part = self.part(split)
        if part is None:
            return None
        ids = TableIds(part.table, part.rows, part.id or self.id)
        inputs = {
            name: inputs_of(part.table, spec, part.place, part.rows, must_exist=split == "train")
            for name, spec in self._wanted.items()
        }
        targets: Mapping[str, Targets] = {}
        if split != "predict":
            targets = {
                task: targets_of(part.table, target, part.rows, self.outputs[task])
                for task, target in self.targets.items()
            }
        found = [one.faults for one in inputs.values()] + [one.faults for one in targets.values()]
        faults = [
            (row, replace(fault, row=ids.place(int(part.rows[row]))))
            for faults in found
            for row, fault in faults.items()
        ]
        rows = PairedRows(
            sources={name: one.source for name, one in inputs.items()},
            index={name: one.index_R for name, one in inputs.items()},
            targets={task: one.values for task, one in targets.items()},
            ids=ids,
        )
        return rows, faults, part.faults

    @property
    def _wanted(self) -> dict[str, Column]:
        """Modalities without an expert are not read."""
        wanted = self.base_transforms
        return {name: spec for name, spec in self.modalities.items() if not wanted or name in wanted}

    def columns(self, split: Split) -> list[str]:
        """Return the columns that a split's rows need."""
        names = [name for spec in self.modalities.values() for name in spec.names]
        if split != "predict":
            names += [name for target in self.targets.values() for name in target.names]
        return list(dict.fromkeys([*names, *([self.id] if self.id else [])]))

    @property
    def optional_columns(self) -> list[str]:
        """Columns of modalities that may be missing, and so may be missing from all rows."""
        return [name for spec in self.modalities.values() if spec.missing == "allow" for name in spec.names]

    @property
    def text_columns(self) -> list[str]:
        """Columns whose cells are text or paths."""
        kinds = {"image", "text", "audio"}
        return [name for spec in self.modalities.values() if spec.type in kinds for name in spec.names]


def _check(key: str, spec: Column | Target | SplitRule) -> None:
    try:
        spec.check()
    except ValueError as error:
        raise ValueError(f"data.init_args.{key}: {error}") from None
