"""FedAvg, f-DANN and FedKA on five digit domains, one of which is left out: its training rows have no labels.

The experiment is configs/replicas/fedka_digits.yaml. What counts is the accuracy on the left-out domain's test rows
after the last round; nothing is chosen by it.

    python scripts/compare_fedka.py [--seeds 3] [--rounds 30] [--epochs 2] [--rows 1000] \\
        [--left_out photo print] [--ways FedAvg FedKA] [--quick]

Each run's figures are appended to a file (`--kept`), and a run that is in it is not done again, so that a killed script
goes on. `--quick` takes one seed, two rounds and 200 rows a domain.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from commands import Kept, crossmodal, markdown, spread

CONFIG = Path(__file__).parent.parent / "configs" / "replicas" / "fedka_digits.yaml"
DOMAINS = ("mnist", "scikit_learn", "photo", "print", "negative")
PARTS = ("disentangle", "match", "vote")
WAYS: dict[str, tuple[float, float, float]] = {
    "FedAvg": (0, 0, 0),
    "f-DANN: disentangler alone": (1, 0, 0),
    "FedKA": (1, 0.125, 1),
    "matching alone": (0, 0.125, 0),
    "vote alone": (0, 0, 1),
    "FedKA without disentangler": (0, 0.125, 1),
    "FedKA without matching": (1, 0, 1),
    "FedKA without vote": (1, 0.125, 0),
}


def main() -> None:
    """Compare, print a table, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=1, help="of a node in a round")
    parser.add_argument("--rows", type=int, default=1000, help="of each domain")
    parser.add_argument("--left_out", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--kept", type=Path, default=Path("runs/compare_fedka.jsonl"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.rounds, options.rows = 1, 2, 200
    settings = {"rounds": options.rounds, "epochs": options.epochs, "rows": options.rows}
    kept = Kept(options.kept)
    for seed in range(options.seeds):  # of each way alike, so that a killed script has something to compare
        for left_out in options.left_out:
            for way in options.ways:
                wanted = {"way": way, "left_out": left_out, "seed": seed, **settings}
                if kept.get(wanted) is None:
                    kept.add(wanted | measured(way, left_out, seed, options))
    found = [one for one in kept.lines if settings.items() <= one.items() and one["seed"] < options.seeds]
    print(table(found, options.ways, options.left_out))
    print(json.dumps({"found": found}))


def measured(way: str, left_out: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Train and test once."""
    done = crossmodal(
        *("replicas", "fit", "--config", CONFIG, "--name", "compare_fedka", "--seed_everything", seed),
        *("--data.init_args.left_out", left_out, "--data.init_args.seed", seed),
        *("--data.init_args.rows_per_domain", options.rows, "--trainer.max_epochs", options.rounds),
        *("--replicas.epochs", options.epochs),
        *("--trainer.limit_val_batches", 0, "--trainer.logger", "false"),
        *(f"--replicas.method.{part}={weight}" for part, weight in zip(PARTS, WAYS[way], strict=True)),
    )
    figures = done.figures
    sources = [figures[f"test/accuracy/{name}"] for name in DOMAINS if name != left_out]
    return {
        "accuracy": figures[f"test/accuracy/{left_out}"],
        "sources": statistics.mean(sources),
        "seconds": figures["seconds/fit"],
    }


def table(found: list[dict[str, Any]], ways: list[str], left_out: list[str]) -> str:
    """Return the mean and the deviation over the seeds, in percent, of each left-out domain."""
    rows = []
    for way in ways:
        own = [one for one in found if one["way"] == way]
        targets = [spread([one["accuracy"] for one in own if one["left_out"] == name]) for name in left_out]
        over_all = spread([one["accuracy"] for one in own if one["left_out"] in left_out])
        sources = spread([one["sources"] for one in own if one["left_out"] in left_out])
        rows.append([way, *targets, *([over_all] if len(left_out) > 1 else []), sources])
    header = ["way", *left_out, *(["all"] if len(left_out) > 1 else []), "domains with labels"]
    return markdown(header, rows)


if __name__ == "__main__":
    main()
