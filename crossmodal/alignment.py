"""Alignment: pulls the tokens of two experts together on rows that have both, so that one can stand for the other.

Legend: B rows that have both, U distinct inputs of the target, E other candidates, D width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.contrast import STEEPEST, log_share_of_own, scale_of, sigmoid_losses
from crossmodal.peers import gathered, has_peers
from crossmodal.retrieval import Retrieval, first_of_each
from crossmodal.ring import NO_INPUT, RingLoss
from datamodules.batch import PairedBatch
from experts.base import ExpertTokens


@dataclass(frozen=True)
class Pairs:
    """The mean tokens of B rows that have both modalities.

    Args:
        source_BD: Of the expert that is aligned.
        target_UD: Of the distinct inputs that it is aligned to.
        own_B: Which of these is the row's own.
        ids_U: The place of each of them in its source, the same in every batch.
    """

    source_BD: Tensor
    target_UD: Tensor
    own_B: Tensor
    ids_U: Tensor

    @property
    def own_ids(self) -> Tensor:
        """The place of each row's own target, (B,)."""
        return self.ids_U[self.own_B]

    @property
    def own_targets(self) -> Tensor:
        """Each row's own target, (B, D)."""
        return self.target_UD[self.own_B]


class Alignment(nn.Module, ABC):
    """Pulls the mean tokens of one modality to those of another.

    Args:
        widths: Of the experts' tokens, by modality.
        source: The modality whose expert is aligned.
        target: The modality that it is aligned to. Its expert may be frozen, or train too.
        weight: Of the loss.

    Raises:
        ValueError: There is no such expert, or the widths differ.
    """

    def __init__(self, widths: Mapping[str, int], *, source: str, target: str, weight: float = 1.0) -> None:
        super().__init__()
        for modality in (source, target):
            if modality not in widths:
                raise ValueError(f"there is no expert for {modality!r} to align; there are {', '.join(widths)}")
        if source == target:
            raise ValueError(f"{source!r} cannot be aligned to itself")
        if widths[source] != widths[target]:
            raise ValueError(
                f"{source!r} has tokens of width {widths[source]}, {target!r} of {widths[target]}: put the expert for "
                f"{source!r} into experts.adapters.ProjectedExpert with width: {widths[target]}"
            )
        self.source = source
        self.target = target
        self.weight = weight

    @property
    def name(self) -> str:
        """What its loss is called."""
        return f"{type(self).__name__}/{self.source}-{self.target}"

    @property
    def needs_frozen_target(self) -> bool:
        """Whether tokens of the target are kept, which must not change meanwhile."""
        return False

    def pairs(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> Pairs | None:
        """Return what is to be aligned of a batch, or None if no row has both modalities."""
        both_B = batch.present(self.source) & batch.present(self.target)
        if not both_B.any():
            return None
        used_U, own_B = torch.unique(batch.index[self.target][both_B], return_inverse=True)
        ids_U = batch.positions[self.target].to(used_U.device)[used_U]
        source_UD, target_UD = (tokens[modality].mean().float() for modality in (self.source, self.target))
        return Pairs(source_UD[batch.index[self.source][both_B]], target_UD[used_U], own_B, ids_U)

    def forward(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> dict[str, Tensor]:
        """Return the weighted loss by its name; nothing where no row has both modalities."""
        pairs = self.pairs(tokens, batch) or self.no_pairs(tokens)
        if pairs is None:
            return {}
        loss = self.loss(pairs)
        return {self.name: self.weight * loss} if len(pairs.own_B) or loss.requires_grad else {}

    def no_pairs(self, tokens: Mapping[str, ExpertTokens]) -> Pairs | None:
        """Return what takes part for a batch without pairs, whose loss is zero, or None if nothing needs to."""
        return None

    @abstractmethod
    def loss(self, pairs: Pairs) -> Tensor:
        """Return the mean loss of the rows."""


class Regression(Alignment):
    """The squared distance from the target, as a share of the target's mean square."""

    def loss(self, pairs: Pairs) -> Tensor:
        """Return the mean loss of the rows."""
        power = pairs.target_UD.detach().square().sum(1).mean().clamp_min(1e-12)
        return (pairs.source_BD - pairs.own_targets).square().sum(1).mean() / power


class Contrastive(Alignment):
    """Base of the losses that tell a row's own target from others: of the batch, of other devices, of a queue.

    Args:
        widths: Of the experts' tokens, by modality.
        source: The modality whose expert is aligned.
        target: The modality that it is aligned to.
        weight: Of the loss.
        temperature: With which training begins; it is learned.
        queue: So many targets of earlier batches are candidates too (MoCo, arXiv 1911.05722), for a frozen target.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        source: str,
        target: str,
        weight: float = 1.0,
        temperature: float = 0.07,
        queue: int = 0,
    ) -> None:
        super().__init__(widths, source=source, target=target, weight=weight)
        if temperature < 1 / STEEPEST or queue < 0:
            raise ValueError(
                f"temperature must be at least {1 / STEEPEST}, not {temperature}, and queue at least 0, not {queue}"
            )
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.queue_ED: Tensor
        self.queue_ids_E: Tensor
        self.queue_next: Tensor
        self.register_buffer("queue_ED", torch.zeros(queue, widths[target]))
        self.register_buffer("queue_ids_E", torch.full((queue,), NO_INPUT))
        self.register_buffer("queue_next", torch.tensor(0))

    @property
    def needs_frozen_target(self) -> bool:
        """Whether there is a queue."""
        return len(self.queue_ED) > 0

    def no_pairs(self, tokens: Mapping[str, ExpertTokens]) -> Pairs | None:
        """Return no rows and no targets where other devices wait for them: the loss is zero, and keeps the graph."""
        if not has_peers():
            return None
        nothing_0D, none_0 = self.queue_ED[:0].float(), self.queue_ids_E[:0]
        source_0D, target_0D = (
            tokens[modality].mean().float()[:0] if modality in tokens else nothing_0D
            for modality in (self.source, self.target)
        )
        return Pairs(source_0D, target_0D, none_0, none_0)

    def scale(self) -> Tensor:
        """Return what similarities are multiplied by."""
        return scale_of(self.log_scale, training=self.training)

    def candidates(self, pairs: Pairs, *, of_peers: bool = True) -> tuple[Tensor, Tensor]:
        """Return unit vectors of the batch's targets and of others, (U + E, D), and their ids; no id stands twice."""
        target_UD = F.normalize(pairs.target_UD, dim=1)
        others, other_ids = gathered(target_UD, pairs.ids_U) if of_peers else (target_UD[:0], pairs.ids_U[:0])
        known = (self.queue_ids_E != NO_INPUT) & self.training  # another split's ids mean other inputs
        vectors = torch.cat([target_UD, others, self.queue_ED[known]])
        ids = torch.cat([pairs.ids_U, other_ids, self.queue_ids_E[known]])
        if self.training and len(self.queue_ED):
            self._enqueue(target_UD.detach(), pairs.ids_U)
        first = first_of_each(ids).sort().values
        return vectors[first], ids[first]

    @torch.no_grad()
    def _enqueue(self, target_UD: Tensor, ids_U: Tensor) -> None:
        size = len(self.queue_ED)
        places = (self.queue_next + torch.arange(min(len(ids_U), size), device=ids_U.device)) % size
        self.queue_ED = self.queue_ED.index_copy(0, places, target_UD[: len(places)])
        self.queue_ids_E = self.queue_ids_E.index_copy(0, places, ids_U[: len(places)])
        self.queue_next = (self.queue_next + len(places)) % size


class InfoNCE(Contrastive):
    """Cross-entropy of a row's own target among all, and of a target's own rows among all (arXiv 1807.03748, CLIP)."""

    def loss(self, pairs: Pairs) -> Tensor:
        """Return the mean of both directions."""
        source_BD = F.normalize(pairs.source_BD, dim=1)
        targets, _ = self.candidates(pairs)
        reduction = "mean" if len(source_BD) else "sum"  # a mean of nothing is not a number
        forth = F.cross_entropy(self.scale() * source_BD @ targets.T, pairs.own_B, reduction=reduction)
        others_ED, others_E = gathered(source_BD, pairs.own_ids)
        sources, owners = torch.cat([source_BD, others_ED]), torch.cat([pairs.own_ids, others_E])
        logits = self.scale() * targets[: len(pairs.ids_U)] @ sources.T
        shares_U = log_share_of_own(logits, owners == pairs.ids_U.unsqueeze(1))
        back = -(shares_U.mean() if len(shares_U) else shares_U.sum())
        return (forth + back) / 2


class SigLIP(Contrastive):
    """Each pair of a row and a target is told apart by itself (Zhai et al. 2023, arXiv 2303.15343).

    Several devices pass their targets on in a ring, so that none holds all (`crossmodal.ring`).

    Args:
        widths: Of the experts' tokens, by modality.
        source: The modality whose expert is aligned.
        target: The modality that it is aligned to.
        weight: Of the loss.
        temperature: With which training begins; it is learned.
        queue: So many targets of earlier batches are candidates too, for a frozen target.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        source: str,
        target: str,
        weight: float = 1.0,
        temperature: float = 0.1,
        queue: int = 0,
    ) -> None:
        super().__init__(widths, source=source, target=target, weight=weight, temperature=temperature, queue=queue)
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def loss(self, pairs: Pairs) -> Tensor:
        """Return the sum over all targets, as the mean over the rows."""
        targets, ids = self.candidates(pairs, of_peers=False)
        source_BD, scale = F.normalize(pairs.source_BD, dim=1), self.scale()
        logits = scale * source_BD @ targets.T + self.bias
        losses_B = sigmoid_losses(logits, ids == pairs.own_ids.unsqueeze(1)).sum(1)
        loss = losses_B.mean() if len(losses_B) else losses_B.sum()
        if has_peers():
            own_UD = F.normalize(pairs.target_UD, dim=1)
            given = (source_BD, own_UD, scale, self.bias, pairs.own_ids, pairs.ids_U, ids)
            others: Tensor = RingLoss.apply(*given)  # type: ignore[no-untyped-call]
            loss = loss + others / max(1, len(source_BD))
        return loss


class Alignments(nn.Module):
    """Several alignments, and how well each is done.

    Args:
        alignments: Of whatever modalities.
        trained: The modalities whose experts train.

    Raises:
        ValueError: One stands twice, or keeps targets that change.
    """

    def __init__(self, alignments: Iterable[Alignment], *, trained: Collection[str] = ()) -> None:
        super().__init__()
        self.alignments = nn.ModuleList(alignments)
        pairs = dict.fromkeys((one.source, one.target) for one in self.all)
        self._retrievals = {pair: Retrieval(*pair) for pair in pairs if pair[::-1] not in pairs or pair[0] < pair[1]}
        names = [one.name for one in self.all]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"model.alignments: {twice} stands twice")
        if stale := next((one for one in self.all if one.needs_frozen_target and one.target in trained), None):
            raise ValueError(
                f"model.alignments: {stale.name} has a `queue`, but the expert for {stale.target!r} trains, and the "
                f"queue's targets would be of older weights: set `queue: 0`, or freeze experts.{stale.target}"
            )

    @property
    def all(self) -> list[Alignment]:
        """The alignments."""
        return list(self.alignments)  # type: ignore[arg-type]

    def forward(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> dict[str, Tensor]:
        """Return the weighted losses by name; of an alignment that no row of the batch has both sides of, none."""
        return {name: loss for one in self.all for name, loss in one(tokens, batch).items()}

    def begin(self) -> None:
        """Forget what was measured on a split that was not measured to its end."""
        for retrieval in self._retrievals.values():
            retrieval.reset()

    def measure(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> None:
        """Add a batch to the figures."""
        first = {(one.source, one.target): one for one in self.all}
        for pair, retrieval in self._retrievals.items():
            if (pairs := first[pair].pairs(tokens, batch)) is not None:
                retrieval.to(pairs.source_BD.device).update(pairs.source_BD, pairs.own_targets, pairs.own_ids)

    def figures(self) -> dict[str, Tensor]:
        """Return how well the modalities find each other in what was added, and begin anew."""
        figures: dict[str, Tensor] = {}
        for retrieval in self._retrievals.values():
            if retrieval.update_called:
                figures |= retrieval.compute()
                retrieval.reset()
        return figures
