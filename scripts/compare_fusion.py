"""Every fusion, and the workspace with its meta-learner, on the same tokens: accuracy, cost, and what a failure leaves.

All have the same width and otherwise their defaults. Experts are frozen, their tokens are in memory; optimizer, epochs
and batches are those of configs/easy_vqa.yaml. No validation rows are looked at: what the last epoch leaves is tested.
Two tasks:

- `easy_vqa`: experts `image` and `question`.
- `nuisance`: the same rows with a pool of four experts: `twin` repeats `image`, and `noise` tells nothing, in training
  as in the test. Training is clean otherwise. In the test, an expert's tokens are noise in half of the rows (each
  channel with the mean and deviation of training): once the image's, whose twin is whole, and once the question's,
  which nothing can replace.

The test split is taken whole, but where a modality is missing, 2,000 of its rows.

    python scripts/compare_fusion.py [--seeds 5] [--epochs 14] [--quick] [--ways NAME ...] [--jobs 1]
        [--store runs/features] [--output runs/compare_fusion] [--report] [--pictures docs/pictures]

Each training is kept in the output folder, and the same command goes on where it was stopped; delete the folder where
code has changed. `--jobs` trainings run at once, each in a process of one thread; Ctrl-C or an error ends all of them.
Costs are not kept: they are measured each time, once all is trained, by some steps of each way. Rates are of the
processor's time, so that other work on the machine counts little. `--report` measures costs only, and tells of them and
of the trainings that are kept. `--quick` takes one seed and one epoch.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from commands import Kept
from fusion_figures import draw, summary, table, told
from processes import in_processes
from pytorch_lightning import Callback, Trainer, seed_everything
from token_rows import CONFIG, TokenRows, easy_vqa, easy_vqa_experts, with_broken, with_nuisance, without

from crossmodal import fusion as fusions
from crossmodal.console import tame_chatter
from crossmodal.heads import ClassificationHead
from crossmodal.meta_learner import MetaLearner
from crossmodal.module import CrossModalModule
from datamodules.rows import PairedDataset, PairedRows

WIDTH = 64
BATCH = 512
SOME = 2_000  # rows of the test split, where not all are taken
TASK = "answer"
WITH_META_LEARNER = "workspace with its meta-learner"
WAYS: dict[str, dict[str, Callable[..., Any]]] = {  # those that are quick first
    "mean": {"fusion": fusions.MeanFusion},
    "concat": {"fusion": fusions.ConcatFusion},
    "gated": {"fusion": fusions.GatedFusion},
    "low-rank": {"fusion": fusions.LowRankFusion},
    "workspace": {"fusion": fusions.WorkspaceFusion},
    WITH_META_LEARNER: {"fusion": fusions.WorkspaceFusion, "meta_learner": MetaLearner},
    "associative": {"fusion": fusions.AssociativeFusion},
    "hierarchical": {"fusion": fusions.HierarchicalFusion},
    "bottleneck": {"fusion": fusions.BottleneckFusion},
    "mixture of experts": {"fusion": fusions.MoEFusion},
    "perceiver": {"fusion": fusions.PerceiverFusion},
}


def main() -> None:
    """Compare, print tables, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--store", type=Path, default=Path("runs/features"))
    parser.add_argument("--output", type=Path, default=Path("runs/compare_fusion"))
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS])
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    seeds, epochs = (1, 1) if options.quick else (options.seeds, options.epochs)
    begin_quietly()
    plain = easy_vqa(easy_vqa_experts(), options.store, batch_size=BATCH)
    kept = Kept(options.output / f"{epochs}_epochs.jsonl")
    wanted = [
        (task, way, seed, epochs)
        for seed in range(0 if options.report else seeds)
        for way in reversed(WAYS)  # those that take longest first
        for task in ("nuisance", "easy_vqa")
        if way in options.ways and kept.get({"task": task, "way": way, "seed": seed}) is None
    ]

    def keep(row: dict[str, Any]) -> None:
        print(told(kept.add(row)), flush=True)

    begin = partial(_given.append, plain)
    in_processes(trained_and_measured, wanted, jobs=options.jobs, begin=begin, keep=keep)
    costs = {
        task: measure_costs(data, options.ways)
        for task, data in (("easy_vqa", plain), ("nuisance", with_nuisance(plain, 0)))
    }
    found = [
        summary(task, way, rows, costs[task][way])
        for task in costs
        for way in options.ways
        if (rows := [row for row in kept.lines if (row["task"], row["way"]) == (task, way) and row["seed"] < seeds])
    ]
    for task in costs:
        print(f"\n{task}\n")
        print(table([row for row in found if row["task"] == task]))
    if options.pictures:
        draw(found, options.pictures)
    print(json.dumps({"epochs": epochs, "found": found}))


