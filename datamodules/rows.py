"""The rows of a split, and a batch of them.

Legend: R rows of a split, B rows of a batch, M modalities.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.batch import ABSENT, PairedBatch
from datamodules.faults import Fault
from datamodules.sources import Reader, Source, Texts, UnreadableInputsError


class RowIds(Sequence[str]):
    """Row names that are made when they are asked for.

    Args:
        numbers: One number a row.
    """

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self.numbers = numbers

    def name(self, number: int) -> str:
        """Return the name of the row with this number."""
        raise NotImplementedError

    def place(self, number: int) -> str:
        """Say where the row with this number is, for an error message; no two rows have the same place."""
        return self.name(number)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, int | np.integer):
            return self.name(int(self.numbers[rows]))
        chosen = copy.copy(self)
        chosen.numbers = self.numbers[rows]
        return chosen


class NumberedIds(RowIds):
    """Row names such as `train/17` that take no memory.

    Args:
        prefix: What stands before the number.
        numbers: One number a row.
    """

    def __init__(self, prefix: str, numbers: NDArray[np.int64]) -> None:
        super().__init__(numbers)
        self.prefix = prefix

    def name(self, number: int) -> str:
        """Return prefix and number."""
        return f"{self.prefix}/{number}"


def distinct(index_B: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the inputs that rows have, in order, and which of these each row has."""
    positions, inverse = np.unique(index_B, return_inverse=True)
    if len(positions) and positions[0] == ABSENT:
        positions, inverse = positions[1:], inverse - 1
    return positions, inverse.astype(np.int64, copy=False)


