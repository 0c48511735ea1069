"""Transforms that leave raw inputs as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Listed:
    """Leaves inputs as they are, in a list."""

    def __call__(self, raw: Any) -> Any:
        return raw

    def collate(self, items: Any) -> list[Any]:
        return list(items)

    @property
    def for_evaluation(self) -> Listed:
        return self


class AsItIs:
    """Stacks raw inputs that are tensors already."""

    def __call__(self, raw: Tensor) -> Tensor:
        return raw

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(items))

    @property
    def for_evaluation(self) -> AsItIs:
        return self

    def describe(self) -> dict[str, Any]:
        return {}