def begin_quietly() -> None:
    """Use one thread, and leave it to the script to speak."""
    torch.set_num_threads(1)
    tame_chatter()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # that nothing is to be stored


_given: list[TokenRows] = []  # what a process is given once


def trained_and_measured(task: str, way: str, seed: int, epochs: int) -> dict[str, Any]:
    """Return what is kept of a training; in a process of its own."""
    torch.set_num_threads(1)
    data = with_nuisance(_given[0], seed) if task == "nuisance" else _given[0]
    began = time.process_time()
    module = train(way, data, seed, epochs)
    seconds = time.process_time() - began
    return {"task": task, "way": way, "seed": seed, "seconds": seconds, **measure(module, task, data, seed)}


def build(way: str, data: TokenRows, seed: int) -> CrossModalModule:
    """Return a model that has not learned yet."""
    seed_everything(seed, verbose=False)
    optimizer = yaml.safe_load(CONFIG.read_text())["model"]["optimizer"]["init_args"]
    return CrossModalModule(
        data.experts(),
        data.outputs,
        heads={TASK: ClassificationHead},
        optimizer=partial(torch.optim.AdamW, **optimizer),
        feature_store=None,
        **{**WAYS[way], "fusion": partial(WAYS[way]["fusion"], width=WIDTH)},
    )


def trainer(*, epochs: int, callbacks: list[Callback] | None = None, **limits: int) -> Trainer:
    """Return a trainer that trains, and does nothing else."""
    return Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        gradient_clip_val=1.0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **limits,
    )


def train(way: str, data: TokenRows, seed: int, epochs: int) -> CrossModalModule:
    """Return a trained model."""
    module = build(way, data, seed)
    trainer(epochs=epochs).fit(module, datamodule=data)
    return module


def measure(module: CrossModalModule, task: str, data: TokenRows, seed: int) -> dict[str, Any]:
    """Return how often a model is right, on the test split as it is, and on what is worse."""
    whole = data.splits["test"]
    some = np.sort(np.random.default_rng(0).permutation(len(whole))[:SOME])
    splits = {"clean": whole}
    if task == "nuisance":
        splits["image broken"] = with_broken(data, "image", seed)
        splits["question broken"] = with_broken(data, "question", seed)
    splits |= {f"no {name}": without(whole.select(some), name) for name in module.experts}
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    accuracy = {name: right(module, rows, 512) for name, rows in splits.items()}
    return {"accuracy": accuracy, "parameters": trained}


@torch.inference_mode()
def right(module: CrossModalModule, rows: PairedRows, batch_size: int) -> float:
    """Return the share of the rows that are answered rightly."""
    module.eval()
    dataset = PairedDataset(rows, rows.sources)  # type: ignore[arg-type]
    count = 0
    for start in range(0, len(rows), batch_size):
        batch = dataset[np.arange(start, min(start + batch_size, len(rows)))]
        count += int((module(batch)[TASK].argmax(-1) == batch.targets[TASK]).sum())
    return count / len(rows)


class StepTimes(Callback):
    """Times the steps of a training."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.process_time())

    def rate(self, warm_up: int) -> float:
        """Return steps per second, after some."""
        times = self.times[warm_up:]
        return (len(times) - 1) / (times[-1] - times[0])


def measure_costs(
    data: TokenRows, ways: list[str], *, rounds: int = 5, steps: int = 15, warm_up: int = 4
) -> dict[str, dict[str, float]]:
    """Return of each way the steps per second, in turn, as medians, and the most bytes of tensors."""
    modules = {way: build(way, data, 0) for way in ways}
    peaks = {way: most_bytes(module, data) for way, module in modules.items()}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, module in modules.items():
            times = StepTimes()
            trainer(epochs=1, callbacks=[times], limit_train_batches=steps).fit(module, datamodule=data)
            rates[way].append(times.rate(warm_up))
    return {way: {"steps/s": statistics.median(rates[way]), "bytes": peaks[way]} for way in ways}


def most_bytes(module: CrossModalModule, data: TokenRows) -> int:
    """Return the most bytes that tensors hold in three steps: weights, gradients, optimizer, activations."""
    own = sum(value.nbytes for value in module.state_dict().values())
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        trainer(epochs=1, limit_train_batches=3).fit(module, datamodule=data)
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    events.sort(key=lambda event: event.start_ns())
    return own + int(np.cumsum([event.nbytes() for event in events]).max())


if __name__ == "__main__":
    main()
