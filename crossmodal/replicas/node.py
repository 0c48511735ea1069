"""What a node does in a round: it trains the model that it was given, with its own rows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from crossmodal.module import CrossModalModule
from crossmodal.objectives import refuse_infinite
from crossmodal.optimization import WarmupCosine
from crossmodal.replicas.aggregation import State
from crossmodal.replicas.compression import Compressed, Compressor, compress, decompress, num_bytes
from crossmodal.replicas.engine import LOCAL, AtNode, Job, Update
from crossmodal.replicas.masking import hidden
from crossmodal.replicas.server import proximal_term
from datamodules.batch import PairedBatch
from datamodules.loading import ResumableLoader


@dataclass(frozen=True)
class LocalTraining:
    """How a node trains in a round.

    Args:
        epochs: Over its rows.
        rounds: In all: the learning rate falls over them as over a whole training, or else stays as it is.
        clip_norm: Of gradients; None for none.
        steps: In a round at most; None for all.
        seed: Of what is drawn, together with node and round.
        context: Of forward passes, such as that of a precision.
        secret: That nodes know and the server does not, where what they send is hidden.
    """

    epochs: int = 1
    rounds: int | None = None
    clip_norm: float | None = None
    steps: int | None = None
    seed: int = 0
    context: Callable[[], Any] = torch.enable_grad
    secret: str = ""


@dataclass
class Memory:
    """What a node keeps between rounds.

    Args:
        left: What compression has left of its changes.
    """

    left: dict[str, Tensor] = field(default_factory=dict)


def sent_names(module: nn.Module) -> list[str]:
    """Return the entries of a module's state that replicas send: what trains, and the buffers of such layers."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    parameters = {name for name, _ in module.named_parameters()}
    layers = {name.rpartition(".")[0] for name in trained}
    return [
        name
        for name in module.state_dict()
        if name in trained or (name not in parameters and name.rpartition(".")[0] in layers)
    ]


