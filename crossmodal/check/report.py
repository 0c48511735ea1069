"""What a check of the data found: as JSON, and in a terminal.

The keys of check.json:
    experiment, complete (false if it was interrupted), seconds, workers, inputs (distinct ones), inputs_per_second
    rows, faulty_rows (lines that could not become rows are among both)
    faults       {kind: {rows, inputs, stops_training, listed: [{split, row, column, value, cause}, …]}}
    splits       {split: {rows, usable}}
    classes      {task: {class: {split: rows}}}, of usable rows
    presence     {split: [{modalities: […], rows}, …]}, of usable rows
    sizes        {modality: {size: {count, min, median, max}}}, of inputs that can be loaded
"""

from __future__ import annotations

import math
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossmodal.console import is_terminal
from datamodules.checking import DataCheck
from datamodules.faults import Fault, allowed

FIRST_ROWS = 3  # that the terminal shows of each kind of fault
TOP_CLASSES = 20
DEFAULT_LIMIT = 0.05  # of `max_quarantined`
IN_TWO_SPLITS = "in two splits"
NOT_LEFT_OUT = {"unexpected error", "unusable split", "wrong target"}  # by `on_error: quarantine`


def figures_of(
    check: DataCheck, *, experiment: str, read: int, seconds: float, workers: int, complete: bool
) -> dict[str, Any]:
    """Return all that was found, as JSON.

    Args:
        check: After its `read`.
        experiment: Its name.
        read: Inputs that were read.
        seconds: That it took.
        workers: Processes that read.
        complete: Whether all was read.
    """
    splits = {
        split: {"rows": len(rows) + check.log.num_lines(split), "usable": len(check.usable(split))}
        for split, rows in check.rows.items()
    }
    return {
        "experiment": experiment,
        "complete": complete,
        "seconds": round(seconds, 3),
        "workers": workers,
        "inputs": read,
        "inputs_per_second": round(read / seconds, 1) if seconds > 0 else 0.0,
        "rows": sum(split["rows"] for split in splits.values()),
        "faulty_rows": check.log.num_faulty_rows(),
        "faults": {
            kind: {
                "rows": found.rows,
                "inputs": found.inputs,
                "stops_training": found.stops,
                "listed": [_as_json(fault) for fault in found.faults],
            }
            for kind, found in check.log.by_frequency()
        },
        "splits": splits,
        "classes": check.class_counts(),
        "presence": {
            split: [
                {"modalities": list(modalities), "rows": number} for modalities, number in check.presence(split).items()
            ]
            for split in check.rows
        },
        "sizes": {modality: sizes.summary() for modality, sizes in check.sizes.items()},
    }


def _as_json(fault: Fault) -> dict[str, str]:
    return {key: getattr(fault, key) for key in ("split", "row", "column", "value", "cause")}


def print_report(figures: dict[str, Any]) -> None:
    """Print what is wrong, most frequent first, and then what there is."""
    # tables are as wide as they need to be where they are not read in a terminal
    console = Console(highlight=False) if is_terminal() else Console(highlight=False, width=10_000)
    if figures["faults"]:
        console.print(_faults(figures["faults"]), "")
    tables = [_splits(figures), _combinations(figures)]
    tables += [_classes(task, classes, list(figures["splits"])) for task, classes in figures["classes"].items()]
    for table in [*tables, _sizes(figures["sizes"])]:
        if table is not None and table.row_count:
            console.print(table, "")


