"""`metrics.csv`: the figures of a run over time."""

from __future__ import annotations

import csv
import re
import time
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.csv_logs import ExperimentWriter

from crossmodal.run_folder import RunFolder
from crossmodal.whole_files import temporary_name

FLUSH_SECONDS = 1.0
LINE_BREAKS = re.compile(r"[\r\n]+")


class RunLogger(CSVLogger):
    """Writes `metrics.csv`. A run that goes on keeps its rows up to the step of its checkpoint.

    Args:
        run: Where to write.
        first_step: Rows of this step and later ones are written again, so they are dropped.
    """

    def __init__(self, run: RunFolder, *, first_step: int = 0) -> None:
        super().__init__(save_dir=run.path.parent.parent, name=run.path.parent.name, version=run.path.name)
        self.first_step = first_step
        self._written = 0.0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Write figures within a second, or at the next of them: who follows the run reads the file."""
        # a class's name may have several lines
        in_a_line = {LINE_BREAKS.sub(" ", name): value for name, value in metrics.items()}
        super().log_metrics(in_a_line, step)
        if time.monotonic() - self._written >= FLUSH_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is logged and not written yet."""
        super().save()
        self._written = time.monotonic()

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
        self._replace(kept)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        """Write all rows again with more columns; whoever is killed here leaves the file as it was."""
        with Path(self.metrics_file_path).open(newline="") as file:
            rows = list(csv.DictReader(file))
        self._replace(rows)

    def _replace(self, rows: list[dict[str, Any]]) -> None:
        path = Path(self.metrics_file_path)
        temporary = temporary_name(path.parent)
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(path)
