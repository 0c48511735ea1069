"""What experts around another expert have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from experts.base import Expert, ExpertTokens, Transform


class WrappingExpert(Expert):
    """An expert around another, which learns its statistics and describes itself as before.

    Args:
        expert: It has frozen and cast itself; that is left alone.
        width: D of the tokens; by default the expert's.
        transform: By default the expert's.
        freeze: Nothing trains.
    """

    network: Expert

    def __init__(
        self, expert: Expert, *, width: int | None = None, transform: Transform | None = None, freeze: bool = False
    ) -> None:
        super().__init__(
            expert,
            width=expert.width if width is None else width,
            transform=expert.transform if transform is None else transform,
            freeze=freeze,
            precision="float32",  # the expert's own may be less
        )

    def encode(self, inputs: Any) -> ExpertTokens:
        """Return the expert's tokens."""
        return self.network.encode(inputs)

    @property
    def needs_statistics(self) -> bool:
        """Whether the expert does."""
        return self.network.needs_statistics

    def learn_statistics(self, batches: Iterable[Any]) -> None:
        """Let the expert learn them."""
        self.network.learn_statistics(batches)

    def label(self) -> str:
        """Return the expert's label, too."""
        return f"{super().label()} of {self.network.label()}"

    def describe(self) -> dict[str, Any]:
        """Return what the expert says of itself, too."""
        return {**super().describe(), "expert": self.network.describe()}


class FrozenExpert(WrappingExpert):
    """An expert that does not train, whether or not it can be told so.

    Its network stays as it was made, so that weights that were trained can still be loaded into it.

    Args:
        expert: Any.
    """

    def __init__(self, expert: Expert) -> None:
        super().__init__(expert, transform=expert.transform.for_evaluation, freeze=True)
