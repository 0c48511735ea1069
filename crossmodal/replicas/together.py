"""What nodes do in a round, side by side in one step of all: see `crossmodal.replicas.stacked`.

Frozen experts say what they make of each node's inputs as always; what comes after them is stacked.

Legend: K nodes, B rows, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.module import CrossModalModule
from crossmodal.objectives import refuse_infinite
from crossmodal.optimization import WarmupCosine
from crossmodal.replicas.compression import Compressor
from crossmodal.replicas.engine import Job, Update
from crossmodal.replicas.node import LocalTraining, Memory, batches_of, learned_names, seed_of, send
from crossmodal.replicas.server import proximal_term
from crossmodal.replicas.stacked import Stack
from datamodules.batch import ABSENT, PairedBatch, gather_rows
from datamodules.loading import ResumableLoader
from experts.base import ExpertTokens

PREFIX = "module."  # of the entries of `_Terms`


def alike(jobs: Sequence[Job], loaders: Sequence[ResumableLoader], most: int) -> list[list[int]]:
    """Group jobs whose nodes can train side by side: with equally many rows, and the same modalities in all of them.

    Args:
        jobs: Of one round.
        loaders: Of each node's rows.
        most: In a group.

    Returns:
        Numbers of jobs.
    """
    if most == 1:
        return [[number] for number in range(len(jobs))]
    groups: dict[object, list[int]] = {}
    for number, job in enumerate(jobs):
        rows = loaders[job.node].dataset.rows
        counts = {name: int((index_R >= 0).sum()) for name, index_R in rows.index.items()}
        has = tuple(sorted(name for name, count in counts.items() if count))
        is_mixed = any(0 < count < len(rows) for count in counts.values())  # a batch may lack what others have
        own = job.node if is_mixed or not len(rows) or job.local is not None else None
        groups.setdefault((len(rows), has, job.proximal, own), []).append(number)
    return [own[first : first + most] for own in groups.values() for first in range(0, len(own), most)]


def refuse_what_is_not_stacked(module: CrossModalModule) -> None:
    """Refuse a model whose nodes cannot train side by side.

    Raises:
        ValueError: It is such.
    """
    model = module.model
    training = [name for name, expert in model.experts.items() if any(one.requires_grad for one in expert.parameters())]
    reasons = {
        f"experts.{training[0] if training else ''} trains": bool(training),
        "it has a mixture": model.mixture is not None,
        "it has alignments": bool(module.alignments.all),
        "it has model.balance": bool(module.balancing.methods),
        "it has model.modality_dropout": any(module.modality_dropout.values()),
        "a modality has joined it": model.fusion is None or bool(model.fusion.joined),
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"replicas.together: the nodes of this model train one after the other, since {reason}")


def train_together(
    module: CrossModalModule,
    loaders: Sequence[ResumableLoader],
    jobs: Sequence[Job],
    how: LocalTraining,
    memories: Sequence[Memory],
    compressor: Compressor | None = None,
) -> list[Update]:
    """Do jobs that are `alike`; what comes of each is what `train_at` gives, to rounding, but for what is drawn.

    Dropout and the like are drawn for all at once, so that what comes of a job depends on which are beside it.

    Args:
        module: That their states fit; it is not changed.
        loaders: Of the jobs' rows.
        jobs: At most as many as there is memory for.
        how: To train.
        memories: Of the jobs' nodes; they are changed.
        compressor: Of what is sent.

    Raises:
        ValueError: The model or its optimizer cannot, or a loss is no longer finite.
    """
    refuse_what_is_not_stacked(module)
    stack = Stack(_Terms(module), [{f"{PREFIX}{name}": value for name, value in job.state.items()} for job in jobs])
    optimizer = stack.optimizer(module.make_optimizer())
    base = [group["lr"] for group in optimizer.param_groups]
    steps = how.epochs * len(loaders[0])
    rate = WarmupCosine(steps * how.rounds, warmup=module.warmup) if how.rounds else None
    round_, proximal = jobs[0].round, jobs[0].proximal
    began = {name: value.detach().clone() for name, value in stack.trained.items()} if proximal else {}
    losses_K, rows, reached = torch.zeros(len(jobs), device=module.device), 0, set[str]()
    devices = [module.device] if module.device.type == "cuda" else []
    module.train()
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(seed_of(jobs[0], how))
        batches = zip(*(batches_of(loader, how.epochs, round_) for loader in loaders), strict=True)
        for step, of_step in enumerate(islice(batches, how.steps)):
            own = [batch.to(module.device) for _, batch in of_step]
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * (1.0 if rate is None else rate(round_ * steps + step))
            with how.context():
                terms: dict[str, Tensor] = stack(*_stacked(module, own))
            for number, batch in enumerate(own):
                refuse_infinite({name: term_K[number] for name, term_K in terms.items()}, step, batch.ids)
            loss_K = torch.stack(list(terms.values())).sum(0)
            total = loss_K.sum() + (proximal_term(stack.trained, began, proximal) if proximal else 0.0)
            total.backward()  # type: ignore[no-untyped-call]
            reached |= {name for name, one in stack.trained.items() if one.grad is not None}
            if how.clip_norm:
                stack.clip_gradients(how.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses_K += loss_K.detach() * len(own[0])
            rows += len(own[0])
    learned = learned_names(module, {name.removeprefix(PREFIX) for name in reached})
    means = (losses_K / rows).tolist()
    updates = []
    for job, loader, memory, state, mean in zip(jobs, loaders, memories, stack.states(), means, strict=True):
        trained, count = {name: state[f"{PREFIX}{name}"] for name in learned}, len(loader.dataset)
        sent, size, small = send(trained, job, memory, compressor, rows=count, secret=how.secret)
        updates.append(Update(job.node, sent, count, mean, size, {}, small))
    return updates


class _Terms(nn.Module):
    """The named terms of the loss, given what frozen experts make of a batch's rows."""

    def __init__(self, module: CrossModalModule) -> None:
        super().__init__()
        self.module = module

    def forward(
        self,
        tokens: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        index: Mapping[str, Tensor],
        targets: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return them; each row has inputs of its own."""
        of_rows = {name: ExpertTokens(tokens_BND, masks[name]) for name, tokens_BND in tokens.items()}
        count = len(next(iter(index.values())))
        batch = PairedBatch(of_rows, dict(index), dict(targets), range(count))  # type: ignore[arg-type]
        model = self.module.model
        assert model.fusion is not None
        terms: dict[str, Tensor] = self.module.objective(model.heads, model.predict(of_rows, batch), batch.targets)
        return terms | model.fusion.terms


def _stacked(module: CrossModalModule, batches: Sequence[PairedBatch]) -> tuple[dict[str, Tensor], ...]:
    """Return tokens, masks, indices and targets of all batches, as `_Terms` takes them of one."""
    with torch.no_grad():
        observed = [module.model.observe(batch) for batch in batches]
    of_each, batches = [tokens for tokens, _, _ in observed], [batch for _, batch, _ in observed]
    tokens: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    index: dict[str, Tensor] = {}
    for name in batches[0].index:
        present_KB = torch.stack([batch.present(name) for batch in batches])
        index[name] = torch.where(present_KB, torch.arange(present_KB.shape[1], device=present_KB.device), ABSENT)
        there = [own[name] for own in of_each if name in own]
        if not there:
            continue
        longest = max(one.mask_BN.shape[1] for one in there)
        nobody = ExpertTokens(there[0].tokens_BND[:0], there[0].mask_BN[:0])
        rows = [_rows_of(own.get(name, nobody), batch.index[name]) for own, batch in zip(of_each, batches, strict=True)]
        tokens[name] = torch.stack([F.pad(one, (0, 0, 0, longest - one.shape[1])) for one, _ in rows])
        masks[name] = torch.stack([F.pad(mask, (0, longest - mask.shape[1])) for _, mask in rows])
    targets = {task: torch.stack([batch.targets[task] for batch in batches]) for task in batches[0].targets}
    return tokens, masks, index, targets


def _rows_of(tokens: ExpertTokens, index_B: Tensor) -> tuple[Tensor, Tensor]:
    return gather_rows(tokens.tokens_BND, index_B), gather_rows(tokens.mask_BN, index_B)
