"""Split learning (BiCSL) of easy-VQA by five clients, against FedAvg of the same clients, and one model with all rows.

The experiment is configs/replicas/bicsl_easy_vqa.yaml. What counts is the accuracy on the test split, and what crosses:
activations, gradients and clients' parts, or whole models.

    python scripts/compare_split.py [--seeds 3] [--rounds 14] [--ways together FedAvg] [--quick]

Each run's figures are appended to a file (`--kept`), and a run that is in it is not done again, so that a killed script
goes on. `--quick` takes one seed and two rounds.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from commands import Kept, crossmodal, markdown, spread

CONFIG = Path(__file__).parent.parent / "configs" / "replicas" / "bicsl_easy_vqa.yaml"
METHOD = "--replicas.method"
WAYS: dict[str, tuple[object, ...]] = {
    "one model, all rows": ("--replicas", "null"),
    "split, merged each round": (f"{METHOD}.merge_every", 0),
    "split, merged every 4 batches": (f"{METHOD}.merge_every", 4),
    "split, merged every batch": (f"{METHOD}.merge_every", 1),
    "FedAvg": (METHOD, "crossmodal.replicas.federated.Federated"),
}
SENT = ("train/bytes_up", "train/bytes_down")


def main() -> None:
    """Compare, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--kept", type=Path, default=Path("runs/compare_split.jsonl"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.rounds = 1, 2
    kept, found = Kept(options.kept), []
    for seed in range(options.seeds):
        for way in options.ways:
            wanted = {"way": way, "seed": seed, "rounds": options.rounds}
            found.append(kept.get(wanted) or kept.add(wanted | measured(way, seed, options.rounds)))
    rows = []
    for way in options.ways:
        own = [one for one in found if one["way"] == way]
        sent = [f"{statistics.mean(one[name] for one in own) / 1e6:.0f}" for name in SENT]
        rows.append([way, spread([one["accuracy"] for one in own]), *sent])
    print(markdown(["way", "test accuracy, %", "to the server, MB", "back, MB"], rows))
    print(json.dumps({"found": found}))


def measured(way: str, seed: int, rounds: int) -> dict[str, Any]:
    """Train and test once."""
    done = crossmodal(
        *("fit", "--config", CONFIG, "--name", "compare_split", "--seed_everything", seed, *WAYS[way]),
        *("--trainer.max_epochs", rounds, "--track", "disabled"),
    )
    with (done.run / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    sent = {name: sum(float(line.get(name) or 0.0) for line in lines) for name in SENT}
    return {"accuracy": done.figures["test/accuracy"], **sent, "seconds": done.figures["seconds/fit"]}


if __name__ == "__main__":
    main()
