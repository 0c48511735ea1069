"""Which classes are taken for which, also where there are very many.

Legend: R rows, C classes, K classes that are shown.
"""

from __future__ import annotations

import torch
from torch import Tensor


def confusion(targets_R: Tensor, said_R: Tensor, classes: int, *, most: int) -> tuple[Tensor, Tensor]:
    """Return the classes with most mistakes, in order of their numbers, and how often each is taken for which.

    Of as many classes as are shown or fewer all are; of equally many mistakes those with more rows come first. All of
    very many classes against each other would be no matrix that a machine can hold.

    Args:
        targets_R: What is right, int64.
        said_R: What was said, int64.
        classes: C.
        most: K, at most.

    Returns:
        The numbers of K classes, and counts (K, K) by target and answer.
    """
    wrong = targets_R != said_R
    of_C = torch.bincount(targets_R, minlength=classes)
    wrong_C = torch.bincount(targets_R[wrong], minlength=classes) + torch.bincount(said_R[wrong], minlength=classes)
    chosen_K = (wrong_C * (len(targets_R) + 1) + of_C).argsort(descending=True, stable=True)[:most].sort().values
    size = len(chosen_K)
    # what is not shown goes to a row and a column of its own
    place_C = torch.full_like(of_C, size).scatter(0, chosen_K, torch.arange(size, device=of_C.device))
    pairs_R = place_C[targets_R] * (size + 1) + place_C[said_R]
    counts = torch.bincount(pairs_R, minlength=(size + 1) ** 2).view(size + 1, size + 1)
    return chosen_K, counts[:size, :size]