@dataclass(frozen=True)
class PairedRows:
    """The R rows of one split.

    Args:
        sources: Per modality its distinct inputs.
        index: Per modality an int64 vector of length R: each row's input, -1 where it has none.
        targets: Per task a tensor whose first axis is R.
        ids: The rows' names.
        sizes: How long each row's input is, in whatever unit: in training, rows of a like size share a batch, so that
            little of it is padding.
        groups: A number for each row: in training, rows with the same one come together, so that an input that they
            share is encoded once.
        kinds: By name which rows are of a kind, bool of length R: figures are given of each kind, too.
    """

    sources: Mapping[str, Source]
    index: Mapping[str, NDArray[np.int64]]
    targets: Mapping[str, Tensor]
    ids: Sequence[str]
    sizes: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None
    kinds: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __post_init__(self) -> None:
        of_rows: dict[str, NDArray[Any] | None] = {"sizes": self.sizes, "groups": self.groups, **self.kinds}
        for name, values_R in of_rows.items():
            if values_R is not None and values_R.shape != (len(self.ids),):
                raise ValueError(f"{name} have shape {values_R.shape}, not ({len(self.ids)},), one a row")
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

    def lacking(self, modalities: Collection[str]) -> PairedRows:
        """Return the rows with further modalities, that none of them has."""
        if not modalities:
            return self
        absent_R = np.full(len(self), ABSENT)
        return replace(
            self,
            sources={**self.sources, **{modality: Texts([]) for modality in modalities}},
            index={**self.index, **dict.fromkeys(modalities, absent_R)},
        )

    def select(self, rows: NDArray[np.int64]) -> PairedRows:
        """Return some of the rows, over the same sources."""
        return PairedRows(
            sources=self.sources,
            index={modality: index_R[rows] for modality, index_R in self.index.items()},
            targets={task: target[torch.from_numpy(rows)] for task, target in self.targets.items()},
            ids=self.names(rows),
            sizes=None if self.sizes is None else self.sizes[rows],
            groups=None if self.groups is None else self.groups[rows],
            kinds={name: of_kind_R[rows] for name, of_kind_R in self.kinds.items()},
        )

    def names(self, rows: NDArray[np.int64]) -> Sequence[str]:
        """Return the names of some rows."""
        return self.ids[rows] if isinstance(self.ids, RowIds) else [self.ids[row] for row in rows]

    def place(self, row: int) -> str:
        """Say where a row is, for an error message."""
        return self.ids.place(int(self.ids.numbers[row])) if isinstance(self.ids, RowIds) else self.ids[row]

    def faults_of(
        self, faults: Mapping[int, Fault], rows: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> dict[int, Fault]:
        """Return the faults of inputs by row, and with its name.

        Args:
            faults: By position in a source.
            rows: To look through.
            positions: Which of the source's inputs each of these rows has.
        """
        has_one = np.isin(positions, np.fromiter(faults, np.int64))
        pairs = zip(rows[has_one].tolist(), positions[has_one].tolist(), strict=True)
        return {row: replace(faults[input_], row=self.place(row)) for row, input_ in pairs}

    def used(self, modality: str) -> NDArray[np.int64]:
        """Return the positions of the inputs that some row has, in order."""
        is_used = np.zeros(len(self.sources[modality]) + 1, dtype=np.bool_)
        is_used[self.index[modality]] = True  # the last place is for rows that have none: ABSENT counts from the end
        return np.flatnonzero(is_used[:-1])


@dataclass(frozen=True)
class PairedDataset(Dataset[PairedBatch]):
    """Rows with a reader for each modality. Indexed by a vector of rows, it gives a whole batch.

    Args:
        rows: Of one split.
        readers: By modality.
        dropout: By modality the rate at which a row that has it is treated as if it had not; one always stays.
    """

    rows: PairedRows
    readers: Mapping[str, Reader]
    dropout: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: NDArray[np.int64]) -> PairedBatch:
        """Return the batch of these rows; each distinct input in it is read once."""
        return self._read(rows, {modality: self.rows.index[modality][rows] for modality in self.readers})

    def read(self, rows: NDArray[np.int64], seed: int) -> PairedBatch:
        """Return the batch of these rows, less what is dropped by chance."""
        return self._read(rows, self._after_dropout(rows, seed))

    def read_usable(self, rows: NDArray[np.int64], seed: int) -> tuple[PairedBatch, list[Fault]]:
        """Return the batch of those of the rows that can be read, perhaps none, and the others' faults."""
        faults: list[Fault] = []
        index = self._after_dropout(rows, seed)
        while True:
            try:
                return self._read(rows, index), faults
            except UnreadableInputsError as error:
                faults += error.faults.values()
                used = ~np.isin(rows, list(error.faults))
                rows, index = rows[used], {modality: index_B[used] for modality, index_B in index.items()}

    def _read(self, rows: NDArray[np.int64], positions_of: Mapping[str, NDArray[np.int64]]) -> PairedBatch:
        inputs: dict[str, Any] = {}
        index: dict[str, Tensor] = {}
        places: dict[str, Tensor] = {}
        for modality, reader in self.readers.items():
            positions, inverse = distinct(positions_of[modality])
            index[modality] = torch.from_numpy(inverse)
            if len(positions):
                places[modality] = torch.from_numpy(positions)
                try:
                    inputs[modality] = reader.read(positions)
                except UnreadableInputsError as error:
                    raise UnreadableInputsError(
                        self.rows.faults_of(error.faults, rows, positions_of[modality])
                    ) from error
        chosen = torch.from_numpy(rows)
        return PairedBatch(
            inputs=inputs,
            index=index,
            targets={task: target[chosen] for task, target in self.rows.targets.items()},
            ids=self.rows.names(rows),
            positions=places,
            kinds={name: torch.from_numpy(of_kind_R[rows]) for name, of_kind_R in self.rows.kinds.items()},
        )

    def _after_dropout(self, rows: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.int64]]:
        index = {modality: self.rows.index[modality][rows] for modality in self.readers}
        if not any(self.dropout.values()):
            return index
        present_MB = np.stack([index_B != ABSENT for index_B in index.values()])
        draw = np.random.default_rng(seed)
        rates_M1 = np.array([[self.dropout.get(modality, 0.0)] for modality in index])
        kept_MB = present_MB & (draw.random(present_MB.shape) >= rates_M1)
        # a row that would lose all keeps one of those that it has
        one_B = np.where(present_MB, draw.random(present_MB.shape), -1).argmax(0)
        lost_B = ~kept_MB.any(0)
        kept_MB[one_B[lost_B], lost_B] = present_MB[one_B[lost_B], lost_B]
        return {
            modality: np.where(kept_B, index_B, ABSENT)
            for (modality, index_B), kept_B in zip(index.items(), kept_MB, strict=True)
        }
