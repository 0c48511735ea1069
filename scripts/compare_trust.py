"""Whether the meta-learner knows whom to trust.

(A) It is never worse than the best expert alone, which nobody knows beforehand: models of several experts against
models of each of them, on tests that differ from training in a way that hurts one expert, and where one has little to
learn from or learns its rows by heart. (B) When an expert breaks in use, its weight falls, and the model is as good as
without it.

The meta-learner and its fusion are those of configs/easy_vqa_meta_learner.yaml, the same in all cases; plain
`WorkspaceFusion` and `ConcatFusion` stand beside it. MNIST is read from the folder that CROSSMODAL_DATA names.

    CROSSMODAL_DATA=/path/to/data python scripts/compare_trust.py [--seeds 3] [--quick]

`--quick` takes one seed, a fifth of the rows and fewer epochs.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import markdown
from pytorch_lightning import Trainer, seed_everything
from torch.optim import AdamW
from trust_tasks import Rows, Task, digits_task, easy_vqa_task

from crossmodal.console import tame_chatter
from crossmodal.fusion import ConcatFusion, WorkspaceFusion
from crossmodal.heads import ClassificationHead
from crossmodal.meta_learner import MetaLearner
from crossmodal.module import CrossModalModule

FUSION = partial(WorkspaceFusion, width=64, slots=4, rounds=2, top_k=4, num_heads=4, dropout=0.1)
WAYS: dict[str, dict[str, Any]] = {
    "concat": {"fusion": partial(ConcatFusion, width=64)},
    "workspace": {"fusion": FUSION},
    "meta-learner": {"fusion": FUSION, "meta_learner": MetaLearner},
}
NEVER_WORSE, AS_WITHOUT = 0.005, 0.03  # what is allowed, of 1
CORRUPTIONS = {"weights": "its weights are noised", "stuck": "always the same input", "noise": "noise on its input"}


@dataclass(frozen=True)
class Case:
    """A test that differs from training.

    Args:
        name: For people.
        experts: Modalities.
        shift: By modality the condition of the test's inputs, where it is not `clean`.
        lacking: By modality the share of the training rows that go without it.
    """

    name: str
    experts: tuple[str, ...]
    shift: Mapping[str, str] = field(default_factory=dict)
    lacking: Mapping[str, float] = field(default_factory=dict)


CASES = [
    Case("nothing differs", ("image", "text", "speech"), {}),
    Case("speech of unheard voices under noise (20 dB), clean images", ("image", "speech"), {"speech": "20 dB"}),
    Case("speech of unheard voices under noise (0 dB), clean images", ("image", "speech"), {"speech": "0 dB"}),
    Case("images a little blurred, clean text", ("image", "text"), {"image": "soft"}),
    Case("images blurred, clean text", ("image", "text"), {"image": "blurred"}),
    Case("5 % of the training rows have text", ("image", "text"), lacking={"text": 0.95}),
    Case("5 % of the training rows have an image", ("image", "text"), lacking={"image": 0.95}),
    Case("vectors that are learned by heart, images", ("image", "memory")),
    Case("vectors that are learned by heart, images, text", ("image", "text", "memory")),
    Case(
        "speech under noise (20 dB) and images blurred, clean text",
        ("image", "text", "speech"),
        {"speech": "20 dB", "image": "blurred"},
    ),
]


class Bench:
    """Trains each model once, and tests it as often as is asked.

    Args:
        task: Its inputs are encoded.
        epochs: Of training.
        batch_size: Rows a batch.
        seed: Of what is drawn.
    """

    def __init__(self, task: Task, *, epochs: int, batch_size: int, seed: int) -> None:
        self.task = task
        self.epochs = epochs
        self.batch_size = batch_size
        self.seed = seed
        self._trained: dict[str, CrossModalModule] = {}

    def model(self, way: str, experts: tuple[str, ...], lacking: Mapping[str, float]) -> CrossModalModule:
        """Train, or return what was trained."""
        key = f"{way} {experts} { {name: share for name, share in lacking.items() if share} }"
        if key not in self._trained:
            seed_everything(self.seed, verbose=False)
            self._trained[key] = self.train(made(way, self.task, experts), lacking)
        return self._trained[key]

    def train(self, module: CrossModalModule, lacking: Mapping[str, float]) -> CrossModalModule:
        """Train a model; the last weights count."""
        trainer(self.epochs).fit(module, datamodule=self._data("train", module, {}, lacking))
        return module

    def test(
        self,
        way: str,
        experts: tuple[str, ...],
        shift: Mapping[str, str],
        *,
        lacking: Mapping[str, float] | None = None,
        absent: tuple[str, ...] = (),
    ) -> dict[str, float]:
        """Return the figures of a test, without the prefix.

        Args:
            way: Of fusing.
            experts: Modalities.
            shift: By modality the condition of the inputs.
            lacking: By modality the share of the training rows that go without it.
            absent: Modalities that no row of the test has.
        """
        module = self.model(way, experts, lacking or {})
        data = self._data("test", module, shift, dict.fromkeys(absent, 1.0))
        (figures,) = trainer(0).test(module, datamodule=data, verbose=False)
        return {name.removeprefix("test/"): value for name, value in figures.items()}

    def accuracy(self, *args: Any, **kwargs: Any) -> float:
        """Return the share of the rows that are answered right; arguments as for `test`."""
        return self.test(*args, **kwargs)["accuracy"]

    def _data(
        self, split: str, module: CrossModalModule, conditions: Mapping[str, str], lacking: Mapping[str, float]
    ) -> Rows:
        rows = self.task.rows(split, {name: conditions.get(name, "clean") for name in module.experts}, lacking)
        data = Rows(self.task.outputs, split, rows, batch_size=self.batch_size, seed=self.seed)
        data.connect({name: expert.transform for name, expert in module.experts.items()})
        return data


def made(way: str, task: Task, experts: tuple[str, ...]) -> CrossModalModule:
    (head,) = task.outputs
    return CrossModalModule(
        {name: task.expert(name) for name in experts},
        task.outputs,
        heads={head: ClassificationHead},
        optimizer=partial(AdamW, lr=3e-3, weight_decay=0.02, fused=True),
        feature_store=None,
        **WAYS[way],
    )


def trainer(epochs: int) -> Trainer:
    return Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def never_worse(bench: Bench, case: Case) -> dict[str, Any]:
    """Compare with the best expert alone."""
    alone = {
        name: bench.accuracy(
            "workspace", (name,), case.shift, lacking={k: v for k, v in case.lacking.items() if k == name}
        )
        for name in case.experts
    }
    found = {way: bench.test(way, case.experts, case.shift, lacking=case.lacking) for way in WAYS}
    told = found["meta-learner"]
    return {
        **{"case": case.name, "seed": bench.seed, "alone": alone, "best": max(alone.values())},
        **{way: figures["accuracy"] for way, figures in found.items()},
        "members": {name: value for name, value in told.items() if name.startswith(("weight/", "alone/", "share/"))},
    }


def broken(bench: Bench, experts: tuple[str, ...], name: str, kind: str) -> dict[str, Any]:
    """Break an expert in use, and compare with models that are without it."""
    shift, others = {name: kind}, tuple(other for other in experts if other != name)
    before, after = (bench.test("meta-learner", experts, one) for one in ({}, shift))
    return {
        **{"expert": name, "corruption": kind, "seed": bench.seed},
        **{"weight": before[f"weight/{name}"], "weight after": after[f"weight/{name}"]},
        **{"before": before["accuracy"], "meta-learner": after["accuracy"]},
        "absent": bench.accuracy("meta-learner", experts, {}, absent=(name,)),
        "trained without": bench.accuracy("meta-learner" if len(others) > 1 else "workspace", others, {}),
        **{way: bench.accuracy(way, experts, shift) for way in ("concat", "workspace")},
        "members": {one: value for one, value in after.items() if one.startswith(("weight/", "alone/", "share/"))},
    }


def told(task: str, found: dict[str, Any]) -> dict[str, Any]:
    """Print what was found, since all of it takes long."""
    found = {"task": task, **found}
    print(json.dumps(found), flush=True)
    return found


def mean(found: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([one[key] for one in found]))


def table_of_cases(found: list[dict[str, Any]]) -> str:
    rows = []
    for name in dict.fromkeys(one["case"] for one in found):
        some = [one for one in found if one["case"] == name]
        alone = [f"{expert} {np.mean([one['alone'][expert] for one in some]):.4f}" for expert in some[0]["alone"]]
        figures = [mean(some, key) for key in ("best", *WAYS)]
        gaps = [one["meta-learner"] - one["best"] for one in some]
        held = "yes" if np.mean(gaps) >= -NEVER_WORSE else "no"
        shown = [f"{figure:.4f}" for figure in figures[1:]]
        rows.append([name, ", ".join(alone), *shown, f"{100 * np.mean(gaps):+.2f} ({100 * min(gaps):+.2f})", held])
    header = [
        "test",
        "each expert alone",
        *WAYS,
        "points above the best alone (worst seed)",
        "held",
    ]
    return markdown(header, rows)


def table_of_broken(found: list[dict[str, Any]]) -> str:
    rows = []
    for name, kind in dict.fromkeys((one["expert"], one["corruption"]) for one in found):
        some = [one for one in found if (one["expert"], one["corruption"]) == (name, kind)]
        figures = [mean(some, key) for key in ("meta-learner", "absent", "trained without", "workspace", "concat")]
        weights = f"{mean(some, 'weight'):.3f} → {mean(some, 'weight after'):.3f}"
        held = "yes" if as_without(some) else "no"
        rows.append([f"{name}: {CORRUPTIONS[kind]}", weights, *(f"{figure:.4f}" for figure in figures), held])
    header = ["broken", "its weight", "meta-learner", "it is absent", "trained without it", "workspace", "concat"]
    return markdown([*header, "falls, within 3 points"], rows)


def as_without(some: list[dict[str, Any]]) -> bool:
    """Whether the weight falls, and the accuracy is near what it is without the expert."""
    least = max(mean(some, "absent"), mean(some, "trained without")) - AS_WITHOUT
    return mean(some, "weight after") < mean(some, "weight") and mean(some, "meta-learner") >= least


def main() -> None:
    """Compare, print each comparison as a line of JSON, then tables, and one line of JSON of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--voices", type=Path, default=Path("data/spoken_digits"), help="where recordings are kept")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if "CROSSMODAL_DATA" not in os.environ:
        sys.exit("set CROSSMODAL_DATA to the folder that has mnist/")
    torch.set_num_threads(1)
    tame_chatter()
    for name in ("pytorch_lightning", "lightning_utilities"):
        logging.getLogger(name).setLevel(logging.WARNING)
    share = 5 if options.quick else 1
    digits = digits_task(Path(os.environ["CROSSMODAL_DATA"]), options.voices, share=share)
    questions = easy_vqa_task(share=share)
    cases, broken_digits, broken_questions = [], [], []
    for seed in range(1 if options.quick else options.seeds):
        bench = Bench(digits, epochs=12, batch_size=256 // share, seed=seed)
        cases += [told("digits", never_worse(bench, case)) for case in CASES]
        experts = ("image", "text", "speech")
        broken_digits += [
            told("digits", broken(bench, experts, name, kind)) for name in experts for kind in CORRUPTIONS
        ]
        bench = Bench(questions, epochs=4 if options.quick else 14, batch_size=512, seed=seed)
        experts = ("image", "question")
        broken_questions += [
            told("easy_vqa", broken(bench, experts, name, kind)) for name in experts for kind in CORRUPTIONS
        ]
    print("\n\nNever worse than the best expert alone\n")
    print(table_of_cases(cases))
    print("\nAn expert breaks in use: digits\n")
    print(table_of_broken(broken_digits))
    print("\nAn expert breaks in use: easy-VQA\n")
    print(table_of_broken(broken_questions))
    print(json.dumps({"found": [*cases, *broken_digits, *broken_questions]}))


if __name__ == "__main__":
    main()
