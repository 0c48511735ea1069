"""How runs differ on the same rows, and how sure that is.

Legend: R rows, S resamplings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLINGS = 2000
COVERED = 0.95  # by an interval
CHUNK = 1_000_000  # numbers that are drawn at a time


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends of its confidence interval."""

    value: float
    low: float
    high: float

    @property
    def is_sure(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


def bootstrap(values_R: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Return the mean, and its percentile interval over rows that are drawn anew (Efron 1979).

    Args:
        values_R: One a row; for a difference of two runs, that of each row, so that rows are paired.
        seed: Of the drawing.

    Raises:
        ValueError: There is no row.
    """
    count = len(values_R)
    if not count:
        raise ValueError("there is no row to draw from")
    draw, means = np.random.default_rng(seed), []
    at_once = max(1, CHUNK // count)
    for start in range(0, RESAMPLINGS, at_once):
        drawn_SR = draw.integers(count, size=(min(at_once, RESAMPLINGS - start), count))
        means.append(values_R[drawn_SR].mean(1))
    outside = (1 - COVERED) / 2
    low, high = np.quantile(np.concatenate(means), (outside, 1 - outside)).tolist()
    return Interval(float(values_R.mean()), low, high)


@dataclass(frozen=True)
class Difference:
    """How far a run's score is above the first run's.

    Args:
        run: Its name.
        task: That is scored.
        score: What the score is.
        interval: Of the difference.
        rows: That both answered.
    """

    run: str
    task: str
    score: str
    interval: Interval
    rows: int


def differences(
    ids: Mapping[str, Sequence[str]], scores: Mapping[str, Mapping[str, tuple[str, NDArray[np.float64]]]]
) -> list[Difference]:
    """Compare each run with the first, by the rows that both have.

    Args:
        ids: By run the names of its rows.
        scores: By run and task, what the score is, and that of each row.
    """
    first, *others = scores
    place = {name: number for number, name in enumerate(ids[first])}
    found = []
    for run in others:
        pairs = [(place[name], number) for number, name in enumerate(ids[run]) if name in place]
        for task, (score, values_R) in scores[run].items():
            if not pairs or task not in scores[first] or scores[first][task][0] != score:
                continue
            own, his = (np.array(numbers) for numbers in zip(*pairs, strict=True))
            difference_R = values_R[his] - scores[first][task][1][own]
            found.append(Difference(run, task, score, bootstrap(difference_R), len(pairs)))
    return found
