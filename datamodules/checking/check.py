"""Looks at every row and every input of a data source, and tells of all that is wrong with them.

Legend: R rows of a split, U distinct inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.batch import ABSENT
from datamodules.checking.comparing import COMPARED, ContentKeys, count_classes, look_for_classes
from datamodules.checking.fault_log import FaultLog
from datamodules.checking.measures import Sizes, identifies, measure
from datamodules.checking.samples import Sample, read_sample
from datamodules.columns import coded
from datamodules.faults import Fault, InputError
from datamodules.loading import BatchLoader
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import PairedRows
from datamodules.sources import KEY_BYTES, UnreadableInputsError
from datamodules.table_data import TableData, TableIds

SPLITS: tuple[Split, ...] = ("train", "val", "test", "predict")
BLOCK = 32  # inputs that a worker reads at a time
WAITING = 10_000  # faulty inputs between which rows are not looked for


class Head(Protocol):
    """What knows whether targets can be learned from."""

    @property
    def expects(self) -> str:
        """What a row's target must be, in words."""

    def valid(self, targets: Tensor) -> Tensor:
        """Return which rows have such a target; a ValueError, if none has."""


@dataclass(frozen=True)
class _Part:
    """The inputs of one modality that some rows of a split have."""

    split: Split
    modality: str
    positions: NDArray[np.int64]


@dataclass
class _Findings:
    """What was found of some inputs of a part.

    Args:
        number: Of the part.
        positions: In its source.
        faults: By position, and whether training cannot use the input.
        sizes: Of those that can be loaded.
        keys: 16 bytes for each position; zeros where equal inputs mean nothing.
    """

    number: int
    positions: NDArray[np.int64]
    keys: NDArray[np.bytes_]
    faults: dict[int, tuple[Fault, bool]] = field(default_factory=dict)
    sizes: list[dict[str, float]] = field(default_factory=list)


