"""A transform for experts whose raw inputs are tensors already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class AsItIs:
    def __call__(self, raw: Tensor) -> Tensor:
        return raw

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(items))

    @property
    def for_evaluation(self) -> AsItIs:
        return self

    def describe(self) -> dict[str, Any]:
        return {}
