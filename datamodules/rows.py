"""The rows of a split, the batches that they make, and loaders that can be resumed.

Legend: R rows of a split, B rows of a batch.
"""

from __future__ import annotations

import os
import pickle
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from datamodules.batch import ABSENT, PairedBatch
from datamodules.sources import Reader, Source


class NumberedIds(Sequence[str]):
    """Row names such as `train/17` that take no memory.

    Args:
        prefix: What stands before the number.
        numbers: One number a row.
    """

    def __init__(self, prefix: str, numbers: NDArray[np.int64]) -> None:
        self.prefix = prefix
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, int | np.integer):
            return f"{self.prefix}/{self.numbers[rows]}"
        return NumberedIds(self.prefix, self.numbers[rows])


@dataclass(frozen=True)
class PairedRows:
    """The R rows of one split.

    Args:
        sources: Per modality its distinct inputs.
        index: Per modality an int64 vector of length R: each row's input, -1 where it has none.
        targets: Per task a tensor whose first axis is R.
        ids: The rows' names.
    """

    sources: Mapping[str, Source]
    index: Mapping[str, NDArray[np.int64]]
    targets: Mapping[str, Tensor]
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def __post_init__(self) -> None:
        if self.index.keys() != self.sources.keys():
            raise ValueError(f"there are sources of {sorted(self.sources)}, but an index of {sorted(self.index)}")
        for modality, index_R in self.index.items():
            wanted = f"index of {modality!r} must be a NumPy array of {len(self.ids)} int64"
            if not isinstance(index_R, np.ndarray):
                raise ValueError(f"{wanted}, not {type(index_R).__name__}")
            if index_R.shape != (len(self.ids),) or index_R.dtype != np.int64:
                raise ValueError(f"{wanted}, not {index_R.dtype} of shape {index_R.shape}")
            if len(index_R) and not ABSENT <= index_R.min() <= index_R.max() < len(self.sources[modality]):
                raise ValueError(f"index of {modality!r} points outside its {len(self.sources[modality])} inputs")
        for task, target in self.targets.items():
            if not isinstance(target, Tensor):
                raise ValueError(f"targets of {task!r} must be a torch tensor, not {type(target).__name__}")
            if len(target) != len(self.ids):
                raise ValueError(f"targets of {task!r} have {len(target)} rows, not {len(self.ids)}")

    def select(self, rows: NDArray[np.int64]) -> PairedRows:
        """Return some of the rows, over the same sources."""
        return PairedRows(
            sources=self.sources,
            index={modality: index_R[rows] for modality, index_R in self.index.items()},
            targets={task: target[torch.from_numpy(rows)] for task, target in self.targets.items()},
            ids=self.ids[rows] if isinstance(self.ids, NumberedIds) else [self.ids[row] for row in rows],
        )

    def used(self, modality: str) -> NDArray[np.int64]:
        """Return the positions of the inputs that some row has, in order."""
        positions: NDArray[np.int64] = np.unique(self.index[modality])
        present: NDArray[np.int64] = positions[positions != ABSENT]
        return present


@dataclass(frozen=True)
class PairedDataset(Dataset[PairedBatch]):
    """Rows with a reader for each modality. Indexed by a vector of rows, it gives a whole batch."""

    rows: PairedRows
    readers: Mapping[str, Reader]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: NDArray[np.int64]) -> PairedBatch:
        """Return the batch of these rows; each distinct input in it is read once."""
        inputs: dict[str, Any] = {}
        index: dict[str, Tensor] = {}
        for modality, reader in self.readers.items():
            positions, inverse = np.unique(self.rows.index[modality][rows], return_inverse=True)
            if len(positions) and positions[0] == ABSENT:
                positions, inverse = positions[1:], inverse - 1
            index[modality] = torch.from_numpy(inverse.astype(np.int64, copy=False))
            if len(positions):
                inputs[modality] = reader.read(positions)
        chosen = torch.from_numpy(rows)
        return PairedBatch(
            inputs=inputs,
            index=index,
            targets={task: target[chosen] for task, target in self.rows.targets.items()},
            ids=self.rows.ids[rows] if isinstance(self.rows.ids, NumberedIds) else [self.rows.ids[r] for r in rows],
        )


class EpochBatches(Sampler[NDArray[np.int64]]):
    """The batches of an epoch, as vectors of rows: a pure function of seed, epoch and position.

    Args:
        num_rows: R.
        batch_size: B; the last batch may be smaller.
        shuffle: A new order each epoch, by seed and epoch.
        seed: Of the order.
    """

    def __init__(self, num_rows: int, *, batch_size: int, shuffle: bool, seed: int) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.start = 0

    @property
    def settings(self) -> dict[str, int]:
        """What the batches of an epoch depend on."""
        return {"rows": self.num_rows, "batch_size": self.batch_size, "seed of the order": self.seed}

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        start, self.start = self.start, 0
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.num_rows)
        else:
            order = np.arange(self.num_rows)
        for batch in range(start, len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size]

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

    def __init__(self, read: Callable[[NDArray[np.int64]], Any], *, by_value: bool) -> None:
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
            value = self.read(rows)
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
        read: Gives a batch for a vector of rows.
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
        read: Callable[[NDArray[np.int64]], Any],
        batches: Iterable[NDArray[np.int64]],
        *,
        num_workers: int = 0,
        keep_workers: bool = False,
        by_value: bool = False,
        pin_memory: bool = False,
        seed: int = 0,
    ) -> None:
        self._loader: DataLoader[Any] = DataLoader(
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

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            if isinstance(batch, ValueError):
                raise batch
            yield pickle.loads(batch.content) if isinstance(batch, _Pickled) else batch


class ResumableLoader:
    """Batches whose state is their epoch and how many of them were handed out.

    It is not a DataLoader itself: Lightning would rebuild it with a sampler of its own.

    Args:
        dataset: Gives a batch for a vector of rows.
        batches: Which rows make the batches.
        num_workers: Processes that read ahead; 0 reads in this one.
    """

    def __init__(self, dataset: PairedDataset, batches: EpochBatches, *, num_workers: int = 0) -> None:
        self.dataset = dataset
        self.sampler = batches  # Lightning calls its set_epoch
        self.batch_sampler = None  # and asks for this when it predicts
        self._loader = BatchLoader(
            dataset.__getitem__,
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
        for batch in self._loader:
            self._handed_out += 1
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
