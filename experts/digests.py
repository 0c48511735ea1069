"""Hashes of what an expert's tokens depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def digest_of(parts: dict[str, Any]) -> str:
    """Hash what JSON can hold: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def without_source(parts: dict[str, Any]) -> dict[str, Any]:
    """Return what an expert says of itself, and of one inside it, but for the code."""
    kept = {key: value for key, value in parts.items() if key != "source"}
    return {**kept, "expert": without_source(kept["expert"])} if "expert" in kept else kept


@cache
def source_digest(kind: type) -> str:
    """Hash a class's code: tokens of an `encode` that has been edited since are not its tokens."""
    try:
        return hashlib.sha256(inspect.getsource(kind).encode()).hexdigest()
    except (OSError, TypeError):  # typed in at a prompt, or a built-in
        return ""


def plain(value: Any) -> Any:
    """Return a value as JSON: an array by its digest, another object by its class."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case set() | frozenset():
            return sorted(map(repr, value))
        case Path():
            return str(value)
        case Tensor():
            return digest_of_state({"": value})
        case np.generic() | np.ndarray():
            return hashlib.sha256(f"{value.dtype} {value.shape}".encode() + value.tobytes()).hexdigest()
    return getattr(value, "__qualname__", type(value).__qualname__)


def digest_of_state(state: Mapping[str, Tensor]) -> str:
    """Hash tensors by their names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
