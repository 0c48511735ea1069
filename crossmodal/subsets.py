"""Subsets of modalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

FEW = 3  # modalities of which all subsets are few


def subsets(modalities: Sequence[str]) -> Iterator[frozenset[str]]:
    """Yield all 2^M subsets, small ones first."""
    for size in range(len(modalities) + 1):
        yield from map(frozenset, combinations(modalities, size))


def few_subsets(modalities: Sequence[str], *, few: int = FEW) -> list[frozenset[str]]:
    """Return all subsets but the empty one; of more than a few modalities each alone, all but each, and all."""
    if len(modalities) <= few:
        return [some for some in subsets(modalities) if some]
    everything = frozenset(modalities)
    alone, without = ([frozenset({one}) for one in modalities], [everything - {one} for one in modalities])
    return [*alone, *without, everything]
