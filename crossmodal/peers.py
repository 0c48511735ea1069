"""What devices that train together tell each other.

Legend: E vectors of other devices, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import get_world_size, is_initialized
from torch.nn import functional as F


def has_peers() -> bool:
    """Return whether other devices train, too."""
    return is_initialized() and get_world_size() > 1


def gathered(vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors (E, D) and ids (E,) of all other devices; gradients go back to them.

    Every device has to call it, also one that has no vectors, and to let its loss depend on what it is given.
    """
    if not has_peers():
        return vectors[:0], ids[:0]
    from torch.distributed import all_gather, all_gather_object, get_rank
    from torch.distributed.nn.functional import all_gather as all_gather_with_gradients

    told: list[tuple[int, bool]] = [(0, False)] * get_world_size()
    all_gather_object(told, (len(vectors), vectors.requires_grad))
    counts = [count for count, _ in told]
    if not max(counts):
        return vectors[:0], ids[:0]
    if any(trains for _, trains in told) and not vectors.requires_grad:  # the way back takes every device, too
        vectors = vectors.detach().requires_grad_()
    missing = max(counts) - len(vectors)
    every_vector: list[Tensor] = all_gather_with_gradients(F.pad(vectors, (0, 0, 0, missing)).contiguous())  # type: ignore[no-untyped-call]
    every_id = [ids.new_empty(max(counts)) for _ in counts]
    all_gather(every_id, F.pad(ids, (0, missing)).contiguous())
    others = [rank for rank in range(len(counts)) if rank != get_rank()]
    return (
        torch.cat([every_vector[rank][: counts[rank]] for rank in others]),
        torch.cat([every_id[rank][: counts[rank]] for rank in others]),
    )
