"""Callbacks that every run has. They observe; they never change what is learned."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class Interrupted(BaseException):
    """Ctrl-C, or a polite request to end, was answered between two batches."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}")
        self.exit_status = 128 + signal_number


class SaveLast(Callback):
    """Saves `last` when training ends.

    On Ctrl-C or SIGTERM that is after the batch, or after the last of those over which gradients accumulate, or at
    once where a validation comes first, or at the second Ctrl-C.

    Args:
        last: The checkpoint to write.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self._received: int | None = None
        self._saved = False
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._received is not None:
            raise Interrupted(number)
        self._received = number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if asked to end; the batch is still logged after this."""
        # gradients that are being accumulated are in no checkpoint
        is_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if self._received is not None and is_step:
            trainer.save_checkpoint(self.last)
            self._saved = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End, if all is saved."""
        if self._saved and self._received is not None:
            raise Interrupted(self._received)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what training ended with: a checkpoint every so many steps has the last ones not in it."""
        if trainer.checkpoint_callbacks:
            trainer.save_checkpoint(self.last)

    def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
        """End, if asked to: what was learned since the last checkpoint is learned again."""
        if self._received is not None:
            raise Interrupted(self._received)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class Clock(Callback):
    """Keeps the seconds that a run has taken, by all the processes that worked on it.

    Args:
        encoding: Returns how many of this process's were taken for encoding.
    """

    def __init__(self, encoding: Callable[[], float]) -> None:
        self._encoding = encoding
        self._began = time.perf_counter()
        self._before = {"fit": 0.0, "encode": 0.0}

    def state_dict(self) -> dict[str, float]:
        """Return the seconds until now."""
        now = {"fit": time.perf_counter() - self._began, "encode": self._encoding()}
        return {part: self._before[part] + value for part, value in now.items()}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Count on from there."""
        self._before = dict(state_dict)


class DataWait(Callback):
    """Logs `train/waiting`, the share of an epoch's time in which training waits for data."""

    def __init__(self) -> None:
        self._mark = self._waited = self._total = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks; a run that goes on inside an epoch starts no epoch."""
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._mark, self._total = time.perf_counter(), 0.0
        self._waited = self._waited_in_all(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the time of a batch."""
        now = time.perf_counter()
        self._total += now - self._mark
        self._mark = now

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the time of a validation out."""
        self._mark = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the share."""
        waited = self._waited_in_all(trainer) - self._waited
        if self._total > 0:
            pl_module.log("train/waiting", min(1.0, waited / self._total))

    @staticmethod
    def _waited_in_all(trainer: Trainer) -> float:
        return float(getattr(trainer.train_dataloader, "seconds_waited", 0.0))


class MissedValidation(Callback):
    """Validates first, if a run goes on from a checkpoint that was written just before a validation.

    Lightning takes that validation for done: of a run that was killed in between, another checkpoint would be best.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do what was still to be done for the checkpoint's batch, and for its epoch if it was the last one."""
        fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
        if not epoch.restarted_on_train_batch_end or fit._data_fetcher is None:
            return
        ends_epoch = fit.restarted_mid_epoch and epoch.batch_progress.is_last_batch
        if ends_epoch:
            for progress in (fit.epoch_progress.current, fit.epoch_progress.total):
                progress.processed -= 1  # type: ignore[attr-defined]
                progress.completed -= 1
        if epoch._should_check_val_fx(fit._data_fetcher):
            trainer.validating = True
            epoch.val_loop.restarting = False
            epoch.val_loop.run()
            trainer.training = True
        if ends_epoch:
            fit.on_advance_end()
