"""Learning without a server: each node trains its own model, and believes its neighbours' as it does its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import networkx as nx
from torch import Tensor

from crossmodal.replicas import topology
from crossmodal.replicas.aggregation import State, mean
from crossmodal.replicas.compression import num_bytes
from crossmodal.replicas.engine import Engine, Job, Told
from crossmodal.replicas.method import Method, disagreement, figures_of


class Topology(ABC):
    """Who talks to whom."""

    @abstractmethod
    def graph(self, nodes: int, *, seed: int) -> nx.Graph:
        """Return the graph of so many nodes, which hangs together.

        Raises:
            ValueError: There is none of that kind with so many nodes.
        """


class Ring(Topology):
    """Two neighbours each."""

    def graph(self, nodes: int, *, seed: int) -> nx.Graph:
        """Return it."""
        return topology.ring(nodes)


class Star(Topology):
    """All talk to node 0 alone."""

    def graph(self, nodes: int, *, seed: int) -> nx.Graph:
        """Return it."""
        return topology.star(nodes)


class Full(Topology):
    """All talk to all."""

    def graph(self, nodes: int, *, seed: int) -> nx.Graph:
        """Return it."""
        return topology.full(nodes)


class Torus(Topology):
    """A grid whose ends meet.

    Args:
        rows: Of the grid; as many columns as there are nodes for.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def graph(self, nodes: int, *, seed: int) -> nx.Graph:
        """Return it."""
        if self.rows < 1 or nodes % self.rows:
            raise ValueError(f"replicas.method: {nodes} nodes make no grid of {self.rows} rows")
        return topology.torus(self.rows, nodes // self.rows)


class SmallWorld(Topology):
    """A ring of near neighbours some of whose edges lead far away (Watts & Strogatz 1998).

    Args:
        neighbours: Of each on the ring, even.
        rewired: The share of edges that lead elsewhere.
    """

    def __init__(self, neighbours: int = 4, rewired: float = 0.1) -> None:
        self.neighbours = neighbours
        self.rewired = rewired

    def graph(self, nodes: int, *, seed: int) -> nx.Graph:
        """Return it."""
        return topology.small_world(nodes, neighbours=self.neighbours, rewired=self.rewired, seed=seed)


class ErdosRenyi(Topology):
    """Each two talk with a probability.

    Args:
        probability: From 0 to 1.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def graph(self, nodes: int, *, seed: int) -> nx.Graph:
        """Return it."""
        return topology.erdos_renyi(nodes, probability=self.probability, seed=seed)


class FromFile(Topology):
    """What a file says: two nodes' numbers a line, who talk to each other.

    Args:
        path: Of the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def graph(self, nodes: int, *, seed: int) -> nx.Graph:
        """Return it."""
        return topology.read_graph(Path(self.path), nodes)


class Gossip(Method):
    """Each node trains its own model; then all hear their neighbours, with Metropolis weights (Xiao et al. 2005).

    What is measured and saved is the mean of all models; `train/disagreement` says how far they are from it.

    Args:
        topology: Who talks to whom.
        times: That all hear their neighbours in a round.
    """

    def __init__(self, topology: Topology | None = None, times: int = 1) -> None:
        if times < 1:
            raise ValueError(f"times: that all hear their neighbours in a round, at least 1, not {times}")
        self.topology = topology or Ring()
        self.times = times
        self.weights_KK: Tensor | None = None
        self._states: list[State] = []

    def begin(self, state: State, nodes: int, *, seed: int) -> None:
        """Begin, all with the same state."""
        self.weights_KK = topology.metropolis_weights(self.topology.graph(nodes, seed=seed))
        self._states = [state] * nodes

    @property
    def state(self) -> State:
        """The mean of all."""
        return mean(self._states)

    def round(self, engine: Engine, number: int) -> Told:
        """Train, and hear. A node that does not answer keeps what it had, and is heard with that."""
        assert self.weights_KK is not None
        updates = engine.train([Job(node, state, number) for node, state in enumerate(self._states)])
        trained = list(self._states)
        for update in updates:
            trained[update.node] = {**self._states[update.node], **update.state}
        talks = int((self.weights_KK > 0).sum()) - len(trained)
        for _ in range(self.times):
            trained = [*topology.gossip(trained, self.weights_KK)]
        self._states = trained
        size = num_bytes(dict(trained[0]))
        figures = figures_of(updates, []) | {"train/bytes_up": float(talks * size * self.times)}
        figures |= {"train/bytes_down": figures["train/bytes_up"], "train/disagreement": disagreement(trained)}
        return Told(figures, path=[one.node for one in updates])

    def state_dict(self) -> dict[str, Any]:
        """Return all states."""
        return {"states": [dict(state) for state in self._states]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with these states."""
        self._states = list(state_dict["states"])
