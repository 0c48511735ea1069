"""What a run says, and what its libraries need not say."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table

from crossmodal.output import is_quiet, tell

CHATTER = (
    "💡",
    "GPU available",
    "TPU available",
    "HPU available",
    "Seed set",
    "`Trainer.fit` stopped",
    "Restor",
    "Detected KeyboardInterrupt",
    "`weights_only` was not set",
    "Loaded model weights",
    "Loading `train_dataloader`",
    "[rank: 0] Received SIGTERM",
    "LOCAL_RANK: ",
)
# said of choices that are made on purpose here
EXPECTED_WARNINGS = (
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*module\\(s\\) in eval mode at the start of training.*",
    ".*does not have many workers.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* is smaller than the logging interval.*",
    ".*`_get_vc_` method.*",
    ".*Total length of `.*` across ranks is zero.*",
    ".*`training_step` returned `None`.*",
    ".*dirpath has changed from.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
)


def tame_chatter() -> None:
    """Silence what libraries say of choices that are made on purpose here; real warnings stay."""
    # wandb's lines come from another process, after the last of ours; where the run lies is ours to say
    os.environ.setdefault("WANDB_SILENT", "true")
    for pattern in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", pattern)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(lambda record: not record.getMessage().lstrip().startswith(CHATTER))
    for name in ("pytorch_lightning", "lightning_fabric"):
        if is_quiet():
            logging.getLogger(name).setLevel(logging.WARNING)
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(lambda record: not record.getMessage().lstrip().startswith(CHATTER))


def is_terminal() -> bool:
    """Return whether somebody watches."""
    return sys.stdout.isatty()


def name_of_epoch(trainer: Trainer, number: int) -> str:
    """Return an epoch's number, from 1, and that of the last one, if there is one."""
    last = trainer.max_epochs
    return f"{number + 1}/{last}" if last is not None and last > 0 else f"{number + 1}"


class EpochBar(RichProgressBar):
    """A progress bar that counts epochs as everything else here does, from 1."""

    def _get_train_description(self, current_epoch: int) -> str:
        description = f"Epoch {name_of_epoch(self.trainer, current_epoch)}"
        return description.ljust(len(self.validation_description))  # of one width, or the bar flickers

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return what is shown beside it, without the run's number, which is no figure."""
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}

    def show_part(self, done: int, of: int) -> None:
        """Show how much is done of an epoch that is one step for the trainer, such as a round of many nodes."""
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, total=of, completed=done)
            self.refresh()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Count the step; where it is one of parts, all of them are done."""
        super().on_train_batch_end(trainer, pl_module, *args, **kwargs)
        if self.progress is not None and self.train_progress_bar_id is not None:
            of = self.progress.tasks[self.progress.task_ids.index(self.train_progress_bar_id)].total
            if not pl_module.automatic_optimization and of:
                self.show_part(int(of), int(of))


class EpochLines(Callback):
    """One line an epoch, where no terminal shows a progress bar."""

    def __init__(self) -> None:
        self._began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a run that goes on inside an epoch starts no epoch."""
        self._began = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the epoch's figures."""
        if trainer.is_global_zero:
            figures = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
            shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            seconds = time.perf_counter() - self._began
            word = "epoch" if pl_module.automatic_optimization else "round"
            print(
                f"{word} {name_of_epoch(trainer, trainer.current_epoch)}  {shown}  {seconds:.1f} s",
                flush=True,
            )


def print_figures(figures: dict[str, Any], paths: dict[str, Path]) -> None:
    """Print a run's figures, and where its files are; as JSON, or not at all, where that is wanted."""
    if is_quiet():
        tell(figures, paths)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:.4f}" if isinstance(value, float) else f"{value:,}")
    console = Console(soft_wrap=True)
    console.print(table)
    for name, path in paths.items():
        console.print(f"{name}: {path}", highlight=False)
