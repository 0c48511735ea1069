"""How large raw inputs are: words, pixels, seconds, numbers."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FEW_NUMBERS = 16  # so few may well be the same in two rows that have nothing to do with each other


def measure(raw: Any) -> dict[str, float]:
    """Return an input's sizes by name; of a sequence its length, and its items' sizes on average."""
    match raw:
        case Image.Image():
            return {"width in pixels": raw.width, "height in pixels": raw.height}
        case str():
            return {"words": len(raw.split())}
        case (np.ndarray() as samples_TC, int() | np.integer() as rate):
            return {"seconds": len(samples_TC) / max(1, rate), "sample rate in Hz": float(rate)}
        case np.ndarray():
            return {"vectors": 1 if raw.ndim < 2 else len(raw), "numbers a vector": raw.shape[-1] if raw.ndim else 1}
        case dict():
            return {"cells that are empty": sum(value is None for value in raw.values())}
        case list() | tuple():
            items = [measure(item) for item in raw]
            names = dict.fromkeys(name for item in items for name in item)
            means = {name: float(np.mean([item[name] for item in items if name in item])) for name in names}
            return {"items": len(raw), **means}
    return {}


def identifies(raw: Any) -> bool:
    """Return whether two rows that have the same such input are about the same thing, as two with one photo are.

    A question or a category may well come up twice.
    """
    match raw:
        case Image.Image():
            return True
        case (np.ndarray() as samples_TC, int() | np.integer()):
            return samples_TC.size >= FEW_NUMBERS
        case np.ndarray():
            return raw.size >= FEW_NUMBERS
        case list() | tuple():
            return any(map(identifies, raw))
    return False


class Sizes:
    """Sizes of many inputs, by name, at 4 bytes each."""

    def __init__(self) -> None:
        self._values: dict[str, array[float]] = {}

    def add(self, measured: Iterable[Mapping[str, float]]) -> None:
        """Take those of some inputs."""
        for sizes in measured:
            for name, value in sizes.items():
                self._values.setdefault(name, array("f")).append(value)

    def values(self) -> dict[str, NDArray[np.float32]]:
        """Return all that were taken."""
        return {name: np.frombuffer(values, np.float32) for name, values in self._values.items()}

    def summary(self) -> dict[str, dict[str, float]]:
        """Return how many there are, the least, the median and the largest."""
        return {
            name: {
                "count": len(values),
                "min": _rounded(values.min()),
                "median": _rounded(np.median(values)),
                "max": _rounded(values.max()),
            }
            for name, values in self.values().items()
        }


def _rounded(value: Any) -> float:
    number = round(float(value), 3)
    return int(number) if math.isfinite(number) and number.is_integer() else number
