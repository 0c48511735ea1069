"""`metrics.csv`: the figures of a run over time."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from crossmodal.feature_files import temporary_name
from crossmodal.run_folder import RunFolder


class RunLogger(CSVLogger):
    """Writes `metrics.csv`. A run that goes on keeps its rows up to the step of its checkpoint.

    Args:
        run: Where to write.
        first_step: Rows of this step and later ones are written again, so they are dropped.
    """

    def __init__(self, run: RunFolder, *, first_step: int = 0) -> None:
        super().__init__(save_dir=run.path.parent.parent, name=run.path.parent.name, version=run.path.name)
        self.first_step = first_step

    def log_hyperparams(self, params: Any = None) -> None:
        """Write nothing: `config.yaml` has them, and whole."""

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
