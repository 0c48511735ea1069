"""The base of all data sources.

A data source says, for each split, which distinct inputs there are, which of them each row has, and the
targets. Everything else stands here and in `rows.py`: reading only what a batch needs, shuffling, exact resume.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_info
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.batch import ABSENT
from datamodules.combined import bases, with_combined
from datamodules.faults import Fault, Quarantine
from datamodules.loading import EpochBatches, ResumableLoader
from datamodules.rows import PairedDataset, PairedRows
from datamodules.sources import InputTransform, Reader

Split = Literal["train", "val", "test", "predict"]


@dataclass
class _State:
    transforms: dict[str, InputTransform] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    without: set[Split] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # modalities that are known to be absent
    rows: dict[Split, PairedRows] = field(default_factory=dict)
    unlabelled: PairedRows | None = None
    readers: dict[Split, dict[str, Reader]] = field(default_factory=dict)
    dropout: dict[str, float] = field(default_factory=dict)
    train_loader: ResumableLoader | None = None
    resumed: dict[str, int] | None = None
    round: tuple[range] | None = None


class PairedDataModule(LightningDataModule, ABC):
    """Base of the data sources. A subclass gives `outputs` and `load`.

    Args:
        batch_size: Rows a batch.
        num_workers: Processes that read ahead; 0 reads in the main one, which is best where all inputs come
            from the feature store.
        seed: Of made splits; of the order of the rows together with `seed_everything`.
    """

    def __init__(self, *, batch_size: int = 256, num_workers: int = 0, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.quarantine: Quarantine | None = None  # takes rows that cannot be used; without one they end the run
        self._paired = _State()

    @property
    @abstractmethod
    def outputs(self) -> dict[str, list[str]]:
        """Per task the names of what a head gives: the classes, the labels, or the quantities."""

    @property
    def class_weights(self) -> dict[str, list[float]]:
        """Per task the weight of each output in the loss, where they are not equal."""
        return {}

    @abstractmethod
    def load(self, split: Split) -> PairedRows | None:
        """Return a split's rows, or None if there is no such split."""

    def load_unlabelled(self) -> PairedRows | None:
        """Return rows without targets that training may look at, or None. Only methods that say so read them."""
        return None

    def connect(self, transforms: Mapping[str, InputTransform], *, optional: Iterable[str] = ()) -> None:
        """Take each modality's transform; modalities without an expert are not read.

        Args:
            transforms: By modality.
            optional: Modalities that the data may lack: no row has them, then.
        """
        self._paired.transforms = dict(transforms)
        self._paired.optional = frozenset(optional)

    @property
    def transforms(self) -> dict[str, InputTransform]:
        """Each modality's transform, once it is connected."""
        return self._paired.transforms

    @property
    def base_transforms(self) -> dict[str, InputTransform]:
        """A transform for each modality of the data that is read; what is made of several is taken apart."""
        found: dict[str, InputTransform] = {}
        for modality, transform in self._paired.transforms.items():
            for base, one in bases(modality, transform).items():
                found.setdefault(base, one)
        return found

    def drop_modalities(self, rates: Mapping[str, float]) -> None:
        """Let training rows lack modalities that they have, at a rate for each."""
        self._paired.dropout = dict(rates)

    def leave_out(self, split: Split, modality: str, faults: Mapping[int, Fault]) -> None:
        """Put the rows that have one of these inputs, by position, into quarantine."""
        rows = self.rows(split)
        assert rows is not None
        assert self.quarantine is not None
        found = rows.faults_of(faults, np.arange(len(rows)), rows.index[modality])
        self.quarantine.add(found.values(), split=split, num_rows=len(rows))

    def version(self, split: Split) -> object:
        """Return, as JSON, what changes when a split's content does, as far as that is known without reading it."""

    def rows(self, split: Split) -> PairedRows | None:
        """Return a split's rows; they are loaded once.

        Raises:
            ValueError: An expert's modality is not in the data.
        """
        if split not in self._paired.rows:
            rows = None if split in self._paired.without else self.load(split)
            if rows is None:
                return None
            if len(rows) == 0:
                raise ValueError(f"the {split} split of {type(self).__name__} has no rows")
            self._paired.rows[split] = self._as_read(rows)
        return self._paired.rows[split]

    def _as_read(self, rows: PairedRows) -> PairedRows:
        return with_combined(rows.lacking(self._absent(rows)), self._paired.transforms)

    def unlabelled(self) -> PairedRows | None:
        """Return the rows without targets; they are loaded once."""
        if self._paired.unlabelled is None and (rows := self.load_unlabelled()) is not None:
            self._paired.unlabelled = self._as_read(rows)
        return self._paired.unlabelled

    def unlabelled_loader(self, rows: PairedRows, *, shuffle: bool) -> ResumableLoader:
        """Return a loader of rows without targets, or of some of them, perhaps with targets that somebody guessed.

        What is broken ends the reading: quarantine is for the rows of splits. Tokens are not kept.

        Args:
            rows: Over the sources of `unlabelled`.
            shuffle: For training; else in their order, and transformed without chance.
        """
        readers = {
            modality: rows.sources[modality].reader(transform if shuffle else transform.for_evaluation)
            for modality, transform in self._paired.transforms.items()
        }
        batches = EpochBatches(
            len(rows), batch_size=self.batch_size, shuffle=shuffle, seed=zlib.crc32(f"{self.seed} unlabelled".encode())
        )
        return ResumableLoader(PairedDataset(rows, readers), batches, num_workers=self.num_workers)

    def _absent(self, rows: PairedRows) -> set[str]:
        """Return the modalities that rows may lack altogether, and do."""
        absent: set[str] = set()
        for modality, transform in sorted(self._paired.transforms.items()):
            if not (missing := bases(modality, transform).keys() - rows.sources.keys()):
                continue
            if modality not in self._paired.optional:
                takes = "" if modality in missing else f" takes {min(missing)}"
                raise ValueError(
                    f"experts.{modality}{takes}: {type(self).__name__} has no such modality; it has "
                    f"{', '.join(sorted(rows.sources))}"
                )
            absent |= missing
        if absent - self._paired.told:
            rank_zero_info(f"{type(self).__name__} has no {', '.join(sorted(absent))}: its rows go without")
            self._paired.told |= absent
        return absent

    def limit(self, split: Split, count: int, *, drawn: bool = False) -> None:
        """Keep only a split's first rows, or as many that are drawn; the inputs of others are not read."""
        rows = self.rows(split)
        if rows is not None and count < len(rows):
            chosen = np.random.default_rng(self.seed).permutation(len(rows)) if drawn else np.arange(count)
            self._paired.rows[split] = rows.select(np.sort(chosen[:count]))

    def limit_inputs(self, split: Split, modalities: Iterable[str], count: int) -> None:
        """Keep a row for each input of these modalities, or for as many of each as are drawn."""
        if (rows := self.rows(split)) is None:
            return
        draw, kept = np.random.default_rng(self.seed), [np.empty(0, np.int64)]
        for modality in modalities:
            positions, first_rows = np.unique(rows.index[modality], return_index=True)
            kept.append(draw.permutation(first_rows[positions != ABSENT])[:count])
        self._paired.rows[split] = rows.select(np.unique(np.concatenate(kept)))

    def keep(self, split: Split, rows: PairedRows) -> None:
        """Keep only some of a split's rows, over the same sources; the inputs of others are not read."""
        self._paired.rows[split] = rows

    def do_without(self, *splits: Split) -> None:
        """Be as if there were no such splits; they are not read."""
        self._paired.without |= {*splits}

    def keep_having(self, split: Split, modality: str) -> None:
        """Keep only a split's rows that have a modality; the inputs of others are not read."""
        rows = self.rows(split)
        if rows is not None:
            self._paired.rows[split] = rows.select(np.flatnonzero(rows.index[modality] != ABSENT))

    def mark(self, split: Split, kind: str, of_kind_R: NDArray[np.bool_]) -> None:
        """Let a split's rows say whether they are of a kind, so that batches do; see `PairedRows.kinds`."""
        rows = self.rows(split)
        assert rows is not None
        self._paired.rows[split] = replace(rows, kinds={**rows.kinds, kind: of_kind_R})

    def readers(self, split: Split) -> dict[str, Reader]:
        """Return the split's readers by modality. They may be replaced, as the feature store does."""
        if split not in self._paired.readers:
            rows = self.rows(split)
            assert rows is not None
            self._paired.readers[split] = {
                modality: rows.sources[modality].reader(transform if split == "train" else transform.for_evaluation)
                for modality, transform in self._paired.transforms.items()
            }
        return self._paired.readers[split]

    def dataloader(self, split: Split) -> ResumableLoader | None:
        """Return a split's loader; only `train` is shuffled."""
        rows = self.rows(split)
        return None if rows is None else self.loader(rows, split)

    def loader(self, rows: PairedRows, split: Split, *, part: int | None = None) -> ResumableLoader:
        """Return a loader of rows, over the same sources as a split's; those of `train` are shuffled.

        Args:
            rows: Those of the split, or some of them.
            split: Whose readers read them.
            part: Of the split that they are, such as the number of a node, whose order is its own.
        """
        # another `seed_everything` gives another order, but the same rows to validate on
        seeds = [self.seed, os.environ.get("PL_GLOBAL_SEED", 0), *([] if part is None else [part])]
        seed = zlib.crc32(" ".join(map(str, seeds)).encode())
        batches = EpochBatches(
            len(rows),
            batch_size=self.batch_size,
            shuffle=split == "train",
            seed=seed,
            sizes=rows.sizes,
            groups=rows.groups,
        )
        dropout = self._paired.dropout if split == "train" else {}
        dataset = PairedDataset(rows, self.readers(split), dropout)
        quarantine, num_rows = self.quarantine, len(rows)
        leave_out = None
        if quarantine is not None:

            def leave_out(faults: list[Fault]) -> None:
                quarantine.add(faults, split=split, num_rows=num_rows)

        return ResumableLoader(dataset, batches, num_workers=self.num_workers, leave_out=leave_out)

    def train_in_rounds(self) -> None:
        """Let training have one batch an epoch, the numbers of all rows: who trains reads them by `loader`."""
        rows = self.rows("train")
        self._paired.round = (range(0 if rows is None else len(rows)),)

    def train_dataloader(self) -> ResumableLoader | DataLoader[range]:
        """Return the training split, shuffled; after a checkpoint was loaded, from its next batch on."""
        if self._paired.round is not None:
            return DataLoader(self._paired.round, batch_size=None)  # type: ignore[arg-type]
        loader = self._required("train")
        if self._paired.resumed is not None:
            loader.load_state_dict(self._paired.resumed)
            self._paired.resumed = None
        self._paired.train_loader = loader
        return loader

    def state_dict(self) -> dict[str, Any]:
        """Return where in the epoch training is."""
        loader = self._paired.train_loader
        if self._paired.resumed is not None:
            return {"train": self._paired.resumed}
        return {} if loader is None else {"train": loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training loader go on there.

        Lightning restores loaders by itself, but not one that was already made to count the steps of a
        learning rate schedule.
        """
        self._paired.resumed = state_dict.get("train")

    def val_dataloader(self) -> ResumableLoader | list[Any]:
        """Return the validation split, or nothing."""
        loader = self.dataloader("val")
        return [] if loader is None else loader

    def test_dataloader(self) -> ResumableLoader:
        """Return the test split."""
        return self._required("test")

    @property
    def predicted_split(self) -> Split:
        """The split whose rows are predicted: `predict`, or else `test`."""
        return "test" if self.rows("predict") is None else "predict"

    def predict_dataloader(self) -> ResumableLoader:
        """Return the rows to predict."""
        return self._required(self.predicted_split)

    def _required(self, split: Split) -> ResumableLoader:
        loader = self.dataloader(split)
        if loader is None:
            raise ValueError(f"{type(self).__name__} has no {split} split")
        return loader
