"""What every fusion is: from experts' tokens to workspace tokens.

Legend: B rows, N tokens, D width, L workspace tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from experts.base import ExpertTokens


class Fusion(nn.Module, ABC):
    """From each modality's tokens to workspace tokens.

    Every modality is always passed; a row that lacks one has a mask of all false there, and what lies under
    a false mask changes nothing. Rows may lack any modalities, even all.

    Args:
        modalities: Their names, in a fixed order.
        width: D, the same for all tokens.

    Raises:
        ValueError: The width is below 1.
    """

    def __init__(self, modalities: Sequence[str], *, width: int) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width must be at least 1, not {width}")
        self.modalities = tuple(modalities)
        self.width = width

    @abstractmethod
    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse tokens of width D to workspace tokens of shape (B, L, D)."""
