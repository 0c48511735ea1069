"""Which modality writes to which slot of a workspace, and how many directions representations use.

Legend: B rows, H heads, L slots, N tokens, M modalities, D width, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crossmodal.fusion.workspace import WorkspaceFusion


def effective_rank(values_RD: Tensor) -> float:
    """Return the effective rank (Roy & Vetterli 2007): the exponential of the entropy of the singular values' shares.

    1 where all rows lie on a line through zero, D at most. What falls while a model trains may be collapsing. NaN where
    a value is not finite.
    """
    if not values_RD.isfinite().all():
        return float("nan")
    sizes = torch.linalg.svdvals(values_RD.cpu().double())
    shares = sizes / sizes.sum().clamp_min(torch.finfo(sizes.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())


class Writing:
    """How the slots of a workspace divide what they read among modalities, in the mean over rows and heads.

    Args:
        fusion: Whose rounds are watched.
    """

    def __init__(self, fusion: WorkspaceFusion) -> None:
        self._fusion = fusion
        self._owners: list[str] = []
        self._round = 0
        self._sums: dict[tuple[int, str], Tensor] = {}
        self._rows = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch the fusion; it computes what it always does."""
        layers = [self._fusion.write, *self._fusion.later_writes]
        handles = [self._fusion.register_forward_pre_hook(self._begin)]
        handles += [layer.attention.register_forward_pre_hook(self._write) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        (tokens,) = inputs
        self._owners = self._fusion.owners(tokens)
        self._round = 0

    def _write(self, attention: nn.Module, inputs: tuple[Any, ...]) -> None:
        _, _, with_BHLN = attention.with_shares(*inputs)  # type: ignore[operator]
        of_tokens_LN = with_BHLN.mean(1).sum(0)
        for name in dict.fromkeys(self._owners):
            of_name = torch.tensor([owner == name for owner in self._owners], device=of_tokens_LN.device)
            of_name_L = of_tokens_LN[:, of_name].sum(1)
            self._sums[self._round, name] = self._sums.get((self._round, name), 0) + of_name_L
        if self._round == 0:
            self._rows += len(with_BHLN)
        self._round += 1

    def matrix(self) -> tuple[list[str], list[str], list[list[float]]]:
        """Return rows (a slot in a round), columns (modalities), and shares that sum to 1 in each row."""
        names = list(dict.fromkeys(name for _, name in self._sums))
        rounds = sorted({number for number, _ in self._sums})
        rows, values = [], []
        for number in rounds:
            slots_LM = torch.stack([self._sums[number, name] for name in names], dim=1) / max(1, self._rows)
            rows += [f"round {number + 1}, slot {slot + 1}" for slot in range(len(slots_LM))]
            values += slots_LM.tolist()
        return rows, names, values