def sent_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of what replicas send."""
    state = module.state_dict()
    return {name: state[name].detach().clone() for name in sent_names(module)}


def learned_names(module: nn.Module, reached: set[str]) -> list[str]:
    """Return those of what is sent that a job has changed: parameters that had gradients, and buffers beside them."""
    layers = {name.rpartition(".")[0] for name in reached}
    parameters = {name for name, _ in module.named_parameters()}
    return [
        name
        for name in sent_names(module)
        if name in reached or (name.rpartition(".")[0] in layers and name not in parameters)
    ]


def load_sent(module: nn.Module, state: State) -> None:
    """Give a module what replicas send, in place; what is no part of the module is passed over."""
    there = module.state_dict()
    with torch.no_grad():
        for name, value in state.items():
            if not name.startswith(LOCAL):
                there[name].copy_(value)


def train_at(
    module: CrossModalModule,
    loader: ResumableLoader,
    job: Job,
    how: LocalTraining,
    memory: Memory,
    compressor: Compressor | None = None,
    unlabelled: Iterator[PairedBatch] | None = None,
) -> Update:
    """Do a job.

    The result depends on nothing but the job, the rows, how to train and what the node keeps: not on what this process
    has done before.

    Args:
        module: Any that the state fits; it is changed.
        loader: Of the node's rows.
        job: To do.
        how: To train.
        memory: Of the node; it is changed.
        compressor: Of what is sent.
        unlabelled: Batches without targets, without end, for the job's `local`; the same for the same job.

    Raises:
        ValueError: The loss is no longer finite.
    """
    load_sent(module, job.state)
    optimizer = module.make_optimizer()
    reached: set[str] = set()
    losses, rows = torch.zeros((), device=module.device), 0
    added: dict[str, Tensor] = {}
    steps = how.epochs * len(loader)
    rate = WarmupCosine(steps * how.rounds, warmup=module.warmup) if how.rounds else None
    devices = [module.device] if module.device.type == "cuda" else []
    module.train()
    with torch.random.fork_rng(devices), torch.enable_grad(), _local(module, job, unlabelled) as local:
        if local is not None:
            _begin_layers(local.layers, module, job, optimizer)
        base = [group["lr"] for group in optimizer.param_groups]
        torch.manual_seed(seed_of(job, how))
        for step, (epoch, batch) in enumerate(islice(batches_of(loader, how.epochs, job.round), how.steps)):
            batch = batch.to(module.device)
            for group, lr in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = lr * (1.0 if rate is None else rate(job.round * steps + step))
            with how.context():
                terms = own = module.training_terms(batch)
                if local is not None and own:
                    terms = local.terms(batch, own, step / steps)
            if not terms:
                continue
            refuse_infinite(terms, step, batch.ids)
            loss, task = (torch.stack(list(some.values())).sum() for some in (terms, own))
            total = loss + _proximal(module, job) if job.proximal else loss
            total.backward()  # type: ignore[no-untyped-call]
            module.balancing.after_backward(job.round * how.epochs + epoch)
            reached |= {name for name, one in module.named_parameters() if one.grad is not None}
            if how.clip_norm:
                nn.utils.clip_grad_norm_(module.parameters(), how.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses += task.detach() * len(batch)
            rows += len(batch)
            for name in terms.keys() - own.keys():
                added[name] = added.get(name, 0.0) + terms[name].detach() * len(batch)
    state = module.state_dict()
    trained = {name: state[name].detach().clone() for name in learned_names(module, reached)}
    if local is not None:
        trained |= {f"{LOCAL}{name}": value.detach().clone() for name, value in local.layers.state_dict().items()}
    sent, size, small = send(trained, job, memory, compressor, rows=len(loader.dataset), secret=how.secret)
    mean = float(losses) / rows if rows else float("nan")
    means = {name: float(value) / rows for name, value in sorted(added.items())}
    return Update(job.node, sent, len(loader.dataset), mean, size, means, small)


def seed_of(job: Job, how: LocalTraining) -> int:
    """Return the seed of what is drawn in a job."""
    return zlib.crc32(f"{how.seed} {job.node} {job.round}".encode())


def _local(
    module: CrossModalModule, job: Job, unlabelled: Iterator[PairedBatch] | None
) -> AbstractContextManager[AtNode | None]:
    return nullcontext() if job.local is None else job.local.at(module, job, unlabelled)


def _begin_layers(layers: nn.Module, module: CrossModalModule, job: Job, optimizer: torch.optim.Optimizer) -> None:
    """Give layers beside the module the state that they are sent with, and let them train."""
    state = {name.removeprefix(LOCAL): value for name, value in job.state.items() if name.startswith(LOCAL)}
    layers.load_state_dict(state)
    layers.to(module.device).train()
    if parameters := list(layers.parameters()):
        optimizer.add_param_group({"params": parameters})


def batches_of(loader: ResumableLoader, epochs: int, round_: int) -> Iterable[tuple[int, PairedBatch]]:
    """Yield the batches of a job, each with the number of its epoch in it."""
    for epoch in range(epochs):
        loader.sampler.set_epoch(round_ * epochs + epoch)
        for batch in loader:
            yield epoch, batch


def _proximal(module: CrossModalModule, job: Job) -> Tensor:
    training = {name: one for name, one in module.named_parameters() if one.requires_grad}
    began = {name: job.state[name].to(module.device) for name in training if name in job.state}
    return proximal_term(training, began, job.proximal)


def send(
    trained: dict[str, Tensor],
    job: Job,
    memory: Memory,
    compressor: Compressor | None,
    *,
    rows: int,
    secret: str,
) -> tuple[dict[str, Tensor], int, dict[str, Compressed] | None]:
    """Return what arrives of what was trained, of how many bytes it is, and what is sent of the change, if it was made
    smaller.
    """
    if job.clip is None and compressor is None and job.hiding is None:
        return trained, num_bytes(trained), None
    change = {name: value - job.state[name].to(value.device) for name, value in trained.items()}
    if job.clip is not None:
        change = clipped(change, job.clip)
    if job.hiding is not None:
        weight = float(rows) if job.hiding.by_rows else 1.0
        masked = hidden(change, job.state, weight=weight, node=job.node, hiding=job.hiding, secret=secret)
        return masked, num_bytes(masked), None
    if compressor is None:
        return arrived(job.state, change), num_bytes(change), None
    small, memory.left = compress(change, memory.left, compressor)
    return arrived(job.state, decompress(small)), num_bytes(small), small


def arrived(began: State, change: State) -> dict[str, Tensor]:
    """Return the entries that have changed."""
    return {name: began[name].to(value.device) + value for name, value in change.items()}


def clipped(change: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """Return a change that is no further than a norm, over all its floating-point entries."""
    squares = [value.double().square().sum() for value in change.values() if value.is_floating_point()]
    length = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    scale = min(1.0, norm / length) if length > 0 else 1.0
    return {name: value * scale if value.is_floating_point() else value for name, value in change.items()}
