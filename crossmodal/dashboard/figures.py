"""A run's `metrics.csv`, read on from where one was."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

Row = tuple[int, dict[str, float]]


class Figures:
    """The rows of `metrics.csv` until now: `rows`, each one's step and figures.

    `not_finite` has, of figures that were not at some time, the first step and value, as it was written.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.not_finite: dict[str, tuple[int, str]] = {}
        self._header: list[str] = []
        self._file = (0, 0)  # device and inode: who adds a column writes another file
        self._offset = 0

    def read(self, path: Path) -> int | None:
        """Read what is new; a last row that is not written to its end is left for later.

        Returns:
            How many rows were known before; None if these are not those that are there now.
        """
        known, number = self.rows, len(self.rows)
        try:
            with path.open("rb") as file:
                told = os.fstat(file.fileno())
                is_same = (told.st_dev, told.st_ino) == self._file and told.st_size >= self._offset
                if not is_same:
                    self.rows, self._header, self._offset = [], [], 0
                    self._file = (told.st_dev, told.st_ino)
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return number
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._parse(whole.decode("utf-8", errors="replace").replace("\0", ""))
        return number if is_same or self.rows[:number] == known else None

    def _parse(self, text: str) -> None:
        lines = csv.reader(text.splitlines())
        if not self._header:
            self._header = next(lines, [])
        for cells in lines:
            found: dict[str, float] = {}
            odd: dict[str, str] = {}
            for name, cell in zip(self._header, cells, strict=False):
                try:
                    value = float(cell)
                except ValueError:
                    continue
                if math.isfinite(value):
                    found[name] = value
                else:
                    odd[name] = cell
            step = found.pop("step", None)
            if step is not None:
                found.pop("epoch", None)
                self.rows.append((int(step), found))
                for name, cell in odd.items():
                    self.not_finite.setdefault(name, (int(step), cell))
