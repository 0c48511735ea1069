"""What scripts/compare_fusion.py has measured: as lines, summed up, as tables and as pictures."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from commands import markdown

from crossmodal.check.charts import whiskers

PICTURES = {  # by file: each colour, and what it is
    "whole": {
        "easy-VQA": "easy_vqa: clean",
        "with nuisance": "nuisance: clean",
        "image broken in half of the rows": "nuisance: image broken",
    },
    "missing": {
        "easy-VQA, no image": "easy_vqa: no image",
        "no question": "easy_vqa: no question",
        "with nuisance, no image": "nuisance: no image",
    },
}


def told(row: dict[str, Any]) -> str:
    """Return what was measured of a training as a line."""
    accuracy = "  ".join(f"{name} {value:.4f}" for name, value in row["accuracy"].items())
    return f"{row['task']}, seed {row['seed']}, {row['way']}: {accuracy}  ({row['seconds']:.0f} s)"


def summary(task: str, way: str, rows: list[dict[str, Any]], cost: dict[str, float]) -> dict[str, Any]:
    """Return the means and deviations over the seeds."""
    values = {name: [row["accuracy"][name] for row in rows] for name in rows[0]["accuracy"]}
    return {
        **{"task": task, "way": way, "seeds": len(rows), "parameters": rows[0]["parameters"], **cost},
        "accuracy": {name: statistics.mean(of) for name, of in values.items()},
        "deviation": {name: statistics.stdev(of) if len(of) > 1 else 0.0 for name, of in values.items()},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return a task's table."""
    conditions = list(rows[0]["accuracy"])

    def accuracy(row: dict[str, Any], name: str) -> str:
        mean, deviation = (100 * row[which][name] for which in ("accuracy", "deviation"))
        return f"{mean:.2f} ± {deviation:.2f}" if row["seeds"] > 1 else f"{mean:.2f}"

    return markdown(
        ["fusion", "seeds", *conditions, "parameters", "steps/s", "tensors"],
        [
            [
                *(row["way"], str(row["seeds"]), *(accuracy(row, name) for name in conditions)),
                *(f"{row['parameters']:,}", f"{row['steps/s']:.1f}", f"{row['bytes'] / 2**20:.0f} MiB"),
            ]
            for row in rows
        ],
    )


def draw(found: list[dict[str, Any]], folder: Path) -> None:
    """Draw how often each is right: with all experts whole, and where one fails or lacks."""
    by_way: dict[str, dict[str, tuple[float, float]]] = {}
    for row in found:
        of_way = by_way.setdefault(row["way"], {})
        for name, mean in row["accuracy"].items():
            of_way[f"{row['task']}: {name}"] = 100 * mean, 100 * row["deviation"][name]
    for file, series in PICTURES.items():
        shown = {
            way: {short: of_way[name] for short, name in series.items()}
            for way, of_way in by_way.items()
            if all(name in of_way for name in series.values())
        }
        least = min(mean - deviation for of in shown.values() for mean, deviation in of.values())
        picture = whiskers(shown, [*series], low=5 * math.floor(least / 5), high=100.0)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"compare_fusion_{file}.svg").write_text(picture)
