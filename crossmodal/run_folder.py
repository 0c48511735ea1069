"""What a run leaves: `runs/<name>/<version>/` with its configuration, checkpoints and figures."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from crossmodal.feature_files import temporary_name
from crossmodal.feature_store import write_json


@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    Args:
        path: `runs/<name>/<version>`.
    """

    path: Path

    @classmethod
    def new(cls, runs: Path, name: str) -> RunFolder:
        """Make the next version's folder."""
        parent = runs / name
        parent.mkdir(parents=True, exist_ok=True)
        version = max(_versions(parent), default=-1) + 1
        while True:
            try:
                (parent / str(version)).mkdir()
            except FileExistsError:
                version += 1  # another process was quicker
            else:
                return cls(parent / str(version))

    @classmethod
    def latest(cls, runs: Path, name: str, *, having: str | None = None) -> RunFolder | None:
        """Return the newest version's folder, or the newest that has this checkpoint, or None."""
        folders = [cls(runs / name / str(version)) for version in sorted(_versions(runs / name), reverse=True)]
        return next((run for run in folders if having is None or run.checkpoint(having).exists()), None)

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder:
        """Return the run that a checkpoint belongs to, or else the folder that it lies in."""
        parent = checkpoint.resolve().parent
        return cls(parent.parent if parent.name == "checkpoints" else parent)

    @property
    def config(self) -> Path:
        """The complete configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """The final figures."""
        return self.path / "metrics.json"

    def checkpoint(self, name: str) -> Path:
        """Return where `last` or `best` is."""
        return self.path / "checkpoints" / f"{name}.ckpt"

    def write(self, file_name: str, figures: dict[str, Any]) -> Path:
        """Write figures as JSON, whole or not at all."""
        write_json(self.path / file_name, figures)
        return self.path / file_name


def _versions(parent: Path) -> list[int]:
    return [int(path.name) for path in parent.glob("*") if path.name.isdecimal() and path.is_dir()]


class RunLogger(CSVLogger):
    """Writes `metrics.csv`. A run that goes on keeps its rows up to the step of its checkpoint.

    Args:
        run: Where to write.
        first_step: Rows of this step and later ones are written again, so they are dropped.
    """

    def __init__(self, run: RunFolder, *, first_step: int = 0) -> None:
        super().__init__(save_dir=run.path.parent.parent, name=run.path.parent.name, version=run.path.name)
        self.first_step = first_step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer of the file."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
            self._experiment.keep_rows_before(self.first_step)
        return self._experiment


class _AppendingWriter(ExperimentWriter):
    """Goes on with the file that is there, where Lightning's own would delete it."""

    def _check_log_dir_exists(self) -> None:
        return

    def keep_rows_before(self, step: int) -> None:
        """Drop the rows from this step on; whoever is killed here leaves the file as it was or as it will be."""
        path = Path(self.metrics_file_path)
        if not path.exists():
            return
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            kept = [row for row in rows if row["step"] and int(row["step"]) < step]
            self.metrics_keys = list(rows.fieldnames or [])
        temporary = temporary_name(path.parent)
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(kept)
        temporary.replace(path)
