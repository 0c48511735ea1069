"""Retrieval: how well the vectors of one modality find those of another.

Legend: R rows, Q queries, C candidates, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

RECALLS = (1, 5, 10)


class Retrieval(Metric):
    """Recall at 1, 5 and 10 and the median rank, both ways, by cosine.

    Args:
        source: Name of the first modality.
        target: Name of the second: its inputs have ids, and rows with the same id have the same input.
    """

    full_state_update = False

    def __init__(self, source: str, target: str) -> None:
        super().__init__()
        self.names = source, target
        self.source: list[Tensor]
        self.target: list[Tensor]
        self.ids: list[Tensor]
        for state in ("source", "target", "ids"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, source_RD: Tensor, target_RD: Tensor, ids_R: Tensor) -> None:
        """Add rows: both vectors, and the id of the target."""
        self.source.append(source_RD.detach())
        self.target.append(target_RD.detach())
        self.ids.append(ids_R)

    def compute(self) -> dict[str, Tensor]:
        """Return the figures by name, such as `speech-question/recall@1`."""
        source_RD, target_RD, ids_R = (
            torch.cat(values) if isinstance(values, list) else values for values in (self.source, self.target, self.ids)
        )
        first_C = first_of_each(ids_R)
        target_CD, ids_C = target_RD[first_C], ids_R[first_C]
        forth = ranks(source_RD, target_CD, ids_R, ids_C)
        back = ranks(target_CD, source_RD, ids_C, ids_R)
        figures: dict[str, Tensor] = {}
        for names, ranks_Q in ((self.names, forth), (self.names[::-1], back)):
            prefix = "-".join(names)
            figures |= {f"{prefix}/recall@{count}": (ranks_Q <= count).float().mean() for count in RECALLS}
            figures[f"{prefix}/median_rank"] = ranks_Q.float().median()
        return figures


def ranks(queries_QD: Tensor, candidates_CD: Tensor, ids_Q: Tensor, ids_C: Tensor, *, chunk: int = 1024) -> Tensor:
    """Return the rank, from 1, of each query's best candidate among those with its id.

    Args:
        queries_QD: Vectors.
        candidates_CD: Vectors.
        ids_Q: Of the queries.
        ids_C: Of the candidates; each query's is among them.
        chunk: Queries that are compared at once.
    """
    candidates_CD = F.normalize(candidates_CD, dim=1)
    found = []
    for queries, ids in zip(torch.split(queries_QD, chunk), torch.split(ids_Q, chunk), strict=True):
        scores_QC = F.normalize(queries, dim=1) @ candidates_CD.T
        is_own_QC = ids.unsqueeze(1) == ids_C
        best_Q1 = scores_QC.masked_fill(~is_own_QC, -torch.inf).amax(1, keepdim=True)
        found.append(1 + (~(scores_QC < best_Q1) & ~is_own_QC).sum(1))  # a tie is no find, nor is NaN
    return torch.cat(found)


def first_of_each(ids_R: Tensor) -> Tensor:
    """Return the first row of each id, by the size of the ids."""
    ids_C, inverse_R = torch.unique(ids_R, return_inverse=True)
    order_R = torch.arange(len(ids_R), device=ids_R.device)
    return torch.full_like(ids_C, len(ids_R)).scatter_reduce(0, inverse_R, order_R, "amin")
