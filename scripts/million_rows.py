"""Rows of random floats and an expert that passes them on, for bench_memory.py. YAML names classes by module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import Source
from experts.base import Expert, ExpertTokens


class Floats(Source):
    """Vectors that are drawn when they are read."""

    def __init__(self, count: int, width: int) -> None:
        self.count = count
        self.width = width

    def __len__(self) -> int:
        return self.count

    def load(self, position: int) -> NDArray[np.float32]:
        return np.random.default_rng(position).standard_normal(self.width, dtype=np.float32)

    def name(self, position: int) -> str:
        return f"vector {position}"

    def content(self, position: int) -> bytes:
        return f"{self.width} {position}".encode()


class FloatRows(PairedDataModule):
    """One vector a row; the target is the sign of its first number."""

    def __init__(self, *, num_rows: int, width: int, batch_size: int = 512) -> None:
        super().__init__(batch_size=batch_size)
        self.num_rows = num_rows
        self.width = width

    @property
    def outputs(self) -> dict[str, list[str]]:
        return {"sign": ["minus", "plus"]}

    def load(self, split: Split) -> PairedRows | None:
        if split != "train":
            return None
        rows = np.arange(self.num_rows)
        return PairedRows(
            sources={"floats": Floats(self.num_rows, self.width)},
            index={"floats": rows},
            targets={"sign": torch.from_numpy(rows % 2)},
            ids=NumberedIds(split, rows),
        )


class FloatTransform:
    """Stacks vectors."""

    def __call__(self, raw: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(raw)

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(items))

    def describe(self) -> dict[str, Any]:
        return {}

    @property
    def for_evaluation(self) -> FloatTransform:
        return self


class FloatsExpert(Expert):
    """Passes vectors on as tokens."""

    def __init__(self, *, width: int) -> None:
        super().__init__(nn.Identity(), width=width, transform=FloatTransform(), precision="float32")

    def encode(self, inputs: Tensor) -> ExpertTokens:
        return ExpertTokens(inputs.unsqueeze(1), torch.ones(len(inputs), 1, dtype=torch.bool, device=inputs.device))
