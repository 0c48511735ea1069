"""What a check of the data found: as JSON, and in a terminal.

The keys of check.json:
    experiment, seconds, workers, inputs (distinct ones), inputs_per_second
    rows, faulty_rows, unusable_rows (lines that could not become rows are among all three)
    faults       {kind: {rows, of_no_row (but of a whole split or class), inputs, stops_training,
                  listed: [{split, row, column, value, cause}, …]}}
    splits       {split: {rows, usable}}
    classes      {task: {class: {split: rows}}}, of usable rows
    presence     {split: [{modalities: […], rows}, …]}, of usable rows
    sizes        {modality: {size: {count, min, median, max}}}, of inputs that can be loaded
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossmodal.console import is_terminal
from datamodules.checking import DataCheck
from datamodules.faults import Fault, allowed, shown

FIRST_ROWS = 3  # that the terminal shows of each kind of fault
TOP_CLASSES = 20
DEFAULT_LIMIT = 0.05  # of `max_quarantined`
IN_TWO_SPLITS = "in two splits"
NOT_LEFT_OUT = {"unexpected error", "unusable split", "wrong target"}  # by `on_error: quarantine`


def figures_of(check: DataCheck, *, experiment: str, seconds: float, workers: int) -> dict[str, Any]:
    """Return all that was found, as JSON.

    Args:
        check: After its `read`.
        experiment: Its name.
        seconds: That it took.
        workers: Processes that read.
    """
    splits = {
        split: {"rows": len(rows) + check.log.num_lines(split), "usable": len(check.usable(split))}
        for split, rows in check.rows.items()
    }
    return {
        "experiment": experiment,
        "seconds": round(seconds, 3),
        "workers": workers,
        "inputs": check.num_read,
        "inputs_per_second": round(check.num_read / seconds, 1) if seconds > 0 else 0.0,
        "rows": sum(split["rows"] for split in splits.values()),
        "faulty_rows": check.log.num_faulty_rows(),
        "unusable_rows": sum(split["rows"] - split["usable"] for split in splits.values()),
        "faults": faults_of(check),
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


def faults_of(check: DataCheck) -> dict[str, Any]:
    """Return what is wrong by kind, as JSON, most frequent first; of a check that was interrupted what it found."""
    return {
        kind: {
            "rows": found.rows,
            "of_no_row": found.of_no_row,
            "inputs": found.inputs,
            "stops_training": found.stops,
            "listed": [_as_json(fault) for fault in found.faults],
        }
        for kind, found in check.log.by_frequency()
    }


def _as_json(fault: Fault) -> dict[str, str]:
    return {key: getattr(fault, key) for key in ("split", "row", "column", "value", "cause")}


def verdict(figures: dict[str, Any]) -> str:
    """Say in words how many rows are how bad."""
    rows = f"{figures['rows']:,} row{'s' if figures['rows'] != 1 else ''}"
    if not figures["faults"]:
        return f"no faults in {rows}"
    of_no_row = sum(of["of_no_row"] for of in figures["faults"].values())
    counts = {
        "cannot be used": figures["unusable_rows"],
        "can be used, with a remark": figures["faulty_rows"] - figures["unusable_rows"],
        f"fault{'s' if of_no_row != 1 else ''} of no row, but of a whole split or class": of_no_row,
    }
    return f"{rows}: " + "; ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def print_report(figures: dict[str, Any]) -> None:
    """Print what is wrong, most frequent first, and then what there is."""
    tables = [_splits(figures), _combinations(figures)]
    tables += [_classes(task, classes, list(figures["splits"])) for task, classes in figures["classes"].items()]
    print_faults(figures["faults"])
    _print([*tables, _sizes(figures["sizes"])])


def print_faults(faults: dict[str, Any]) -> None:
    """Print what is wrong, as `faults_of` gives it."""
    _print([_faults(faults)])


def _print(tables: Iterable[Table | None]) -> None:
    # tables are as wide as they need to be where they are not read in a terminal
    console = Console(highlight=False) if is_terminal() else Console(highlight=False, width=10_000)
    for table in tables:
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
        shares = {split: 1 - one["usable"] / one["rows"] for split, one in figures["splits"].items() if one["rows"]}
        split, share = max(shares.items(), key=lambda pair: pair[1])
        unusable = figures["unusable_rows"]
        those = f"these {unusable:,} rows" if unusable != 1 else "this row"
        quarantine = f"on_error: quarantine goes on without {those} ({share:.1%} of {split})"
        limit = DEFAULT_LIMIT if limit is None else limit
        too_many = any(one["rows"] - one["usable"] > allowed(limit, one["rows"]) for one in figures["splits"].values())
        said.append(f"{quarantine}, with max_quarantined: {math.ceil(100 * share) / 100:g}" if too_many else quarantine)
    return said


def _faults(kinds: dict[str, Any]) -> Table:
    table = _table("fault", "rows", "usable", "first rows")
    for kind, found in kinds.items():
        lines = [_line(fault) for fault in found["listed"][:FIRST_ROWS]]
        if (more := max(found["rows"] + found["of_no_row"], len(found["listed"])) - len(lines)) > 0:
            lines.append(f"and {more:,} more")
        name = Text(kind, style="red" if found["stops_training"] else "yellow")
        usable = "no" if found["stops_training"] else "yes"
        table.add_row(name, f"{found['rows']:,}", usable, Text("\n".join(lines)))
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
        table.add_row(Text(shown(name)), *(f"{by_split[split]:,}" if split in by_split else "" for split in splits))
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
