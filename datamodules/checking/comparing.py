"""What only shows when splits are looked at together: inputs in two of them, and classes that training never sees.

Legend: R rows of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.checking.fault_log import FaultLog
from datamodules.faults import Fault
from datamodules.paired import Split
from datamodules.rows import PairedRows

COMPARED: tuple[Split, ...] = ("train", "val", "test")  # what is predicted may well have been trained on
IN_TWO_SPLITS = "in two splits"
NEVER_SEEN = "class never seen in training"
Keys = tuple[NDArray[np.int64], NDArray[np.bytes_]]  # positions in a source, and a hash for each


class ContentKeys:
    """Hashes of inputs, by modality and split."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, Split], list[Keys]] = {}

    def add(self, modality: str, split: Split, positions: NDArray[np.int64], keys: NDArray[np.bytes_]) -> None:
        """Take those of some inputs; a hash of zeros is none."""
        there = keys != b""
        if there.any():
            self._parts.setdefault((modality, split), []).append((positions[there], keys[there]))

    def compare(self, rows: Mapping[Split, PairedRows], log: FaultLog) -> None:
        """Tell of each row whose input is in an earlier split, too."""
        for modality in dict.fromkeys(modality for modality, _ in self._parts):
            keys = {split: self._joined(modality, split) for split in COMPARED if (modality, split) in self._parts}
            for later in keys:
                for earlier in COMPARED[: COMPARED.index(later)]:
                    if earlier in keys and (twin := _twins(keys[earlier], keys[later])):
                        _tell_of_twins(modality, twin, earlier, later, rows, log)

    def _joined(self, modality: str, split: Split) -> Keys:
        positions, keys = zip(*self._parts[modality, split], strict=True)
        return np.concatenate(positions), np.concatenate(keys)


def _twins(earlier: Keys, later: Keys) -> dict[int, int]:
    """Return positions of the later split's inputs, and for each that of the same input in the earlier one."""
    order = np.argsort(earlier[1], kind="stable")
    near = order[np.searchsorted(earlier[1], later[1], sorter=order).clip(max=len(order) - 1)]
    same = earlier[1][near] == later[1]
    return dict(zip(later[0][same].tolist(), earlier[0][near[same]].tolist(), strict=True))


def _tell_of_twins(
    modality: str, twin: dict[int, int], earlier: Split, later: Split, rows: Mapping[Split, PairedRows], log: FaultLog
) -> None:
    ours, theirs = rows[later], rows[earlier]
    positions, first = np.unique(theirs.index[modality], return_index=True)
    first_row = dict(zip(positions.tolist(), first.tolist(), strict=True))
    index_R, source = ours.index[modality], ours.sources[modality]

    def fault(row: int) -> Fault:
        position = int(index_R[row])
        cause = f"the {earlier} split has the same content in row {theirs.place(int(first_row[twin[position]]))}"
        column = source.fault(position, ValueError()).column or modality
        return Fault(IN_TWO_SPLITS, cause, ours.place(int(row)), column, source.name(position), later)

    shared = np.flatnonzero(np.isin(index_R, list(twin)) & ~log.has(IN_TWO_SPLITS, later))
    log.add(IN_TWO_SPLITS, later, shared, fault, stops=False)
    log.count_inputs(IN_TWO_SPLITS, len(twin))


def count_classes(
    rows: Mapping[Split, PairedRows], log: FaultLog, outputs: Mapping[str, list[str]]
) -> dict[str, dict[str, dict[Split, int]]]:
    """Return, by task, class (or label) and split, the usable rows that have it; quantities have none."""
    counts: dict[str, dict[str, dict[Split, int]]] = {}
    for split, its in rows.items():
        usable_R = ~log.faulty(split, stopping=True)
        for task, targets in its.targets.items():
            names = outputs.get(task, [])
            found = _count(targets.numpy()[usable_R], len(names))
            for name, number in zip(names, found, strict=True) if found is not None else ():
                counts.setdefault(task, {}).setdefault(name, {})[split] = number
    return counts


def _count(values: NDArray[Any], num_outputs: int) -> list[int] | None:
    """Count the rows of each class, or with each label; None of quantities."""
    if values.dtype.kind == "f":
        return None
    if values.ndim == 1:
        counts: list[int] = np.bincount(values[(values >= 0) & (values < num_outputs)], minlength=num_outputs).tolist()
        return counts
    on: list[int] = (values == 1).sum(0).tolist()
    return on if len(on) == num_outputs and ((values == 0) | (values == 1)).all() else None


def look_for_classes(rows: Mapping[Split, PairedRows], log: FaultLog, outputs: Mapping[str, list[str]]) -> None:
    """Tell of classes of which nothing can be learned: by each row that has one, or by the class if none has."""
    if "train" not in rows:
        return
    for task, counts in count_classes(rows, log, outputs).items():
        for number, (name, by_split) in enumerate(counts.items()):
            if by_split["train"]:
                continue
            told = Fault(NEVER_SEEN, "no row that can be trained on has it", "", task, name)
            if not any(by_split.values()):
                log.add_whole(told, stops=False)
            for split in (split for split, count in by_split.items() if count):
                _tell_of_class(told, number, split, rows[split], log)


def _tell_of_class(told: Fault, number: int, split: Split, rows: PairedRows, log: FaultLog) -> None:
    values = rows.targets[told.column].numpy()
    has_R = values == number if values.ndim == 1 else values[:, number] == 1
    found = np.flatnonzero(has_R & ~log.faulty(split, stopping=True))

    def fault(row: int) -> Fault:
        return Fault(told.kind, told.cause, rows.place(int(row)), told.column, told.value, split)

    log.add(NEVER_SEEN, split, found, fault, stops=False)
