"""Several experts for one modality, such as two networks that look at the same pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experts.base import Expert, Transform


def another_expert(modality: str, expert: Expert) -> Expert:
    """Let an expert read a modality that is not called by the expert's own name.

    Args:
        modality: Of the data.
        expert: Any.
    """
    expert.transform = ModalityTransform(modality, expert.transform)
    return expert


class ModalityTransform:
    """A transform that says which modality it is for.

    Args:
        modality: Of the data.
        wrapped: Does the work.
    """

    def __init__(self, modality: str, wrapped: Transform) -> None:
        self.modality = modality
        self.wrapped = wrapped  # its code counts for the expert's fingerprint

    def __call__(self, raw: Any) -> Any:
        """Transform one raw input."""
        return self.wrapped(raw)

    def collate(self, items: Sequence[Any]) -> Any:
        """Join transformed inputs."""
        return self.wrapped.collate(items)

    def describe(self) -> dict[str, Any]:
        """Return what the transform says of itself: what it makes does not depend on the modality's name."""
        return self.wrapped.describe()

    @property
    def for_evaluation(self) -> Transform:
        """Without chance."""
        plain = self.wrapped.for_evaluation
        return self if plain is self.wrapped else ModalityTransform(self.modality, plain)

    def __getattr__(self, name: str) -> Any:
        # what some transforms can do besides, such as `complaint` or `parts`
        if name.startswith("_") or name == "wrapped":  # not there yet while a copy is made
            raise AttributeError(name)
        return getattr(self.wrapped, name)
