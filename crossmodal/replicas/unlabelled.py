"""Rows without targets, as those who train may read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.batch import PairedBatch
from datamodules.loading import ResumableLoader
from datamodules.paired import PairedDataModule
from datamodules.rows import PairedRows


class Unlabelled:
    """The rows without targets of a data module.

    Args:
        data: Connected to the experts' transforms.
        rows: Of it.
    """

    def __init__(self, data: PairedDataModule, rows: PairedRows) -> None:
        self._data = data
        self._rows = rows

    def endless(self, seed: int) -> Iterator[PairedBatch]:
        """Return batches without end, in an order that depends on the seed alone."""
        loader = self._data.unlabelled_loader(self._rows, shuffle=True)
        epoch = seed
        while True:
            loader.sampler.set_epoch(epoch)
            yield from loader
            epoch += 1

    def in_order(self) -> ResumableLoader:
        """Return all batches, in the order of the rows."""
        return self._data.unlabelled_loader(self._rows, shuffle=False)

    def labelled(self, rows: NDArray[np.int64], targets: Mapping[str, Tensor]) -> ResumableLoader:
        """Return some of the rows, by number, with targets that somebody guessed."""
        some = replace(self._rows.select(rows), targets=dict(targets))
        return self._data.unlabelled_loader(some, shuffle=True)
