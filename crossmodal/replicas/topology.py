"""Who talks to whom, and how much each believes the others: gossip without a server.

Legend: K replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from crossmodal.replicas.aggregation import State, mean

TRIES = 100  # to draw a graph that hangs together


def ring(replicas: int) -> nx.Graph:
    """Return a ring: two neighbours each."""
    return nx.cycle_graph(_checked(replicas))


def star(replicas: int) -> nx.Graph:
    """Return a star around replica 0."""
    return nx.star_graph(_checked(replicas) - 1)


def full(replicas: int) -> nx.Graph:
    """Return a graph in which all know each other."""
    return nx.complete_graph(_checked(replicas))


def torus(rows: int, columns: int) -> nx.Graph:
    """Return a grid whose ends meet, numbered row by row: four neighbours each, where it is large enough."""
    _checked(rows * columns)
    return nx.convert_node_labels_to_integers(nx.grid_2d_graph(rows, columns, periodic=True), ordering="sorted")


def small_world(replicas: int, *, neighbours: int = 4, rewired: float = 0.1, seed: int = 0) -> nx.Graph:
    """Return a ring of near neighbours some of whose edges lead far away (Watts & Strogatz 1998); it hangs together.

    Args:
        replicas: K.
        neighbours: Of each on the ring, even.
        rewired: The share of edges that lead elsewhere.
        seed: Of the drawing.
    """
    if not 2 <= neighbours < _checked(replicas) or neighbours % 2:
        raise ValueError(f"neighbours must be even, and from 2 to {replicas - 1}, not {neighbours}")
    return nx.connected_watts_strogatz_graph(replicas, neighbours, rewired, tries=TRIES, seed=seed)


def erdos_renyi(replicas: int, *, probability: float, seed: int = 0) -> nx.Graph:
    """Return a graph in which each two know each other with a probability; it hangs together.

    Raises:
        ValueError: Among many drawn none hangs together: the probability is too low.
    """
    generator = np.random.default_rng(seed)
    for _ in range(TRIES):
        graph = nx.gnp_random_graph(_checked(replicas), probability, seed=generator)
        if nx.is_connected(graph):
            return graph
    raise ValueError(f"of {TRIES} graphs of {replicas} replicas none hangs together at a probability of {probability}")


def read_graph(path: Path, replicas: int) -> nx.Graph:
    """Read a file of two replicas' numbers a line, who know each other.

    Raises:
        ValueError: A line is not of that kind, or some replica cannot be reached; the message names file and line.
    """
    graph = nx.empty_graph(_checked(replicas))
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        parts = line.partition("#")[0].split()
        if not parts:
            continue
        if len(parts) != 2 or not all(part.isdecimal() and int(part) < replicas for part in parts):
            raise ValueError(f"{path}:{number}: expected two numbers from 0 to {replicas - 1}, found {line!r}")
        graph.add_edge(*map(int, parts))
    if not nx.is_connected(graph):
        lonely = sorted(sorted(nx.connected_components(graph), key=len)[0])
        raise ValueError(f"{path}: replicas {', '.join(map(str, lonely))} cannot be reached from the others")
    return graph


def metropolis_weights(graph: nx.Graph) -> Tensor:
    """Return how much each replica believes each other, (K, K) (Metropolis weights; Xiao, Boyd & Lall 2005).

    Rows and columns sum to 1, so that gossip keeps the mean of all, and comes to it. Who has many neighbours believes
    each of them less.
    """
    count = graph.number_of_nodes()
    weights_KK = torch.zeros(count, count, dtype=torch.float64)
    for one, other in graph.edges:
        if one != other:
            weights_KK[one, other] = weights_KK[other, one] = 1 / (1 + max(graph.degree[one], graph.degree[other]))
    weights_KK.diagonal().copy_(1 - weights_KK.sum(1))
    return weights_KK


def gossip(states: Sequence[State], weights_KK: Tensor) -> list[dict[str, Tensor]]:
    """Return each replica's state after all have heard their neighbours once.

    An entry that a replica lacks stays unknown to it; of the others' it takes those that have it.

    Args:
        states: Of K replicas.
        weights_KK: How much each (row) believes each other (column).
    """
    found = []
    for own, row_K in zip(states, weights_KK.tolist(), strict=True):
        heard = [(state, weight) for state, weight in zip(states, row_K, strict=True) if weight > 0]
        known = [{name: value for name, value in state.items() if name in own} for state, _ in heard]
        found.append(mean(known, [weight for _, weight in heard]))
    return found


def _checked(replicas: int) -> int:
    if replicas < 2:
        raise ValueError(f"there must be at least 2 replicas, not {replicas}")
    return replicas
