"""What is wrong with the rows that `crossmodal init` has looked at. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from crossmodal.init.columns import Column
from crossmodal.init.proposal import Proposal
from crossmodal.init.sampling import SPLITS, Sample
from datamodules.columns import as_name, is_empty
from datamodules.faults import Fault, shown


def find_faults(sample: Sample, proposal: Proposal) -> list[Fault]:
    """Return what is wrong with rows that cannot be used, one fault a row."""
    first: dict[int, Fault] = {}
    for place, cause, column, value in _wrong_cells(sample, proposal):
        row = sample.names[place] if sample.names else ""
        first.setdefault(place, Fault("not usable", cause, row, column.name, value))
    return [*sample.faults, *(first[place] for place in sorted(first))]


def _wrong_cells(sample: Sample, proposal: Proposal) -> Iterator[tuple[int, str, Column, str]]:
    for target in proposal.targets:
        for place, cell in enumerate(sample.cells[target.column.name]):
            if is_empty(cell) and target.type != "labels":  # there an empty cell says that there are none
                yield place, f"has no {target.type}", target.column, ""
    if split := proposal.split:
        for place, cell in enumerate(sample.cells[split.name]):
            if is_empty(cell) or as_name(cell).lower() not in SPLITS:
                yield place, "is none of train, val, test, predict", split, shown(cell or "nothing")
    for modality in proposal.modalities:
        for column in modality.columns:
            yield from ((place, cause, column, "") for place, cause in column.wrong.items())


def in_words(faults: Iterable[Fault]) -> list[str]:
    """Return a line for each column: the first of its faults, and how many more there are."""
    by_column: dict[str, list[Fault]] = {}
    for fault in faults:
        by_column.setdefault(fault.column, []).append(fault)
    return [_first_of(some) for some in by_column.values()]


def _first_of(faults: Sequence[Fault]) -> str:
    return f"{faults[0]}" + (f" (and {len(faults) - 1:,} more)" if faults[1:] else "")
