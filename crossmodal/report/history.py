"""A run's figures over time, as `metrics.csv` has them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

MOST_POINTS = 400  # of a curve; more cannot be told apart in a page, and make it large

# by figure its steps and values, in order
History = dict[str, list[tuple[int, float]]]


def read_history(path: Path) -> History:
    """Return what was logged of each figure; a line that was cut off is left out, as are values that are no numbers.

    Args:
        path: Of `metrics.csv`; a run that has none has no history.
    """
    found: History = {}
    if not path.is_file():
        return found
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        # of a line that is being written the last number may lack digits
        whole = (line.replace("\0", "") for line in file if line.endswith("\n"))
        for row in csv.DictReader(whole):
            step = _number(row.get("step"))
            if step is None:
                continue
            for name, text in row.items():
                if name in (None, "step", "epoch") or not isinstance(text, str):
                    continue
                if (value := _number(text)) is not None:
                    found.setdefault(name, []).append((int(step), value))
    return found


def thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most so many points that they can be told apart, the last among them, each the mean of its like."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None
