"""Steps per second of `crossmodal fit` on stored features against a hand-written PyTorch loop.

In one process and one fit of a configuration, epochs are run in turn: one by the trainer, with all its loggers,
callbacks and checkpoints, one by a loop of forward, backward and step that indexes tensors in memory, over a
copy of the model and the same batches. Only steps are timed, not validation.

    python scripts/bench_step.py [--config configs/easy_vqa.yaml] [--epochs 6]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from crossmodal.console import tame_chatter
from crossmodal.module import CrossModalModule
from crossmodal.optimization import parameter_groups
from crossmodal.training_cli import TrainingCLI
from datamodules.batch import PairedBatch
from datamodules.loading import EpochBatches
from datamodules.paired import PairedDataModule
from experts.base import ExpertTokens


class InTurn(Callback):
    """Times the trainer's epochs, and runs the hand-written loop after each."""

    def __init__(self, data: PairedDataModule) -> None:
        self.data = data
        self.trainer_rates: list[float] = []
        self.loop_rates: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CrossModalModule)
        rows = self.data.rows("train")
        assert rows is not None
        self.rows = rows
        self.tokens, self.index = {}, {}
        for modality, reader in self.data.readers("train").items():
            used = rows.used(modality)
            tokens = reader.read(used)
            place = torch.full((int(used.max()) + 1,), -1)
            place[torch.from_numpy(used)] = torch.arange(len(used))
            self.tokens[modality] = tokens.to(torch.float32)
            self.index[modality] = place[torch.from_numpy(rows.index[modality])]
        self.module = copy.deepcopy(pl_module.model)
        self.objective = pl_module.objective
        self.optimizer = torch.optim.AdamW(parameter_groups(self.module), lr=3e-3, fused=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batches = EpochBatches(len(self.rows), batch_size=self.data.batch_size, shuffle=True, seed=self.data.seed)
        batches.set_epoch(trainer.current_epoch)
        times = self._loop([torch.from_numpy(batch) for batch in batches])
        self.trainer_rates.append(_rate(self.times))
        self.loop_rates.append(_rate(times))

    def _loop(self, batches: list[torch.Tensor]) -> list[float]:
        self.module.train()
        times = []
        for rows_B in batches:
            inputs, index = {}, {}
            for modality, tokens in self.tokens.items():
                distinct_U, index[modality] = torch.unique(self.index[modality][rows_B], return_inverse=True)
                inputs[modality] = ExpertTokens(tokens.tokens_BND[distinct_U], tokens.mask_BN[distinct_U])
            targets = {task: target[rows_B] for task, target in self.rows.targets.items()}
            batch = PairedBatch(inputs, index, targets, range(len(rows_B)))  # type: ignore[arg-type]
            terms = self.objective(self.module.heads, self.module(batch), batch.targets)
            self.optimizer.zero_grad()
            sum(terms.values()).backward()
            self.optimizer.step()
            times.append(time.perf_counter())
        return times


def _rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])


class Bench(TrainingCLI):
    """Fits as the command does, with the stopwatch in."""

    def fit(self, **kwargs: Any) -> None:
        in_turn = InTurn(self.datamodule)
        # first, so that what the other callbacks do at the end of a batch is timed too
        self.trainer.callbacks.append(in_turn)
        self.trainer.fit(**kwargs)
        ratios = [ours / bare for ours, bare in zip(in_turn.trainer_rates, in_turn.loop_rates, strict=True)][1:]
        print(f"{'epoch':>5}  {'trainer':>9}  {'loop':>9}  ratio    (steps/s; the first epoch warms up)")
        for epoch, (ours, bare) in enumerate(zip(in_turn.trainer_rates, in_turn.loop_rates, strict=True)):
            print(f"{epoch:>5}  {ours:>9.1f}  {bare:>9.1f}  {ours / bare:.3f}")
        figures = {
            "steps/s": round(statistics.median(in_turn.trainer_rates[1:]), 2),
            "loop steps/s": round(statistics.median(in_turn.loop_rates[1:]), 2),
            "ratio": round(statistics.median(ratios), 3),
            "ratio min": round(min(ratios), 3),
            "threads": torch.get_num_threads(),
        }
        print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/easy_vqa.yaml"))
    parser.add_argument("--epochs", type=int, default=6)
    options, rest = parser.parse_known_args()
    tame_chatter()
    with tempfile.TemporaryDirectory() as runs:
        sys.argv = ["crossmodal", "fit", "--config", str(options.config), "--runs", runs]
        # the loop does not clip gradients
        sys.argv += [f"--trainer.max_epochs={options.epochs}", "--trainer.gradient_clip_val=null", *rest]
        Bench()


if __name__ == "__main__":
    main()