def hints(figures: dict[str, Any], *, can_leave_out: bool, limit: float | None) -> list[str]:
    """Say what can be done, in a line for each.

    Args:
        figures: Of the check.
        can_leave_out: Whether the data has `on_error` and `split`.
        limit: The share of rows that may be left out, where quarantine is chosen.
    """
    faults, train = figures["faults"], figures["splits"].get("train")
    said = []
    if can_leave_out and IN_TWO_SPLITS in faults:
        columns = sorted({one["column"] for one in faults[IN_TWO_SPLITS]["listed"]})
        said.append(f"in two splits: `split: {{group_by: {columns[0]}}}` draws rows that share it into the same one")
    stopping = {kind for kind, found in faults.items() if found["stops_training"]}
    if can_leave_out and stopping and not stopping & NOT_LEFT_OUT and train is not None:
        unusable = sum(one["rows"] - one["usable"] for one in figures["splits"].values())
        shares = {split: 1 - one["usable"] / one["rows"] for split, one in figures["splits"].items() if one["rows"]}
        split, share = max(shares.items(), key=lambda pair: pair[1])
        quarantine = f"on_error: quarantine goes on without these {unusable:,} rows ({share:.1%} of {split})"
        limit = DEFAULT_LIMIT if limit is None else limit
        too_many = any(one["rows"] - one["usable"] > allowed(limit, one["rows"]) for one in figures["splits"].values())
        said.append(f"{quarantine}, with max_quarantined: {math.ceil(100 * share) / 100:g}" if too_many else quarantine)
    return said


def _faults(kinds: dict[str, Any]) -> Table:
    table = _table("fault", "rows", "first rows")
    for kind, found in kinds.items():
        lines = [_line(fault) for fault in found["listed"][:FIRST_ROWS]]
        if (more := max(found["rows"], len(found["listed"])) - len(lines)) > 0:
            lines.append(f"and {more:,} more")
        name = Text(kind, style="red" if found["stops_training"] else "yellow")
        table.add_row(name, f"{found['rows']:,}", Text("\n".join(lines)))
    return table


def _line(listed: dict[str, str]) -> str:
    return str(Fault("", listed["cause"], listed["row"] or listed["split"], listed["column"], listed["value"]))


def _splits(figures: dict[str, Any]) -> Table:
    modalities = list(figures["sizes"])
    table = _table("split", "rows", "usable", *modalities)
    for split, counts in figures["splits"].items():
        having = [
            sum(one["rows"] for one in figures["presence"][split] if modality in one["modalities"])
            for modality in modalities
        ]
        shares = [f"{count:,} ({count / max(1, counts['usable']):.0%})" for count in having]
        table.add_row(split, f"{counts['rows']:,}", f"{counts['usable']:,}", *shares)
    return table


def combinations(figures: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return, for each combination of modalities, how many rows of which split have just these."""
    found: dict[str, dict[str, int]] = {}
    for split, combined in figures["presence"].items():
        for one in combined:
            found.setdefault(" + ".join(one["modalities"]) or "none", {})[split] = one["rows"]
    return found


def _combinations(figures: dict[str, Any]) -> Table | None:
    found = combinations(figures)
    table = _table("rows with", *figures["splits"])
    for name, by_split in found.items():
        table.add_row(Text(name), *(f"{by_split.get(split, 0):,}" for split in figures["splits"]))
    return table if len(found) > 1 else None


def _classes(task: str, classes: dict[str, dict[str, int]], splits: list[str]) -> Table:
    table = _table(task, *splits)
    ordered = sorted(classes.items(), key=lambda item: -sum(item[1].values()))
    for name, by_split in ordered[:TOP_CLASSES]:
        table.add_row(Text(name), *(f"{by_split[split]:,}" if split in by_split else "" for split in splits))
    if len(ordered) > TOP_CLASSES:
        table.add_row(f"and {len(ordered) - TOP_CLASSES:,} more")
    return table


def _sizes(sizes: dict[str, dict[str, dict[str, float]]]) -> Table:
    table = _table("inputs", "", "least", "median", "most")
    for modality, measures in sizes.items():
        for name, of in measures.items():
            table.add_row(Text(modality), name, *(f"{of[key]:,.10g}" for key in ("min", "median", "max")))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(Text(first), overflow="fold")
    for name in others:
        is_text = name in ("first rows", "")
        table.add_column(Text(name), justify="left" if is_text else "right", overflow="fold")
    return table
