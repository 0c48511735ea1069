"""A run's figures over time, as `metrics.csv` has them."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """What was logged at a step.

    Args:
        step: Of training.
        epoch: From 0; None where it was not told.
        figures: By their names.
    """

    step: int
    epoch: int | None
    figures: dict[str, float]


# by figure its steps and values, in order
History = dict[str, list[tuple[int, float]]]


class MetricsFile:
    """What was logged until now, read on from where one was.

    `rows` has NaN and infinite figures, too; a row that is not written to its end is
    left for later, as are cells that are no numbers. `not_finite` has, of figures that were not at some time, the first
    step and value, as text.

    Args:
        path: Of `metrics.csv`, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[Row] = []
        self.not_finite: dict[str, tuple[int, str]] = {}
        self._file = (0, 0)  # device and inode: who adds a column writes another file
        self._offset = 0
        self._header = b""

    def read(self) -> int | None:
        """Read what is new.

        Returns:
            How many rows were known before; None if these are not those that are there now.
        """
        known, number = self.rows, len(self.rows)
        try:
            with self.path.open("rb") as file:
                told = os.fstat(file.fileno())
                is_same = (told.st_dev, told.st_ino) == self._file and told.st_size >= self._offset
                is_same = is_same and file.readline() == self._header  # an inode may be given to another file
                if not is_same:
                    self.rows, self.not_finite, self._header, self._offset = [], {}, b"", 0
                    self._file = (told.st_dev, told.st_ino)
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return number
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        if not self._header:
            self._header, end, whole = whole.partition(b"\n")
            self._header += end
        self._parse(_text(self._header), _text(whole))
        same = is_same or repr(self.rows[:number]) == repr(known)  # as texts, of which NaN is like NaN
        return number if same else None

    def _parse(self, header: str, text: str) -> None:
        names = next(csv.reader([header]), [])
        for cells in csv.reader(text.splitlines()):
            found: dict[str, float] = {}
            for name, cell in zip(names, cells, strict=False):
                try:
                    found[name] = float(cell)
                except ValueError:
                    continue
            step = found.pop("step", math.nan)
            if not math.isfinite(step):
                continue
            epoch = found.pop("epoch", math.nan)
            self.rows.append(Row(int(step), int(epoch) if math.isfinite(epoch) else None, found))
            for name, value in found.items():
                if not math.isfinite(value):
                    self.not_finite.setdefault(name, (int(step), str(value)))


def read_history(path: Path) -> History:
    """Return what was logged of each figure, but for values that are not finite.

    Args:
        path: Of `metrics.csv`; a run that has none has no history.
    """
    file = MetricsFile(path)
    file.read()
    found: History = {}
    for step, _, figures in file.rows:
        for name, value in figures.items():
            if math.isfinite(value):
                found.setdefault(name, []).append((step, value))
    return found


def _text(content: bytes) -> str:
    return content.decode("utf-8", errors="replace").replace("\0", "")
