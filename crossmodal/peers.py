"""What devices that train together tell each other.

Legend: E vectors of other devices, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed import get_world_size, is_initialized
from torch.nn import functional as F


def num_devices() -> int:
    """Return how many devices train."""
    return get_world_size() if is_initialized() else 1


def has_peers() -> bool:
    """Return whether other devices train, too."""
    return num_devices() > 1


def most_of_all(vectors: Tensor) -> int:
    """Return how many vectors the device has that has most. Every device has to call it."""
    from torch.distributed import ReduceOp, all_reduce

    count = torch.tensor(len(vectors), device=vectors.device)
    all_reduce(count, ReduceOp.MAX)
    return int(count)


def passed_on(tensor: Tensor) -> Tensor:
    """Pass a tensor on to the next device of a ring; return what the one before has passed on, of the same shape."""
    from torch.distributed import P2POp, batch_isend_irecv, get_rank, irecv, isend

    rank, count = get_rank(), get_world_size()
    tensor, received = tensor.contiguous(), torch.empty_like(tensor, memory_format=torch.contiguous_format)
    sending = P2POp(isend, tensor, (rank + 1) % count), P2POp(irecv, received, (rank - 1) % count)
    for work in batch_isend_irecv([*sending]):
        work.wait()
    return received


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
