"""The batches of an epoch, and loaders of them that can be resumed.

Legend: R rows of a split, B rows of a batch.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from datamodules.batch import PairedBatch
from datamodules.faults import Fault
from datamodules.rows import PairedDataset

BATCHES_SORTED = 16  # so many batches' rows are sorted by size at a time; more would mix the rows less


class EpochBatches(Sampler[NDArray[np.int64]]):
    """The batches of an epoch, as vectors of rows: a pure function of seed, epoch and position.

    Args:
        num_rows: R.
        batch_size: B; the last batch may be smaller.
        shuffle: A new order each epoch, by seed and epoch.
        seed: Of the order.
        sizes: Of each row. If they are shuffled, rows of a like size then share a batch.
        groups: Of each row. If they are shuffled, rows of a group stay together; not with sizes.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        sizes: NDArray[np.int64] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        if sizes is not None and groups is not None:
            raise ValueError("rows are ordered by size or by group, not by both")
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.sizes = sizes
        self.groups = groups
        self.epoch = 0
        self.start = 0

    @property
    def settings(self) -> dict[str, int]:
        """What the batches of an epoch depend on."""
        sizes, groups = (
            0 if values_R is None or not self.shuffle else zlib.crc32(values_R.tobytes())
            for values_R in (self.sizes, self.groups)
        )
        order = {"rows": self.num_rows, "batch_size": self.batch_size, "seed of the order": self.seed}
        return {**order, "sizes of the rows": sizes, "groups of the rows": groups}

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        start, self.start = self.start, 0
        draw = np.random.default_rng([self.seed, self.epoch])
        order = draw.permutation(self.num_rows) if self.shuffle else np.arange(self.num_rows)
        places = np.arange(len(self))
        if self.shuffle and self.sizes is not None:
            order = self._sorted_in_parts(order, self.sizes)
            places = draw.permutation(places)
        if self.shuffle and self.groups is not None:
            _, group_R = np.unique(self.groups, return_inverse=True)
            order = order[draw.permutation(len(group_R))[group_R[order]].argsort(kind="stable")]
        for place in places[start:]:
            yield order[place * self.batch_size : (place + 1) * self.batch_size]

    def _sorted_in_parts(self, order: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        count = BATCHES_SORTED * self.batch_size
        parts = [order[start : start + count] for start in range(0, len(order), count)]
        return np.concatenate([part[sizes[part].argsort(kind="stable")] for part in parts] or [order])

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration. Lightning calls it."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch


class _SeededBatches(Sampler[tuple[int, NDArray[np.int64]]]):
    """Gives each batch a seed by epoch and rows, so that a run that goes on draws what it would have drawn."""

    def __init__(self, batches: Iterable[NDArray[np.int64]], seed: int) -> None:
        self.batches = batches
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        epoch_seed = zlib.crc32(f"{self.seed} {getattr(self.batches, 'epoch', 0)}".encode())
        for rows in self.batches:
            yield zlib.crc32(rows.tobytes(), epoch_seed), rows


class _BatchReads(Dataset[Any]):
    """Reads one batch, in a worker or in this process.

    The error of an input that cannot be read is returned: a DataLoader would bury its message in a traceback.
    """

    def __init__(self, read: Callable[[NDArray[np.int64], int], Any], *, by_value: bool) -> None:
        self.read = read
        self.by_value = by_value

    def __getitem__(self, batch: tuple[int, NDArray[np.int64]]) -> Any:
        seed, rows = batch
        in_worker = get_worker_info() is not None
        if in_worker:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
        try:
            value = self.read(rows, seed)
        except ValueError as error:
            # a worker's own kinds of error may not be picklable
            return ValueError(str(error)) if in_worker else error
        return _Pickled(pickle.dumps(value)) if in_worker and self.by_value else value


@dataclass(frozen=True)
class _Pickled:
    content: bytes


def _begin_worker(_number: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tokenizers warns of being forked, else


class BatchLoader:
    """Reads batches, in this process or ahead in others.

    Args:
        read: Gives a batch for a vector of rows, and a seed for what is left to chance.
        batches: The vectors.
        num_workers: Processes that read ahead; 0 reads in this one.
        keep_workers: For the next iteration.
        by_value: Workers send batches through a pipe, not through shared memory, which containers have little of
            and where a batch that does not fit is waited for without end.
        pin_memory: For a faster copy to a GPU.
        seed: Of the workers.
    """

    def __init__(
        self,
        read: Callable[[NDArray[np.int64], int], Any],
        batches: Iterable[NDArray[np.int64]],
        *,
        num_workers: int = 0,
        keep_workers: bool = False,
        by_value: bool = False,
        pin_memory: bool = False,
        seed: int = 0,
    ) -> None:
        self._make: Callable[[], DataLoader[Any]] = partial(
            DataLoader,
            _BatchReads(read, by_value=by_value),
            sampler=_SeededBatches(batches, seed),
            batch_size=None,
            num_workers=num_workers,
            worker_init_fn=_begin_worker,
            # nothing need be picklable, nor imported again
            multiprocessing_context="fork" if num_workers and sys.platform == "linux" else None,
            persistent_workers=keep_workers and num_workers > 0,
            pin_memory=pin_memory,
            # its own generator: making an iterator must not draw from the one that training uses
            generator=torch.Generator().manual_seed(seed),
        )
        self._loader = self._make()

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, ValueError):
                # workers end at once when their loader goes; what the error's traceback or a cycle keeps goes
                # late, and then torch waits five seconds for each of them
                self._loader = self._make()
                try:
                    raise batch
                finally:
                    del batch
            yield pickle.loads(batch.content) if isinstance(batch, _Pickled) else batch


class ResumableLoader:
    """Batches whose state is their epoch and how many of them were handed out.

    It is not a DataLoader itself: Lightning would rebuild it with a sampler of its own.

    Args:
        dataset: Gives a batch for a vector of rows.
        batches: Which rows make the batches.
        num_workers: Processes that read ahead; 0 reads in this one.
        leave_out: Takes the faults of rows that cannot be read, which are left out; None lets them end the reading.
    """

    def __init__(
        self,
        dataset: PairedDataset,
        batches: EpochBatches,
        *,
        num_workers: int = 0,
        leave_out: Callable[[list[Fault]], None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.sampler = batches  # Lightning calls its set_epoch
        self.batch_sampler = None  # and asks for this when it predicts
        self.seconds_waited = 0.0
        self._leave_out = leave_out
        self._loader = BatchLoader(
            dataset.read if leave_out is None else dataset.read_usable,
            batches,
            num_workers=num_workers,
            keep_workers=True,
            pin_memory=torch.cuda.is_available(),
            seed=batches.seed,
        )
        self._handed_out = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[PairedBatch]:
        self._handed_out = self.sampler.start
        iterator = iter(self._loader)
        while True:
            began = time.perf_counter()
            read = next(iterator, None)
            self.seconds_waited += time.perf_counter() - began
            if read is None:
                return
            self._handed_out += 1
            if self._leave_out is None:
                yield read
            else:
                batch, faults = read
                self._leave_out(faults)
                yield batch

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, the number of its batches that were handed out, and what makes the batches."""
        return {"epoch": self.sampler.epoch, "batches": self._handed_out, **self.sampler.settings}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at the batch after the last that was handed out.

        Raises:
            ValueError: The batches are others: some rows would come twice, and others not at all.
        """
        for key, now in self.sampler.settings.items():
            if state.get(key, now) != now:
                raise ValueError(
                    f"the checkpoint's epoch has {key} {state[key]}, here it is {now}: a run goes on with the data as "
                    "they were; begin a new one without --ckpt_path"
                )
        epoch, start = state["epoch"], state["batches"]
        if start >= len(self.sampler):
            epoch, start = epoch + 1, 0
        self.sampler.set_epoch(epoch)
        self.sampler.start = self._handed_out = start
