"""Rows to look at, as they were read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.batch import ABSENT
from datamodules.rows import PairedRows


@dataclass(frozen=True)
class Sample:
    """A row as it was read.

    Args:
        row: Its name.
        inputs: By modality, None where it has none.
        targets: By task, in words or numbers.
    """

    row: str
    inputs: dict[str, Any]
    targets: dict[str, str]


def read_sample(
    rows: PairedRows, row: int, modalities: Sequence[str], outputs: Mapping[str, list[str]]
) -> Sample | None:
    """Return a row of a split, or None if it cannot be read."""
    inputs: dict[str, Any] = {}
    for modality in modalities:
        position = int(rows.index[modality][row])
        try:
            inputs[modality] = None if position == ABSENT else rows.sources[modality].load(position)
        except (OSError, ValueError):
            return None
    targets = {task: in_words(target[row].numpy(), outputs.get(task, [])) for task, target in rows.targets.items()}
    return Sample(rows.ids[row], inputs, targets)


def in_words(target: NDArray[Any], names: list[str]) -> str:
    """Return a row's class, its labels or its quantities."""
    if target.dtype.kind == "f":
        values = [f"{value:.6g}" for value in np.atleast_1d(target)]
        is_named = len(values) == len(names) > 1
        return (
            ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True)) if is_named else values[0]
        )
    if target.ndim == 0:
        return names[int(target)] if 0 <= target < len(names) else str(target)
    return ", ".join(name for name, on in zip(names, target.tolist(), strict=False) if on) or "no label"
