"""How replicas learn from each other: the base of all methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.compression import num_bytes
from crossmodal.replicas.engine import Engine, Told, Update

if TYPE_CHECKING:
    from crossmodal.module import CrossModalModule

MOST_NODES_SHOWN = 20  # of more a curve each would be a wall


class Method(ABC):
    """What goes on in a round.

    All that it keeps between rounds is in its `state_dict`; what it draws, it draws by seed and round, so that a run
    that goes on does what it would have done.
    """

    hides = False  # what nodes send, but for the sum
    takes_changes = False  # so that those that nodes send may be made smaller
    is_personal = False  # nodes use states of their own
    reads_unlabelled = False  # training looks at rows without targets, where the data has such
    is_split = False  # nodes and a server train one model together, batch by batch

    def prepare(self, module: CrossModalModule, *, rounds: int) -> None:  # noqa: B027 - most need not look
        """Look at what is trained, before it begins; by default nothing is made of it.

        Args:
            module: On its device.
            rounds: In all.

        Raises:
            ValueError: The method cannot train it.
        """

    @abstractmethod
    def begin(self, state: State, nodes: int, *, seed: int) -> None:
        """Begin with a state that nobody has trained.

        Args:
            state: What replicas send of it.
            nodes: K.
            seed: Of what is drawn.

        Raises:
            ValueError: The method wants other nodes.
        """

    @abstractmethod
    def round(self, engine: Engine, number: int) -> Told:
        """Do a round; return what it has to say.

        Args:
            engine: That nodes train on.
            number: From 0.
        """

    @property
    @abstractmethod
    def state(self) -> State:
        """The state that is measured and saved, as one model."""

    def state_of(self, node: int) -> State:
        """Return the state that a node uses; by default that of all."""
        return self.state

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what is kept between rounds: tensors, numbers, strings, lists and dictionaries of them."""

    @abstractmethod
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""


def figures_of(updates: Sequence[Update], states_sent: Sequence[State]) -> dict[str, float]:
    """Return what a round has to say of its updates: loss, how many, and the bytes that went each way.

    Args:
        updates: That came.
        states_sent: To nodes.
    """
    rows = sum(one.rows for one in updates)
    return {
        "train/loss": sum(one.loss * one.rows for one in updates) / rows if rows else float("nan"),
        "train/nodes": float(len(updates)),
        "train/bytes_up": float(sum(one.num_bytes for one in updates)),
        "train/bytes_down": float(sum(num_bytes(dict(state)) for state in states_sent)),
        **{
            f"train/loss/{name}": sum(one.terms.get(name, 0.0) * one.rows for one in updates) / max(1, rows)
            for name in sorted({name for one in updates for name in one.terms})
        },
        **{f"train/loss/node_{one.node}": one.loss for one in updates if len(updates) <= MOST_NODES_SHOWN},
    }


def disagreement(states: Sequence[State]) -> float:
    """Return how far states are from their mean: the root mean square over all numbers that all have."""
    names = [name for name in states[0] if all(name in one for one in states) and states[0][name].is_floating_point()]
    flat_KP = torch.stack([torch.cat([one[name].flatten() for name in names]) for one in states])
    apart: Tensor = (flat_KP - flat_KP.mean(0)).square().mean().sqrt()
    return float(apart)
