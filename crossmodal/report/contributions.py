"""What each modality contributes: exact Shapley values over all subsets of them, and how they work together.

Legend: M modalities, R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from crossmodal.subsets import subsets

# by the modalities that rows are answered by, what an answer is worth, of each row or in all
Worth = Mapping[frozenset[str], NDArray[np.float64]]


def shapley(worth: Worth, modalities: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return each modality's Shapley value (Shapley 1953): what it adds, on average over all orders of joining.

    They sum to what all are worth less what none is. As they are linear in the worth, the mean over rows of the values
    of rows is the value of the mean.

    Args:
        worth: Of every subset.
        modalities: All of them.
    """
    count = len(modalities)
    return {
        one: sum(
            (
                (worth[others | {one}] - worth[others]) / (count * comb(count - 1, len(others)))
                for others in subsets([name for name in modalities if name != one])
            ),
            np.zeros(()),
        )
        for one in modalities
    }


def interactions(worth: Worth, modalities: Sequence[str]) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return each pair's Shapley interaction index (Grabisch & Roubens 1999).

    Above zero two are worth more together than apart: each needs the other. Below zero they say the same.

    Args:
        worth: Of every subset.
        modalities: All of them.
    """
    count = len(modalities)
    found = {}
    for one, other in combinations(modalities, 2):
        rest = [name for name in modalities if name not in (one, other)]
        found[one, other] = sum(
            (
                (worth[some | {one, other}] - worth[some | {one}] - worth[some | {other}] + worth[some])
                / ((count - 1) * comb(count - 2, len(some)))
                for some in subsets(rest)
            ),
            np.zeros(()),
        )
    return found


def under_absence(worth: Worth, modalities: Sequence[str], rate: float) -> float:
    """Return what answers are worth in the mean, where each of these modalities is absent at a rate, by itself.

    Args:
        worth: Of every subset.
        modalities: Those that may be absent; the others are there.
        rate: 0 to 1.
    """
    everything = max(worth, key=len)
    total = 0.0
    for absent in subsets(modalities):
        chance = rate ** len(absent) * (1 - rate) ** (len(modalities) - len(absent))
        total += chance * float(np.mean(worth[everything - absent]))
    return total
