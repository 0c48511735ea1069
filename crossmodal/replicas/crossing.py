"""Split training: clients keep their data and their experts, a server the rest; activations and gradients cross.

After Sun & Ochiai, Bidirectional Contrastive Split Learning for Visual Question Answering (AAAI 2024, arXiv
2208.11435): a client's part is its experts and what projects their tokens; the server's is the fusion and the heads.
Batches of all clients come to the server in turn, so that it learns from the data of all at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from crossmodal.module import CrossModalModule
from crossmodal.objectives import refuse_infinite
from crossmodal.optimization import WarmupCosine
from crossmodal.replicas.aggregation import State, mean
from crossmodal.replicas.engine import Job, Update
from crossmodal.replicas.node import LocalTraining, load_sent, sent_state
from datamodules.batch import PairedBatch
from datamodules.loading import ResumableLoader
from experts.base import ExpertTokens

CLIENT = ("model.experts.", "model.projections.")  # what the names of a client's part begin with


def is_client(name: str) -> bool:
    """Return whether an entry of a state is of a client's part."""
    return name.startswith(CLIENT)


@dataclass
class Line:
    """Between a client and the server: tokens go one way, their gradients the other; no graph leads across.

    Args:
        sent: Tokens as the client has them.
        arrived: The same as the server has them.
        num_bytes: That have crossed.
    """

    sent: list[Tensor] = field(default_factory=list)
    arrived: list[Tensor] = field(default_factory=list)
    num_bytes: int = 0

    @contextmanager
    def across(self, projections: nn.ModuleDict) -> Iterator[None]:
        """Let what is projected meanwhile go across."""
        hooks = [one.register_forward_hook(self._send) for one in projections.values()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _send(self, _module: nn.Module, _inputs: object, tokens: ExpertTokens) -> ExpertTokens:
        arrived_UND = tokens.tokens_BND.detach().requires_grad_()
        self.sent.append(tokens.tokens_BND)
        self.arrived.append(arrived_UND)
        self.num_bytes += arrived_UND.nbytes + tokens.mask_BN.nbytes
        return ExpertTokens(arrived_UND, tokens.mask_BN)

    def send_back(self) -> None:
        """Let gradients come back, and go on through the client's part."""
        pairs = [(sent, one.grad) for sent, one in zip(self.sent, self.arrived, strict=True) if one.grad is not None]
        trained = [(sent, gradient) for sent, gradient in pairs if sent.requires_grad]
        if trained:
            self.num_bytes += sum(gradient.nbytes for _, gradient in trained)
            torch.autograd.backward([sent for sent, _ in trained], [gradient for _, gradient in trained])


@dataclass
class _Client:
    """What a client has in a round."""

    job: Job
    state: dict[str, Tensor]
    optimizer: Optimizer
    batches: Iterator[tuple[int, PairedBatch]]
    steps: int
    num_bytes: int = 0
    losses: float = 0.0
    rows: int = 0
    step: int = 0


def train_split(
    module: CrossModalModule,
    loaders: Mapping[int, ResumableLoader],
    jobs: Sequence[Job],
    how: LocalTraining,
    *,
    merge_every: int | None = None,
) -> tuple[list[Update], dict[str, Tensor]]:
    """Do a round: a batch of each client in turn, until all have had all of theirs.

    Args:
        module: Any that the states fit; it is changed.
        loaders: Of each client's rows.
        jobs: Of the clients, all of the same round; the server's part is that of the first.
        how: To train.
        merge_every: So many batches of each client their parts are merged; None for not before the round's end.

    Returns:
        What clients have made of their parts, and the server's part.

    Raises:
        ValueError: The loss is no longer finite, or the model has parts that do not lie on either side.
    """
    if any(module.alignments.parameters()):
        raise ValueError("model.alignments: look at tokens before they are projected, which a client does not send")
    load_sent(module, jobs[0].state)
    own_server = module.make_optimizer()
    clients = [_client(module, loaders[job.node], job, how) for job in jobs]
    total = sum(client.steps for client in clients)
    base = [group["lr"] for group in own_server.param_groups]
    rate = WarmupCosine(total * how.rounds, warmup=module.warmup) if how.rounds else None
    named = dict(module.named_parameters())
    devices = [module.device] if module.device.type == "cuda" else []
    module.train()
    done, turns, waiting = 0, 0, list(clients)
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(zlib.crc32(f"{how.seed} {jobs[0].round}".encode()))
        while waiting:
            for client in list(waiting):
                epoch_and_batch = None if client.step == how.steps else next(client.batches, None)
                if epoch_and_batch is None:
                    waiting.remove(client)
                    continue
                factor = 1.0 if rate is None else rate(jobs[0].round * total + done)
                for optimizer in (own_server, client.optimizer):
                    for group, lr in zip(optimizer.param_groups, base, strict=True):
                        group["lr"] = lr * factor
                _step(module, named, client, own_server, epoch_and_batch[1], how)
                done += 1
            turns += 1
            if merge_every is not None and turns % merge_every == 0 and waiting:
                _merge(clients)
    server = {name: value.cpu() for name, value in sent_state(module).items() if not is_client(name)}
    updates = []
    for client in clients:
        size = client.num_bytes + sum(value.nbytes for value in client.state.values())
        loss = client.losses / client.rows if client.rows else float("nan")
        updates.append(Update(client.job.node, client.state, len(loaders[client.job.node].dataset), loss, size))
    return updates, server


def _client(module: CrossModalModule, loader: ResumableLoader, job: Job, how: LocalTraining) -> _Client:
    def batches() -> Iterator[tuple[int, PairedBatch]]:
        for epoch in range(how.epochs):
            loader.sampler.set_epoch(job.round * how.epochs + epoch)
            for batch in loader:
                yield epoch, batch

    state = {name: value.clone() for name, value in job.state.items() if is_client(name)}
    return _Client(job, state, module.make_optimizer(), batches(), how.epochs * len(loader))


def _merge(clients: Sequence[_Client]) -> None:
    """Let all clients go on with the mean of their parts, by their rows."""
    merged = mean([client.state for client in clients], [float(client.steps) for client in clients])
    for client in clients:
        client.state = dict(merged)
        client.num_bytes += sum(value.nbytes for value in merged.values())


def _step(
    module: CrossModalModule,
    named: Mapping[str, nn.Parameter],
    client: _Client,
    own_server: Optimizer,
    batch: PairedBatch,
    how: LocalTraining,
) -> None:
    """Let one batch of a client teach both sides."""
    load_sent(module, client.state)
    batch, line = batch.to(module.device), Line()
    with line.across(module.model.projections), how.context():
        terms = module.training_terms(batch)
    client.step += 1
    if not terms:
        return
    refuse_infinite(terms, client.step, batch.ids)
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    line.send_back()
    if how.clip_norm:
        nn.utils.clip_grad_norm_(module.parameters(), how.clip_norm)
    kept = {name: one.grad for name, one in named.items() if one.grad is not None}
    for optimizer, of_client in ((client.optimizer, True), (own_server, False)):
        for name, one in named.items():
            one.grad = kept.get(name) if is_client(name) == of_client else None
        optimizer.step()
    for one in named.values():
        one.grad = None
    client.state = _own(module, client.state)
    client.losses += float(loss.detach()) * len(batch)
    client.rows += len(batch)
    crossed = [*batch.index.values(), *batch.targets.values()]
    client.num_bytes += line.num_bytes + sum(one.nbytes for one in crossed)


def _own(module: nn.Module, state: State) -> dict[str, Tensor]:
    there = module.state_dict()
    return {name: there[name].detach().cpu().clone() for name in state}
