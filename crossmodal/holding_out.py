"""Which rows train the meta-learner, and nothing else.

Legend: R rows of a split, G groups of rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from datamodules.batch import ABSENT, PairedBatch
from datamodules.rows import PairedRows

HELD_OUT = "held_out"  # the kind of these rows
SHARED = 2  # rows an input, in the mean, from which on inputs are held out rather than rows
FEWEST = 200  # inputs of which some can be held out


def held_out(rows: PairedRows, share: float, by: str | None) -> NDArray[np.bool_]:
    """Return which rows of a split train only the meta-learner, shape (R,): always the same ones.

    Args:
        rows: R rows.
        share: Of the rows, at most; but some row, as long as another is left.
        by: Rows with the same input of this expert are held out together; all others each by itself.
    """
    own_R = np.arange(len(rows))
    if by is not None:
        own_R = np.where(rows.index[by] == ABSENT, own_R + len(rows.sources[by]), rows.index[by])
    sizes_G = np.bincount(own_R)
    groups_G = np.flatnonzero(sizes_G)
    most = share * len(rows)
    drawn_G = np.random.default_rng(0).permutation(groups_G)
    drawn_G = drawn_G[sizes_G[drawn_G] <= most]
    chosen_G = drawn_G[sizes_G[drawn_G].cumsum() <= most]
    if not len(chosen_G) and len(groups_G) > 1:
        chosen_G = groups_G[[sizes_G[groups_G].argmin()]]
    is_held_G = np.zeros(len(sizes_G), dtype=np.bool_)
    is_held_G[chosen_G] = True
    held_R: NDArray[np.bool_] = is_held_G[own_R]
    return held_R


def most_shared(rows: PairedRows, experts: Iterable[str]) -> str | None:
    """Return the expert whose inputs are best held out together, if there is one.

    A row cannot be new where its input is known. Of the experts whose inputs several rows share it is the one that has
    most; but of a few inputs, such as sentences, none can be spared.
    """
    counts = {name: (len(rows.used(name)), int((rows.index[name] != ABSENT).sum())) for name in experts}
    shared = {name: used for name, (used, num_rows) in counts.items() if FEWEST <= used <= num_rows / SHARED}
    return max(shared, key=shared.__getitem__, default=None)


def not_held_out(batch: PairedBatch) -> PairedBatch:
    """Return the batch without the rows that train only the meta-learner; one without such a kind as it is."""
    return batch.select(~batch.kinds[HELD_OUT]) if HELD_OUT in batch.kinds else batch
