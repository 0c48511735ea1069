"""The faults of many rows: all are counted, the first are listed.

Legend: R rows of a split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from datamodules.faults import Fault

LISTED = 100_000  # faults that are kept, whatever their kind
LISTED_OF_EACH = 20  # that are kept of each kind in any case


@dataclass
class FaultKind:
    """What is known of one kind of fault.

    Args:
        stops: Whether training cannot use such a row; else it goes on, with less than there is.
        inputs: Distinct inputs that have it.
        of_no_row: Splits and classes that have it as a whole.
        faults: The first ones.
    """

    stops: bool
    inputs: int = 0
    of_no_row: int = 0
    faults: list[Fault] = field(default_factory=list)
    _lines: dict[str, int] = field(default_factory=dict)
    _rows: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows have it, each counted once."""
        return sum(self._lines.values()) + sum(int(flags_R.sum()) for flags_R in self._rows.values())


class FaultLog:
    """Takes faults.

    Args:
        listed: How many are kept.
    """

    def __init__(self, *, listed: int = LISTED) -> None:
        self.kinds: dict[str, FaultKind] = {}
        self._room = listed
        self._num_rows: dict[str, int] = {}

    def begin(self, split: str, num_rows: int) -> None:
        """Let a split have R rows."""
        self._num_rows[split] = num_rows

    def add(
        self, kind: str, split: str, rows: NDArray[np.int64], fault: Callable[[int], Fault], *, stops: bool = True
    ) -> None:
        """Count rows of a split, and list those of them for which there is room.

        Args:
            kind: Of all these faults.
            split: Which the rows are of.
            rows: By their place in the split.
            fault: Gives that of a row.
            stops: Whether training cannot use the rows.
        """
        found = self._kind(kind, stops)
        flags_R = found._rows.setdefault(split, np.zeros(self._num_rows[split], bool))
        flags_R[rows] = True
        for row in rows[: self._room_for(found)].tolist():
            self._list(found, fault(row))

    def add_line(self, fault: Fault) -> None:
        """Take what is wrong with a line that has not become a row."""
        found = self._kind(fault.kind, stops=True)
        found._lines[fault.split] = found._lines.get(fault.split, 0) + 1
        self._list(found, fault)

    def add_whole(self, fault: Fault, *, stops: bool = True) -> None:
        """Take what is wrong with a whole split or class: it is of no row."""
        found = self._kind(fault.kind, stops)
        found.of_no_row += 1
        self._list(found, fault)

    def num_lines(self, split: str) -> int:
        """Return how many lines of a split have not become rows."""
        return sum(kind._lines.get(split, 0) for kind in self.kinds.values())

    def count_inputs(self, kind: str, number: int) -> None:
        """Count distinct inputs."""
        self.kinds[kind].inputs += number

    def has(self, kind: str, split: str) -> NDArray[np.bool_]:
        """Return which of a split's R rows have this kind of fault."""
        none_R = np.zeros(self._num_rows[split], bool)
        return self.kinds[kind]._rows.get(split, none_R) if kind in self.kinds else none_R

    def faulty(self, split: str, *, stopping: bool = False) -> NDArray[np.bool_]:
        """Return which of a split's R rows have a fault, or one with which training cannot use them."""
        flags_R = np.zeros(self._num_rows[split], bool)
        for kind in self.kinds.values():
            if split in kind._rows and (kind.stops or not stopping):
                flags_R |= kind._rows[split]
        return flags_R

    def by_frequency(self) -> list[tuple[str, FaultKind]]:
        """Return the kinds, those of most rows first."""
        return sorted(self.kinds.items(), key=lambda item: (-item[1].rows, item[0]))

    def num_faulty_rows(self) -> int:
        """Return how many rows have a fault; lines that are no rows count."""
        return sum(self.num_lines(split) + int(self.faulty(split).sum()) for split in self._num_rows)

    def _kind(self, kind: str, stops: bool) -> FaultKind:
        found = self.kinds.setdefault(kind, FaultKind(stops))
        found.stops |= stops
        return found

    def _room_for(self, found: FaultKind) -> int:
        return max(0, self._room, LISTED_OF_EACH - len(found.faults))

    def _list(self, found: FaultKind, fault: Fault) -> None:
        if self._room_for(found):
            found.faults.append(fault)
            self._room -= 1
