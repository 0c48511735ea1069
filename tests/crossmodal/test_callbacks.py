from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from crossmodal.callbacks import Interrupted, SaveLast
from crossmodal.checkpoints import RandomState
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
