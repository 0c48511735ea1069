"""Fusions that learn how objects relate, beside a plain vision transformer with as many parameters.

The experiment is configs/sort_of_clevr.yaml: WorkspaceFusion, then AssociativeFusion in its place. The transformer sees
the same pictures as 25 patches that know where they are; patches, question and a class token go through layers in
which each attends to all. It takes several times as long for an epoch, so that it may be given fewer.

    python scripts/compare_sort_of_clevr.py [--only NAME ...] [--epochs 20] [--vit-epochs 20] [--seed 1] [--quick]
        [--batch-size ROWS] [--workers 2] [--accelerator gpu]

With `--only` each model can be trained by a process of its own, all at once: one such small model leaves a GPU idle.
`--workers` processes read pictures ahead, which pays beside a GPU. `--seed` is that of pictures, questions and
weights; 0 is the one that settings were tried on. `--quick` takes 500 pictures and two epochs. The accuracy of each
kind of question on the validation split, epoch by epoch, is in the line of JSON, and in `metrics.csv` of each run.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

from commands import Done, crossmodal, markdown

CONFIG = Path(__file__).parent.parent / "configs" / "sort_of_clevr.yaml"
KINDS = ("relational", "non_relational")
PASSED_ON = {
    "batch-size": "data.init_args.batch_size",
    "workers": "data.init_args.num_workers",
    "accelerator": "trainer.accelerator",
}
# not tuned: common for transformers of this size
LOW_RATE = {"model.optimizer.init_args.lr": 1e-3}
PATCHES = {
    "class_path": "experts.grid.GridExpert",
    "init_args": {"image_size": 75, "channels": [64], "kernels": [15], "strides": [15], "width": 64},
}
MODELS: dict[str, dict[str, Any]] = {
    "workspace": {},
    "associative": {
        **LOW_RATE,
        "model.fusion": {
            "class_path": "crossmodal.fusion.AssociativeFusion",
            "init_args": {"width": 128, "slots": 8, "memory_width": 88, "rounds": 4, "top_k": 0, "dropout": 0.0},
        },
    },
    # one slot is the class token, and of one feed-forward layer all tokens take it: a plain transformer
    "vit": {
        **LOW_RATE,
        "experts.image": PATCHES,
        "model.fusion": {
            "class_path": "crossmodal.fusion.MoEFusion",
            "init_args": {
                **{"width": 64, "slots": 1, "layers": 5, "experts": 1, "top_k": 1, "min_experts": 1},
                **{"entropy": 0.0, "router_z": 0.0, "num_heads": 4, "dropout": 0.0},
            },
        },
    },
}


def main() -> None:
    """Compare, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--vit-epochs", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    for name, key in PASSED_ON.items():
        parser.add_argument(f"--{name}", dest=key, metavar="VALUE", help=f"{key} of {CONFIG.name}, for all models")
    options = parser.parse_args()
    passed_on = [part for key in PASSED_ON.values() if (value := vars(options)[key]) for part in (f"--{key}", value)]
    found = []
    for name in options.only:
        epochs = options.vit_epochs if name == "vit" and options.vit_epochs else options.epochs
        epochs = 2 if options.quick else epochs
        few = ("--data.init_args.train_images", 500) if options.quick else ()
        done = crossmodal(
            *("fit", "--config", CONFIG, "--name", f"compare_sort_of_clevr/{name}"),
            *("--seed_everything", options.seed, "--data.init_args.seed", options.seed),
            *("--trainer.max_epochs", epochs, *few, *passed_on),
            *(part for key, value in MODELS[name].items() for part in (f"--{key}", json.dumps(value))),
        )
        found.append(measured(name, done, epochs))
    header = ["model", "relational", "non-relational", "parameters", "epochs", "seconds"]
    print(markdown(header, [cells(row) for row in found]))
    print(json.dumps(found))


def measured(name: str, done: Done, epochs: int) -> dict[str, Any]:
    """Return a run's figures, and its curves."""
    with (done.run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/accuracy"]][:epochs]  # then the best one comes again
    return {
        "model": name,
        **{kind: done.figures[f"test/accuracy/{kind}"] for kind in KINDS},
        **{"parameters": done.figures["parameters/trained"], "seconds": done.figures["seconds/fit"]},
        "curves": {kind: [round(float(row[f"val/accuracy/{kind}"]), 4) for row in rows] for kind in KINDS},
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Return a table's line."""
    accuracy = [f"{row[kind]:.4f}" for kind in KINDS]
    epochs = len(row["curves"]["relational"])
    return [row["model"], *accuracy, f"{row['parameters']:,}", str(epochs), f"{row['seconds']:.0f}"]


if __name__ == "__main__":
    main()