class DataCheck:
    """A check of all that a data source has: first what its tables show, then each input by `read`.

    Args:
        data: Connected to the experts' transforms.
        heads: By task.

    Raises:
        ValueError: An expert's modality is not in the data.
    """

    def __init__(self, data: PairedDataModule, heads: Mapping[str, Head]) -> None:
        self.data = data
        self.heads = heads
        self.log = FaultLog()
        self.rows: dict[Split, PairedRows] = {}
        self.sizes: dict[str, Sizes] = {}
        self.num_read = 0  # inputs
        self._parts: list[_Part] = []
        self._keys = ContentKeys()
        for split in SPLITS:
            self._look_at(split)

    @property
    def num_inputs(self) -> int:
        """How many distinct inputs there are to read."""
        return sum(len(part.positions) for part in self._parts)

    def read(self, *, num_workers: int = 0, advance: Callable[[int], None] = lambda _: None) -> None:
        """Load and transform every input; then compare splits.

        Args:
            num_workers: Processes that read; 0 reads in this one.
            advance: Told how many inputs were read.

        Raises:
            ValueError: A worker was killed.
        """
        ends = np.cumsum([len(part.positions) for part in self._parts])
        blocks = [
            block
            for part, end in zip(self._parts, ends.tolist(), strict=True)
            for block in _blocks(end - len(part.positions), end)
        ]

        def read(numbers: NDArray[np.int64], _seed: int) -> _Findings:
            number = int(np.searchsorted(ends, numbers[0], side="right"))
            part = self._parts[number]
            return self._read(number, part.positions[numbers - (ends[number] - len(part.positions))])

        workers = num_workers if sys.platform == "linux" else 0  # elsewhere each would import torch anew
        try:
            self._take(BatchLoader(read, blocks, num_workers=workers, by_value=True), advance)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ValueError(
                "a process that reads inputs was killed, as the system does where memory runs out; give fewer with "
                "--workers (0 reads in the main process)"
            ) from error
        self._keys.compare(self.rows, self.log)
        look_for_classes(self.rows, self.log, self.data.outputs)

    @property
    def can_leave_out(self) -> bool:
        """Whether the data has `on_error`."""
        return isinstance(self.data, TableData)

    def usable(self, split: Split) -> NDArray[np.int64]:
        """Return a split's rows that training can use."""
        return np.flatnonzero(~self.log.faulty(split, stopping=True))

    def class_counts(self) -> dict[str, dict[str, dict[Split, int]]]:
        """Return, by task, class (or label) and split, the usable rows that have it; quantities have none."""
        return count_classes(self.rows, self.log, self.data.outputs)

    def presence(self, split: Split) -> dict[tuple[str, ...], int]:
        """Return how many usable rows have which modalities, most frequent first."""
        rows, usable = self.rows[split], self.usable(split)
        names = list(self.data.base_transforms)
        codes = np.zeros(len(usable), np.int64)
        for bit, name in enumerate(names):
            codes |= (rows.index[name][usable] != ABSENT).astype(np.int64) << bit
        found, numbers = np.unique(codes, return_counts=True)
        order = np.argsort(-numbers, kind="stable")
        return {
            tuple(name for bit, name in enumerate(names) if found[place] >> bit & 1): int(numbers[place])
            for place in order
        }

    def samples(self, split: Split, number: int) -> list[Sample]:
        """Return some usable rows from all over a split."""
        usable = self.usable(split)
        places = np.linspace(0, len(usable) - 1, min(number, len(usable))).round().astype(np.int64)
        read = (
            read_sample(self.rows[split], row, list(self.data.base_transforms), self.data.outputs)
            for row in usable[places].tolist()
        )
        return [sample for sample in read if sample is not None]

    def _look_at(self, split: Split) -> None:
        try:
            found = self._load(split)
        except (OSError, ValueError) as error:
            self.log.add_whole(Fault("unusable split", str(error), split=split))
            return
        if found is None:
            return
        rows, faults, others = found
        if missing := self.data.base_transforms.keys() - rows.sources.keys():
            there = ", ".join(sorted(rows.sources))
            raise ValueError(f"experts.{min(missing)}: the data has no such modality; it has {there}")
        self.rows[split] = rows
        self.log.begin(split, len(rows))
        for fault in others:
            self.log.add_line(replace(fault, split=split))
        lost: dict[str, list[int]] = {}
        for row, fault in faults:
            self.log.add(fault.kind, split, np.array([row]), _always(replace(fault, split=split)))
            if fault.kind == "missing file":
                lost.setdefault(fault.column, []).append(row)
        self._look_at_targets(split, rows)
        if isinstance(rows.ids, TableIds) and rows.ids.column is not None:
            self._look_at_ids(split, rows.ids)
        for modality in self.data.base_transforms:
            positions = rows.used(modality)
            if isinstance(self.data, TableData):  # what is not there need not be looked for again
                gone = rows.index[modality][lost.get(", ".join(self.data.modalities[modality].names), [])]
                known = np.isin(positions, gone)
                if known.any():
                    self.log.count_inputs("missing file", int(known.sum()))
                positions = positions[~known]
            if len(positions):
                self._parts.append(_Part(split, modality, positions))

    def _load(self, split: Split) -> tuple[PairedRows, list[tuple[int, Fault]], list[Fault]] | None:
        if isinstance(self.data, TableData):
            return self.data.look_through(split)
        rows = self.data.rows(split)
        return None if rows is None else (rows, [], [])

    def _look_at_targets(self, split: Split, rows: PairedRows) -> None:
        for task, head in self.heads.items():
            if task not in rows.targets:
                continue
            targets = rows.targets[task]
            cause = None
            try:
                wrong = np.flatnonzero(~head.valid(targets).numpy())
            except ValueError as error:
                wrong, cause = np.arange(len(rows)), str(error)

            def fault(row: int, task: str = task, head: Head = head, cause: str | None = cause) -> Fault:
                value = str(rows.targets[task][row].tolist())
                return Fault("wrong target", cause or f"is not {head.expects}", rows.place(row), task, value, split)

            self.log.add("wrong target", split, wrong, fault) if len(wrong) else None

    def _look_at_ids(self, split: Split, ids: TableIds) -> None:
        assert ids.column is not None
        codes_R, _ = coded(ids.table, ids.column, ids.numbers)
        _, first, inverse_R = np.unique(codes_R, return_index=True, return_inverse=True)
        again = np.flatnonzero((first[inverse_R] != np.arange(len(ids))) & (codes_R >= 0))

        def fault(row: int) -> Fault:
            there = ids.table.row_name(int(ids.numbers[first[inverse_R[row]]]))
            here = ids.place(int(ids.numbers[row]))
            return Fault("duplicate id", f"is also the id of {there}", here, str(ids.column), ids[row], split)

        if len(again):
            self.log.add("duplicate id", split, again, fault, stops=False)

    def _read(self, number: int, positions: NDArray[np.int64]) -> _Findings:
        """Load and transform some inputs of a part; a worker does it."""
        part = self._parts[number]
        source = self.rows[part.split].sources[part.modality]
        transform = self.data.base_transforms[part.modality].for_evaluation
        complaint = getattr(transform, "complaint", None)
        is_compared = part.split in COMPARED and len(self.rows.keys() & set(COMPARED)) > 1
        found = _Findings(number, positions, np.zeros(len(positions), f"S{KEY_BYTES}"))
        for place, position in enumerate(positions.tolist()):
            try:
                raw = source.load(position)
                transform(raw)
                found.sizes.append(measure(raw))
                if complaint is not None and (told := complaint(raw)):
                    found.faults[position] = source.fault(position, InputError(*told)), False
                if is_compared and identifies(raw):
                    found.keys[place] = source.keys(positions[place : place + 1])[0]
            except UnreadableInputsError as error:
                found.faults[position] = error.faults[position], True
            except (OSError, ValueError) as error:
                found.faults[position] = source.fault(position, error), True
            except Exception as error:  # code of one's own may raise anything, and has met its match in this input
                unexpected = InputError("unexpected error", f"{type(error).__name__}: {error}")
                found.faults[position] = source.fault(position, unexpected), True
        return found

    def _take(self, findings: Iterator[_Findings] | BatchLoader, advance: Callable[[int], None]) -> None:
        waiting: dict[int, tuple[Fault, bool]] = {}
        number = 0
        try:
            for found in findings:
                if found.number != number or len(waiting) > WAITING:
                    self._blame_rows(self._parts[number], waiting)
                    number, waiting = found.number, {}
                part = self._parts[number]
                waiting |= found.faults
                self.sizes.setdefault(part.modality, Sizes()).add(found.sizes)
                self._keys.add(part.modality, part.split, found.positions, found.keys)
                self.num_read += len(found.positions)
                advance(len(found.positions))
        finally:  # what was found before an interruption, too
            self._blame_rows(self._parts[number], waiting) if waiting else None

    def _blame_rows(self, part: _Part, faults: Mapping[int, tuple[Fault, bool]]) -> None:
        """Tell of each row that has one of these inputs."""
        rows = self.rows[part.split]
        index_R = rows.index[part.modality]
        for kind, stops in dict.fromkeys((fault.kind, stops) for fault, stops in faults.values()):
            positions = [at for at, (fault, so) in faults.items() if (fault.kind, so) == (kind, stops)]

            def of_row(row: int) -> Fault:
                fault = faults[int(index_R[row])][0]
                return replace(fault, row=rows.place(row), column=fault.column or part.modality, split=part.split)

            self.log.add(kind, part.split, np.flatnonzero(np.isin(index_R, positions)), of_row, stops=stops)
            self.log.count_inputs(kind, len(positions))


def _blocks(start: int, end: int) -> Iterator[NDArray[np.int64]]:
    """Yield numbers a few at a time: the first ones soon tell how long an input takes."""
    size = 1
    while start < end:
        yield np.arange(start, min(start + size, end))
        start, size = start + size, min(2 * size, BLOCK)


def _always(fault: Fault) -> Callable[[int], Fault]:
    return lambda _: fault
