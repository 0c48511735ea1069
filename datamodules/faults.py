"""What is wrong with a row, and the rows that are left out because of it. Imports nothing heavy."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

SHOWN_CHARACTERS = 80
WHAT_TO_DO = (
    "\n  `crossmodal data check` lists every such row; data.init_args.on_error: quarantine leaves them out, and goes on"
)


class InputError(ValueError):
    """An input cannot be used.

    Args:
        kind: One of a few words, by which faults are counted, such as `missing file`.
        cause: What is wrong, in words.
    """

    def __init__(self, kind: str, cause: str) -> None:
        super().__init__(cause)
        self.kind = kind

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str]]:
        return InputError, (self.kind, str(self))


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with one row.

    Args:
        kind: By which faults are counted, such as `missing file`.
        cause: What is wrong, in words.
        row: The row's name.
        column: Where in the row; empty where it is the whole row.
        value: What stands there: a path, or the beginning of a cell.
        split: Of the row, where it is known.
    """

    kind: str
    cause: str
    row: str = ""
    column: str = ""
    value: str = ""
    split: str = ""

    def __str__(self) -> str:
        column = f"column {self.column!r}" if self.column else ""
        place = ", ".join(part for part in (self.row, column) if part)
        return ": ".join(part for part in (place, self.value, self.cause) if part)


def shown(value: object) -> str:
    """Return the beginning of a cell on one line, for a message."""
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in str(value)[: SHOWN_CHARACTERS + 1])
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


class FaultyRowsError(ValueError):
    """Rows that cannot be used, where that stops the run.

    Args:
        faults: All that is known of, at least one.
    """

    def __init__(self, faults: list[Fault]) -> None:
        more = f" (and {len(faults) - 1:,} more)" if faults[1:] else ""
        super().__init__(f"{faults[0]}{more}{WHAT_TO_DO}")
        self.faults = faults


class Quarantine:
    """The rows that are left out, each counted once, and listed in a file.

    Args:
        limit: Stop where more than this share of a split's rows is left out.
        say: Told of the first row.

    Raises:
        ValueError: The limit is no share.
    """

    def __init__(self, *, limit: float, say: Callable[[str], None] = print) -> None:
        if not 0 <= limit <= 1:
            raise ValueError(f"max_quarantined is a share of the rows, 0 to 1, not {limit}")
        self.limit = limit
        self.say = say
        self.file: Path | None = None
        self._faults: dict[tuple[str, str], Fault] = {}
        self._num_rows: dict[str, int] = {}
        self._written: set[tuple[str, str]] = set()

    def add(self, faults: Iterable[Fault], *, split: str, num_rows: int) -> None:
        """Leave rows out.

        Raises:
            ValueError: That makes too many.
        """
        self._num_rows[split] = max(num_rows, self._num_rows.get(split, 0))  # what is left has fewer
        new = [replace(fault, split=split) for fault in faults if (split, fault.row) not in self._faults]
        if not new:
            return
        if not self._faults:
            self.say(f"quarantined: {new[0]}; further rows are listed in {self.file or 'quarantine.jsonl'}")
        for fault in new:
            self._faults.setdefault((split, fault.row), fault)
        self._write()
        count, num_rows = self.count(split), self._num_rows[split]
        if count > allowed(self.limit, num_rows):
            first = next(fault for (of, _), fault in self._faults.items() if of == split)
            raise ValueError(
                f"{count:,} of the {num_rows:,} rows of the {split} split cannot be used, more than "
                f"data.init_args.max_quarantined ({self.limit:g}) allows; the first: {first} "
                "(`crossmodal data check` lists them all)"
            )

    @property
    def counts(self) -> dict[str, int]:
        """How many rows of each split are left out, by `quarantined/SPLIT`."""
        return {f"quarantined/{split}": self.count(split) for split in dict.fromkeys(of for of, _ in self._faults)}

    def count(self, split: str) -> int:
        """Return how many rows of a split are left out."""
        return sum(of == split for of, _ in self._faults)

    def list_in(self, file: Path, *, goes_on: bool = False) -> None:
        """Write what there is and what will come to this file, one JSON object a line.

        Args:
            file: May have rows already, which are not listed again.
            goes_on: They count here, too: a run goes on.
        """
        self.file = file
        for fault in _listed(file):
            key = (fault.split, fault.row)
            self._written.add(key)
            if goes_on:
                self._faults.setdefault(key, fault)
        self._write()

    def list_anew(self) -> None:
        """Forget what an earlier process listed."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)
            self._written.clear()
            self._write()

    def _write(self) -> None:
        if self.file is None:
            return
        if missing := [key for key in self._faults if key not in self._written]:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a") as stream:
                stream.writelines(json.dumps(asdict(self._faults[key])) + "\n" for key in missing)
            self._written.update(missing)


def allowed(limit: float, num_rows: int) -> int:
    """Return how many of some rows a share of them is; one is not too many, unless none may be left out."""
    return max(math.floor(limit * num_rows + 1e-9), int(limit > 0))


def _listed(file: Path) -> list[Fault]:
    """Read what an earlier process listed; a last line that it could not finish is cut off."""
    if not file.exists():
        return []
    *whole, _rest = file.read_text().split("\n")
    if _rest:
        os.truncate(file, sum(len(line.encode()) + 1 for line in whole))
    try:
        return [Fault(**json.loads(line)) for line in whole]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: is no list of rows that were left out; remove it: {error}") from None
