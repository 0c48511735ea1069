"""Routes files to the experts that know them: the gates of a run, a table.

Legend: U inputs, M modalities.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from crossmodal.checkpoints import load_weights
from crossmodal.console import tame_chatter
from crossmodal.experiment_cli import DataAndModel
from crossmodal.gates import fit_missing, read_gate
from crossmodal.novelty import NoveltyGate
from crossmodal.run_folder import RunFolder
from crossmodal.whole_files import temporary_name
from datamodules.faults import Fault
from datamodules.sources import AnyFiles
from experts.base import Expert

NEW = "new"
CHUNK = 32  # files that are in memory at a time


def fit(run: RunFolder, checkpoint: Path) -> None:
    """Fit the gates that a run lacks.

    Raises:
        ValueError: The checkpoint does not fit the run's configuration.
    """
    tame_chatter()
    experiment = DataAndModel(["--config", str(run.config)])
    load_weights(experiment.model, checkpoint)
    fit_missing(run, experiment.model, experiment.datamodule)


def load_gate(run: RunFolder, experts: Mapping[str, Expert]) -> NoveltyGate:
    """Read the gates of experts.

    Raises:
        FileNotFoundError: One has none.
        ValueError: A gate cannot be read, or was made for another expert.
    """
    try:
        return NoveltyGate({modality: read_gate(run.gate(modality), expert) for modality, expert in experts.items()})
    except ValueError as error:
        raise ValueError(
            f"{error}; `crossmodal route --model {run.path} --fit` fits it anew, to best.ckpt or else last.ckpt: a run "
            "has one gate for a modality"
        ) from error


@dataclass(frozen=True)
class Routed:
    """What is known of a file.

    Args:
        file: As it was given.
        modality: That knows it; None where it is new.
        errors: Of each modality whose expert takes such an input.
        fault: Why it cannot be read, if so.
    """

    file: Path
    modality: str | None = None
    errors: dict[str, float] = field(default_factory=dict)
    fault: Fault | None = None


def route_files(files: Sequence[Path], experts: Mapping[str, Expert], gate: NoveltyGate) -> Iterator[Routed]:
    """Yield for each file, in order, which expert knows it.

    Args:
        files: Pictures, sounds, arrays or texts.
        experts: By modality, each with a gate.
        gate: Of these experts.
    """
    for start in range(0, len(files), CHUNK):
        yield from _route_chunk(files[start : start + CHUNK], experts, gate)


def _route_chunk(files: Sequence[Path], experts: Mapping[str, Expert], gate: NoveltyGate) -> list[Routed]:
    source = AnyFiles(files)
    raws: dict[int, Any] = {}
    faults: dict[int, Fault] = {}
    for position in range(len(files)):
        try:
            raws[position] = source.load(position)
        except (OSError, ValueError) as error:
            faults[position] = source.fault(position, error)
    errors_UM = torch.full((len(files), len(experts)), torch.inf)
    takes_UM = torch.zeros(errors_UM.shape, dtype=torch.bool)
    for number, (modality, expert) in enumerate(experts.items()):
        transform = expert.transform.for_evaluation
        taken = {position: item for position, raw in raws.items() if (item := _transformed(transform, raw)) is not None}
        if not taken:
            continue
        with torch.inference_mode():
            tokens = expert(transform.collate(list(taken.values())))
        errors_UM[list(taken), number] = gate.errors({modality: tokens})[:, 0]
        takes_UM[list(taken), number] = True
    chosen = gate.choose(errors_UM, list(experts))
    return [
        Routed(
            file,
            chosen[position],
            {name: float(errors_UM[position, at]) for at, name in enumerate(experts) if takes_UM[position, at]},
            faults.get(position),
        )
        for position, file in enumerate(files)
    ]


def _transformed(transform: Any, raw: Any) -> Any:
    """Return None of a raw input that a transform does not take."""
    try:
        return transform(raw)
    except (ValueError, TypeError, AttributeError):  # the last two, as somebody's own transform may find out
        return None


class Table:
    """The files, who knows them, and each expert's error.

    Args:
        modalities: Its columns.
    """

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = modalities
        self.rows: list[Routed] = []

    def __str__(self) -> str:
        """Return it as lines of text."""
        lines = [["file", "known to", *(f"error of {modality}" for modality in self.modalities)]]
        for row in self.rows:
            shown = (f"{row.errors[name]:,.2f}" if name in row.errors else "-" for name in self.modalities)
            lines.append([str(row.file), row.modality or NEW, *shown])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = (
            [*(cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True))]
            + [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
            for line in lines
        )
        return "\n".join("  ".join(cells) for cells in texts)

    def write(self, path: Path) -> None:
        """Write it as CSV, whole or not at all; an expert that does not take an input has an empty cell."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path.parent)
        try:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["file", "modality", *(f"error_{modality}" for modality in self.modalities)])
                for row in self.rows:
                    errors = [row.errors.get(name, "") for name in self.modalities]
                    writer.writerow([row.file, row.modality or NEW, *errors])
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
