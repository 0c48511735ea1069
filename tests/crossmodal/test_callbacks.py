from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from crossmodal.callbacks import Interrupted, MissedValidation, SaveLast
from crossmodal.checkpoints import AtomicCheckpointIO, RandomState
from tests.crossmodal.test_module import build, connected


class InterruptAt(Callback):
    """Sends Ctrl-C in the middle of a batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.seen = 0

    def on_train_batch_start(self, *_: Any) -> None:
        if self.seen == self.batch:
            os.kill(os.getpid(), signal.SIGINT)
        self.seen += 1


def fit(folder: Path, *, interrupted_at: int = -1, ckpt_path: Path | None = None) -> dict[str, Tensor]:
    """Train in windows of 3 batches of 4 rows; the last of the 4 windows of 2 epochs has 2."""
    module = build()
    data = connected(module, batch_size=4)
    assert len(data.train_dataloader()) == 4
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, accumulate_grad_batches=3, logger=False, enable_model_summary=False,
        enable_progress_bar=False, enable_checkpointing=False, use_distributed_sampler=False, default_root_dir=folder,
        callbacks=[RandomState(), SaveLast(folder / "last.ckpt"), InterruptAt(interrupted_at)],
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return {name: value for name, value in module.state_dict().items() if ".experts." not in name}


@pytest.mark.parametrize("batch", range(8))
def test_interrupted_while_gradients_accumulate(tmp_path: Path, batch: int) -> None:
    torch.manual_seed(0)
    expected = fit(tmp_path / "whole")
    torch.manual_seed(0)
    with pytest.raises(Interrupted, match="SIGINT"):
        fit(tmp_path, interrupted_at=batch)
    resumed = fit(tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())


class KilledError(Exception):
    """Instead of SIGKILL: nothing is saved."""


class Validations(Callback):
    """Keeps what was measured when, and is killed when the validation of a step begins."""

    def __init__(self, killed_at: int | None) -> None:
        self.killed_at = killed_at
        self.found: list[tuple[int, int, float]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == self.killed_at:
            raise KilledError

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found.append((trainer.current_epoch, trainer.global_step, float(trainer.callback_metrics["val/loss"])))


def validated(
    folder: Path, every: int, *, killed_at: int | None = None, ckpt_path: Path | None = None
) -> tuple[list[tuple[int, int, float]], dict[str, Any]]:
    """Train 3 epochs of 4 steps, saved and validated every so many; return the validations and the best checkpoint."""
    module, watch = build(), Validations(killed_at)
    best = ModelCheckpoint(folder, "best", monitor="val/loss", enable_version_counter=False)
    last = ModelCheckpoint(folder, "last", every_n_train_steps=every, enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, val_check_interval=every, logger=False, enable_model_summary=False,
        enable_progress_bar=False, use_distributed_sampler=False, num_sanity_val_steps=0, default_root_dir=folder,
        callbacks=[RandomState(), MissedValidation(), watch, best, last], plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    with suppress(KilledError):
        trainer.fit(module, connected(module, batch_size=4), ckpt_path=ckpt_path, weights_only=True)
    saved = torch.load(folder / "best.ckpt", weights_only=True) if (folder / "best.ckpt").exists() else {}
    return watch.found, {key: saved.get(key) for key in ("epoch", "global_step")}


@pytest.mark.parametrize(("every", "killed_at"), [(4, 4), (4, 8), (4, 12), (2, 2), (2, 6), (2, 8)])
def test_killed_before_a_validation_it_is_made_up_for(tmp_path: Path, every: int, killed_at: int) -> None:
    torch.manual_seed(0)
    expected, best = validated(tmp_path / "whole", every)
    assert [step for _, step, _ in expected] == list(range(every, 13, every))
    torch.manual_seed(0)
    before, _ = validated(tmp_path, every, killed_at=killed_at)
    after, best_after = validated(tmp_path, every, ckpt_path=tmp_path / "last.ckpt")
    assert before + after == expected
    assert best_after == best
