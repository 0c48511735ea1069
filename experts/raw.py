"""What a transform says of a raw input of another kind."""

from __future__ import annotations

from typing import Any


def require_kind(raw: Any, kinds: type | tuple[type, ...], expected: str) -> None:
    """Refuse a raw input of another kind, as a transform should: it may be asked whether it can use it.

    Raises:
        ValueError: It is of none of these types.
    """
    if not isinstance(raw, kinds):
        raise ValueError(f"expected {expected}, found {type(raw).__name__}")
