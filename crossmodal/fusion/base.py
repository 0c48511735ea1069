"""What every fusion is: from experts' tokens to workspace tokens.

Legend: B rows, N tokens, D width, L workspace tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from experts.base import ExpertTokens


def at_least_1(**sizes: int) -> None:
    """Check sizes by their names.

    Raises:
        ValueError: One is below 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, not {size}")


class Fusion(nn.Module, ABC):
    """From each modality's tokens to workspace tokens.

    Every modality is always passed; a row that lacks one has a mask of all false there, and what lies under
    a false mask changes nothing. Rows may lack any modalities, even all. Of the modalities that joined later those
    are passed that the rows have: without them it computes just what it did before they joined.

    A fusion may have losses of its own: `terms`, by name, which each `forward` sets while training, and empties else.

    Args:
        modalities: Their names, in a fixed order.
        width: D, the same for all tokens.

    Raises:
        ValueError: The width is below 1.
    """

    def __init__(self, modalities: Sequence[str], *, width: int) -> None:
        super().__init__()
        at_least_1(width=width)
        self.modalities = tuple(modalities)
        self.width = width
        self.joined: dict[str, set[str]] = {}
        self.terms: dict[str, Tensor] = {}

    def join(self, modality: str) -> None:
        """Let a modality join a trained model; `joined` has the names of its parameters and buffers.

        Raises:
            ValueError: This fusion takes no more than it was made for.
        """
        before = self.state_dict().keys()
        self.add(modality)
        self.joined[modality] = set(self.state_dict().keys() - before)

    def add(self, modality: str) -> None:
        """Add the parameters of one more modality.

        Raises:
            ValueError: This fusion takes no more than it was made for.
        """
        raise ValueError(f"{type(self).__name__} has no method `add`, so that no modality can join it")

    def imitate(self, modality: str, like: str) -> None:
        """Let a modality that joined be read as another one is."""
        raise ValueError(f"{type(self).__name__} has no method `imitate`, so that {modality!r} cannot be like {like!r}")

    @abstractmethod
    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse tokens of width D to workspace tokens of shape (B, L, D)."""
