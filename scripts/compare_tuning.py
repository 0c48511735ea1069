"""Ways to tune a pretrained expert, on one task: frozen, LoRA, its last layers, all of it.

The experiment is configs/tuning.yaml; the rest of the model is the same and is trained each time.

    python scripts/compare_tuning.py [--epochs 10] [--quick]

`--quick` takes one epoch of each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml
from commands import crossmodal, markdown

CONFIG = Path(__file__).parent.parent / "configs" / "tuning.yaml"
NEITHER = {"lora": None, "last_layers": None, "layer_decay": 1.0}
WAYS: dict[str, dict[str, Any]] = {
    "frozen": {},
    "LoRA of rank 8": {"lora": {"rank": 8}},
    "the last 2 layers": {"last_layers": 2},
    "all": {},
    "all, each layer at 0.8 of the next one's rate": {"layer_decay": 0.8},
}


def main() -> None:
    """Compare, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    image = yaml.safe_load(CONFIG.read_text())["experts"]["image"]["init_args"]["expert"]
    found = []
    for way, arguments in WAYS.items():
        if way == "frozen":
            expert = {**image, "init_args": {**image["init_args"], "freeze": True}}
        else:
            expert = {
                "class_path": "experts.adapters.TunedExpert",
                "init_args": {"expert": image, **NEITHER, **arguments},
            }
        name = f"compare_tuning/{len(found)}"
        epochs = 1 if options.quick else options.epochs
        done = crossmodal(
            *("fit", "--config", CONFIG, "--experts.image", json.dumps(expert), "--name", name),
            *("--trainer.max_epochs", epochs),
        )
        figures = done.figures
        trained, everything = (figures[f"parameters/{which}"] for which in ("trained", "all"))
        found.append(
            {
                **{"way": way, "accuracy": figures["test/accuracy"], "seconds": figures["seconds/fit"]},
                **{"trained": trained, "share": trained / everything, "peak": done.peak},
            }
        )
    header = ["image expert", "`test/accuracy`", "seconds", "parameters that train", "peak memory"]
    print(
        markdown(
            header,
            [
                [
                    *(row["way"], f"{row['accuracy']:.4f}", f"{row['seconds']:.0f}"),
                    *(f"{row['trained']:,} ({row['share']:.1%})", f"{row['peak'] / 2**30:.2f} GiB"),
                ]
                for row in found
            ],
        )
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
