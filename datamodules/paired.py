"""The base of all data sources: rows that point at distinct inputs, and loaders that can be resumed.

A data source says, for each split, which distinct inputs there are, which of them each row has, and the
targets. Everything else stands here: reading only what a batch needs, shuffling, and exact resume.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.batch import ABSENT, PairedBatch

Split = Literal["train", "val", "test", "predict"]
KEY_BYTES = 16


class Source(ABC):
    """The distinct raw inputs of one modality."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def load(self, position: int) -> Any:
        """Return one raw input, as an expert's transform takes it."""

    @abstractmethod
    def name(self, position: int) -> str:
        """Say which input it is, for an error message."""

    @abstractmethod
    def content(self, position: int) -> bytes:
        """Return the bytes that make the input what it is."""

    def keys(self, positions: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Hash the content of inputs: 16 bytes each, equal where the content is."""
        digests = (hashlib.blake2b(self.content(int(p)), digest_size=KEY_BYTES).digest() for p in positions)
        return np.fromiter(digests, dtype=f"S{KEY_BYTES}", count=len(positions))


class ImageFiles(Source):
    """Pictures in files that Pillow reads."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, position: int) -> Image.Image:
        """Open one picture."""
        with Image.open(self.paths[position]) as image:
            image.load()
            return image

    def name(self, position: int) -> str:
        """Return the path."""
        return str(self.paths[position])

    def content(self, position: int) -> bytes:
        """Return the file's bytes."""
        return self.paths[position].read_bytes()


class Texts(Source):
    """Strings in memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def load(self, position: int) -> str:
        """Return one text."""
        return self.texts[position]

    def name(self, position: int) -> str:
        """Return the beginning of the text."""
        return repr(self.texts[position][:80])

    def content(self, position: int) -> bytes:
        """Return the text as UTF-8."""
        return self.texts[position].encode()


class Reader(Protocol):
    """Gives collated inputs for positions in a source."""

    def read(self, positions: NDArray[np.int64]) -> Any:
        """Return what the modality's expert takes."""


class InputTransform(Protocol):
    """What an expert wants done to its inputs."""

    def __call__(self, raw: Any) -> Any:
        """Transform one raw input."""

    def collate(self, items: Sequence[Any]) -> Any:
        """Join transformed inputs."""


class RawReader:
    """Loads and transforms inputs when they are asked for.

    Args:
        source: Where the raw inputs are.
        transform: What the modality's expert wants done to them.
    """

    def __init__(self, source: Source, transform: InputTransform) -> None:
        self.source = source
        self.transform = transform

    def read(self, positions: NDArray[np.int64]) -> Any:
        """Load, transform and collate.

        Raises:
            ValueError: An input cannot be read; the message names it and the cause.
        """
        return self.transform.collate([self._item(int(position)) for position in positions])

    def _item(self, position: int) -> Any:
        try:
            return self.transform(self.source.load(position))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read {self.source.name(position)}: {error}") from error


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
        self.epoch = epoch


class ResumableLoader:
    """Batches whose state is their epoch and how many of them were handed out.

    A DataLoader inside reads them. It is not one itself: Lightning would rebuild it with a sampler of its own.

    Args:
        dataset: Gives a batch for a vector of rows.
        batches: Which rows make the batches.
        num_workers: Processes that read ahead; 0 reads in this one.
        pin_memory: For a faster copy to a GPU.
    """

    def __init__(
        self, dataset: PairedDataset, batches: EpochBatches, *, num_workers: int = 0, pin_memory: bool = False
    ) -> None:
        self.dataset = dataset
        self.sampler = batches  # Lightning calls its set_epoch
        self.batch_sampler = None  # and asks for this when it predicts
        self._loader: DataLoader[PairedBatch] = DataLoader(
            dataset,
            sampler=batches,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            # its own generator: making an iterator must not draw from the one that training uses
            generator=torch.Generator().manual_seed(batches.seed),
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
        """Return the epoch and the number of its batches that were handed out."""
        return {"epoch": self.sampler.epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at the batch after the last that was handed out."""
        epoch, start = state["epoch"], state["batches"]
        if start >= len(self.sampler):
            epoch, start = epoch + 1, 0
        self.sampler.set_epoch(epoch)
        self.sampler.start = start


@dataclass
class _State:
    transforms: dict[str, InputTransform] = field(default_factory=dict)
    rows: dict[Split, PairedRows] = field(default_factory=dict)
    readers: dict[Split, dict[str, Reader]] = field(default_factory=dict)
    train_loader: ResumableLoader | None = None
    resumed: dict[str, int] | None = None


class PairedDataModule(LightningDataModule, ABC):
    """Base of the data sources. A subclass gives `outputs` and `load`.

    Args:
        batch_size: Rows a batch.
        num_workers: Processes that read ahead; 0 reads in the main one, which is best where all inputs come
            from the feature store.
        seed: Of the order of the rows and of made splits.
    """

    def __init__(self, *, batch_size: int = 256, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self._paired = _State()

    @property
    @abstractmethod
    def outputs(self) -> dict[str, list[str]]:
        """Per task the names of what a head gives: the classes, the labels, or the quantities."""

    @abstractmethod
    def load(self, split: Split) -> PairedRows | None:
        """Return a split's rows, or None if there is no such split."""

    def connect(self, transforms: Mapping[str, InputTransform]) -> None:
        """Take each modality's transform; modalities without an expert are not read."""
        self._paired.transforms = dict(transforms)

    def rows(self, split: Split) -> PairedRows | None:
        """Return a split's rows; they are loaded once.

        Raises:
            ValueError: An expert's modality is not in the data.
        """
        if split not in self._paired.rows:
            rows = self.load(split)
            if rows is None:
                return None
            if missing := self._paired.transforms.keys() - rows.sources.keys():
                raise ValueError(
                    f"experts for {sorted(missing)}, but {type(self).__name__} has the modalities "
                    f"{sorted(rows.sources)}"
                )
            self._paired.rows[split] = rows
        return self._paired.rows[split]

    def readers(self, split: Split) -> dict[str, Reader]:
        """Return the split's readers by modality. They may be replaced, as the feature store does."""
        if split not in self._paired.readers:
            rows = self.rows(split)
            assert rows is not None
            self._paired.readers[split] = {
                modality: RawReader(rows.sources[modality], transform)
                for modality, transform in self._paired.transforms.items()
            }
        return self._paired.readers[split]

    def dataloader(self, split: Split) -> ResumableLoader | None:
        """Return a split's loader; only `train` is shuffled."""
        rows = self.rows(split)
        if rows is None:
            return None
        batches = EpochBatches(len(rows), batch_size=self.batch_size, shuffle=split == "train", seed=self.seed)
        return ResumableLoader(
            PairedDataset(rows, self.readers(split)),
            batches,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> ResumableLoader:
        """Return the training split, shuffled; after a checkpoint was loaded, from its next batch on."""
        loader = self._required("train")
        if self._paired.resumed is not None:
            loader.load_state_dict(self._paired.resumed)
            self._paired.resumed = None
        self._paired.train_loader = loader
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Return where in the epoch training is."""
        loader = self._paired.train_loader
        return {} if loader is None else {"train": loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training loader go on there.

        Lightning restores loaders by itself, but not one that was already made to count the steps of a
        learning rate schedule.
        """
        self._paired.resumed = state_dict.get("train")

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Return the validation split, or nothing."""
        return self.dataloader("val") or []

    def test_dataloader(self) -> ResumableLoader:
        """Return the test split."""
        return self._required("test")

    def predict_dataloader(self) -> ResumableLoader:
        """Return the rows to predict: the `predict` split, or else the test split."""
        return self.dataloader("predict") or self._required("test")

    def _required(self, split: Split) -> ResumableLoader:
        loader = self.dataloader(split)
        if loader is None:
            raise ValueError(f"{type(self).__name__} has no {split} split")
        return loader
