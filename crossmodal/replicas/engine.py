"""The contract between how replicas learn from each other and what they run on: one process, or many machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from crossmodal.replicas.aggregation import State


@dataclass(frozen=True)
class Job:
    """What a node is asked to do in a round.

    Args:
        node: Its number.
        state: That it begins with.
        round: Its number, from 0.
        proximal: How much it is kept near that state (FedProx); 0 not at all.
        clip: How far it may go from that state, as a norm over all entries; None as far as it likes.
    """

    node: int
    state: State
    round: int
    proximal: float = 0.0
    clip: float | None = None


@dataclass(frozen=True)
class Update:
    """What a node has made of a job.

    Args:
        node: Its number.
        state: What it has trained: the entries that had gradients, such as those of modalities that it has.
        rows: That it has trained with.
        loss: In the mean over the rows; nothing where there was none.
        num_bytes: That it has sent.
    """

    node: int
    state: State
    rows: int
    loss: float
    num_bytes: int


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
