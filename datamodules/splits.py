"""Which rows of a table make which split.

Legend: R rows of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datamodules.columns import as_name, coded, is_empty
from datamodules.faults import Fault, shown
from datamodules.tables import Table

Name = Literal["train", "val", "test", "predict"]
SPLITS: tuple[Name, ...] = ("train", "val", "test", "predict")
ALSO_CALLED: dict[str, Name] = {
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}


@dataclass
class Split:
    """How the rows of one file are split: by a column, or by chance.

    Args:
        column: Says `train`, `val` (or valid, validation, dev), `test` or `predict`.
        val: Share of the rows to validate on.
        test: Share of the rows to test on.
        group_by: Rows that have the same value in this column go to the same split.
        stratify: Each split gets the same share of each value of this column, as nearly as rows or groups allow.
    """

    column: str | None = None
    val: float = 0.0
    test: float = 0.0
    group_by: str | None = None
    stratify: str | None = None

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            ValueError: The message names the keys.
        """
        if self.column is not None and (self.val or self.test or self.group_by or self.stratify):
            raise ValueError("give either `column`, or the shares `val` and `test`")
        if self.val < 0 or self.test < 0 or self.val + self.test >= 1:
            raise ValueError(f"`val` ({self.val:g}) and `test` ({self.test:g}) are shares, together below 1")
        if (self.group_by or self.stratify) and not (self.val or self.test):
            raise ValueError("`group_by` and `stratify` need the shares `val` and `test`")

    @property
    def names(self) -> list[str]:
        """All columns that it takes."""
        return [name for name in (self.column, self.group_by, self.stratify) if name is not None]


def split_rows(table: Table, split: Split, seed: int) -> tuple[dict[Name, NDArray[np.int64]], list[Fault]]:
    """Return each split's rows, in order, and what is wrong with rows that belong to none."""
    if split.column is not None:
        return _by_column(table, split.column)
    everything = np.arange(len(table))
    if not (split.val or split.test):
        return {"train": everything}, []
    groups_R: NDArray[np.integer[Any]] = everything
    if split.group_by is not None:
        groups_R, cells = coded(table, split.group_by)
        without_R = np.append(np.fromiter(map(is_empty, cells), bool, len(cells)), True)[groups_R]
        groups_R[without_R] = len(cells) + np.arange(int(without_R.sum()))  # each a group of its own
    strata_R = np.zeros(len(table), np.int8) if split.stratify is None else coded(table, split.stratify)[0] + 1
    drawn_R = _drawn(groups_R, strata_R, {"val": split.val, "test": split.test}, seed)
    rows = {name: np.flatnonzero(drawn_R == number) for number, name in enumerate(SPLITS[:3])}
    for name, share in (("train", 1.0), ("val", split.val), ("test", split.test)):
        if share and not len(rows[name]):  # type: ignore[index]
            raise ValueError(
                f"{table.name}: data.init_args.split leaves no row for {name}: there are too few rows or groups"
            )
    return {name: chosen for name, chosen in rows.items() if len(chosen)}, []


def _by_column(table: Table, column: str) -> tuple[dict[Name, NDArray[np.int64]], list[Fault]]:
    codes_R, cells = coded(table, column)
    cells.append(None)  # which the code -1 finds
    names = ["" if is_empty(cell) else as_name(cell).strip().lower() for cell in cells]
    number_of = {name: number for number, name in enumerate(SPLITS)} | {
        name: SPLITS.index(known) for name, known in ALSO_CALLED.items()
    }
    split_R = np.array([number_of.get(name, -1) for name in names], np.int8)[codes_R]
    cause = f"is none of {', '.join(SPLITS)}"
    faults = [
        Fault("unknown split", cause, table.row_name(row), column, shown(cells[codes_R[row]] or "nothing"))
        for row in np.flatnonzero(split_R < 0).tolist()
    ]
    rows = {name: np.flatnonzero(split_R == number) for number, name in enumerate(SPLITS)}
    return {name: chosen for name, chosen in rows.items() if len(chosen)}, faults


def _drawn(
    groups_R: NDArray[np.integer[Any]], strata_R: NDArray[np.integer[Any]], shares: dict[str, float], seed: int
) -> NDArray[np.int64]:
    """Draw a split for each row: 0, or the number of the share that it belongs to."""
    groups, first, group_R = np.unique(groups_R, return_index=True, return_inverse=True)
    sizes_G = np.bincount(group_R, minlength=len(groups))
    stratum_G = strata_R[first]  # of a group whose rows differ, its first row's
    draw_G = np.random.default_rng(seed).permutation(len(groups))
    order = draw_G[np.argsort(stratum_G[draw_G], kind="stable")]
    split_G = np.zeros(len(groups), np.int64)
    bounds = np.flatnonzero(np.diff(stratum_G[order], prepend=-1, append=-1))
    owed = dict.fromkeys(shares, 0.0)  # what rounding withheld from a split in earlier strata, it gets in later ones
    for begin, end in pairwise(bounds):
        left = order[begin:end]
        total = int(sizes_G[left].sum())
        for number, (name, share) in enumerate(shares.items(), start=1):
            wanted = share * total + owed[name]
            taken = _taken(sizes_G[left], wanted)
            split_G[left[taken]] = number
            owed[name] = wanted - int(sizes_G[left[taken]].sum())
            left = left[~taken]
    for number, share in enumerate(shares.values(), start=1):
        left = np.flatnonzero(split_G == 0)
        if share and len(left) > 1 and not (split_G == number).any():  # groups are few: it gets the smallest
            split_G[left[np.argmin(sizes_G[left])]] = number
    split_R: NDArray[np.int64] = split_G[group_R]
    return split_R


def _taken(sizes_G: NDArray[np.int64], wanted: float) -> NDArray[np.bool_]:
    """Take groups in order, each if that brings their rows nearer to those that are wanted."""
    taken = np.zeros(len(sizes_G), bool)
    if (sizes_G == 1).all():
        taken[: max(0, round(wanted))] = True
        return taken
    rows = 0
    for place, size in enumerate(sizes_G.tolist()):
        if rows + size / 2 < wanted:
            taken[place] = True
            rows += size
    return taken
