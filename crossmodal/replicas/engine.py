"""The contract between how replicas learn from each other and what they run on: one process, or many machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.compression import Compressed
from datamodules.batch import PairedBatch

if TYPE_CHECKING:
    from crossmodal.module import CrossModalModule

LOCAL = "local."  # and a name: an entry of a state that is of the layers of `AtNode`, not of the module
SERVER = -1  # in the place of a node's number


class AtNode(Protocol):
    """What is at work at a node during a job, beside the module that trains.

    Args:
        layers: Of its own, perhaps none; they train, and are sent as the entries of the state that begin with `LOCAL`.
    """

    layers: nn.Module

    def terms(self, batch: PairedBatch, terms: dict[str, Tensor], done: float) -> dict[str, Tensor]:
        """Return the named terms of which the loss is the sum.

        Args:
            batch: That the module was just given.
            terms: The module's own, at least one.
            done: Share of the job that is done.
        """


class Local(Protocol):
    """What a method changes in how a node trains. It may be sent: what it is told when it is made is all it holds."""

    def at(
        self, module: CrossModalModule, job: Job, unlabelled: Iterator[PairedBatch] | None
    ) -> AbstractContextManager[AtNode]:
        """Begin a job, in a context that ends with it.

        Args:
            module: That trains, with the job's state.
            job: That is begun.
            unlabelled: Batches without targets, without end; None where there are no such rows.

        Raises:
            ValueError: It needs them, or the module does not fit.
        """


@dataclass(frozen=True)
class Hiding:
    """How a node hides what it sends, so that only the sum over nodes can be seen; see `crossmodal.replicas.masking`.

    Args:
        among: The numbers of these nodes, sorted.
        nonce: Another one each time.
        by_rows: A node weighs as its rows do; else all weigh the same.
    """

    among: tuple[int, ...]
    nonce: str
    by_rows: bool = True


@dataclass(frozen=True)
class Job:
    """What a node is asked to do in a round.

    Args:
        node: Its number.
        state: That it begins with.
        round: Its number, from 0.
        proximal: How much it is kept near that state (FedProx); 0 not at all.
        clip: How far it may go from that state, as a norm over all entries; None as far as it likes.
        local: Changes how it trains; None for nothing.
        hiding: How it hides what it sends; None for not at all.
    """

    node: int
    state: State
    round: int
    proximal: float = 0.0
    clip: float | None = None
    local: Local | None = None
    hiding: Hiding | None = None


@dataclass(frozen=True)
class Update:
    """What a node has made of a job.

    Args:
        node: Its number.
        state: What it has trained: the entries that had gradients, such as those of modalities that it has.
        rows: That it has trained with.
        loss: In the mean over the rows; nothing where there was none.
        num_bytes: That it has sent.
        terms: By name what the job's `local` has added to the loss, in the mean over the rows.
        change: From the job's state, as it was made smaller; None where the state is sent as it is.
    """

    node: int
    state: State
    rows: int
    loss: float
    num_bytes: int
    terms: Mapping[str, float] = field(default_factory=dict)
    change: Mapping[str, Compressed] | None = None


class Engine(Protocol):
    """Lets nodes train."""

    nodes: int

    def train(self, jobs: Sequence[Job]) -> list[Update]:
        """Let nodes train; return what those have made of it that answer, in the order of the jobs."""

    def train_split(self, jobs: Sequence[Job], *, merge_every: int | None) -> tuple[list[Update], dict[str, Tensor]]:
        """Let nodes train the part of the model that is theirs, and a server the rest, which it shares with all.

        Args:
            jobs: Of one round.
            merge_every: So many batches of each node their parts are merged; None for not before the round's end.

        Returns:
            What nodes have made of their parts, and the server's part.
        """

    def score(self, states: Sequence[tuple[int, State]]) -> list[float]:
        """Return how good states are at nodes: the mean loss over the rows that each trains with, less being better.

        Args:
            states: Numbers of nodes, and what is to be scored there.
        """

    def measure(self, state: State) -> float:
        """Return how good a state is, by the first figure of the validation split."""

    def state_dict(self) -> dict[str, Any]:
        """Return what nodes keep between rounds."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""


@runtime_checkable
class WithUnlabelled(Protocol):
    """An engine whose server has rows without targets."""

    def answer(self, states: Sequence[State]) -> list[dict[str, Tensor]]:
        """Return, for each state, what it makes of these rows: by task raw outputs, in the order of the rows.

        Raises:
            ValueError: There are no such rows.
        """

    def tune(self, job: Job, rows: NDArray[np.int64], targets: Mapping[str, Tensor]) -> Update:
        """Let the server train with some of these rows, once each, as if they had targets.

        Args:
            job: To do.
            rows: Their numbers.
            targets: Of these, by task.
        """


def with_unlabelled(engine: Engine) -> WithUnlabelled:
    """Return an engine as one whose server has rows without targets.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(engine, WithUnlabelled):
        raise ValueError(f"replicas.method wants rows without targets at the server; {type(engine).__name__} has none")
    return engine


@dataclass(frozen=True)
class Told:
    """What a round has to say.

    Args:
        figures: By name, to be logged.
        path: The nodes that have trained, in order.
        segments: The segment of each node, where there are such.
    """

    figures: Mapping[str, float]
    path: Sequence[int] = ()
    segments: Sequence[int] = field(default_factory=tuple)
