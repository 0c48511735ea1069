from __future__ import annotations

from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor

from crossmodal.replicas.topology import (
    erdos_renyi,
    full,
    gossip,
    metropolis_weights,
    read_graph,
    ring,
    small_world,
    star,
    torus,
)

GRAPHS: dict[str, Any] = {
    "ring": ring(9),
    "star": star(9),
    "full": full(9),
    "torus": torus(3, 3),
    "small_world": small_world(9, neighbours=4, rewired=0.3),
    "erdos_renyi": erdos_renyi(9, probability=0.4),
    "two": ring(2),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_all_can_be_reached_and_numbers_are_in_order(name: str) -> None:
    graph = GRAPHS[name]
    assert nx.is_connected(graph)
    assert sorted(graph.nodes) == list(range(2 if name == "two" else 9))


def test_who_is_whose_neighbour() -> None:
    assert sorted(GRAPHS["ring"][0]) == [1, 8]
    assert sorted(GRAPHS["star"][0]) == list(range(1, 9))
    assert sorted(GRAPHS["torus"][4]) == [1, 3, 5, 7]
    assert {degree for _, degree in GRAPHS["full"].degree} == {8}


@pytest.mark.parametrize("name", GRAPHS)
def test_weights_keep_the_mean_and_lead_to_it(name: str) -> None:
    weights_KK = metropolis_weights(GRAPHS[name])
    count = len(weights_KK)
    ones = torch.ones(count, dtype=torch.float64)
    assert (weights_KK >= 0).all()
    torch.testing.assert_close(weights_KK.sum(0), ones)
    torch.testing.assert_close(weights_KK.sum(1), ones)
    apart = weights_KK - 1 / count
    assert torch.linalg.matrix_norm(apart, 2) < 1  # each round brings all closer together


def test_a_round_is_the_product_with_the_weights() -> None:
    weights_KK = metropolis_weights(GRAPHS["ring"])
    values = torch.randn(9, 4, dtype=torch.float64)
    found = gossip([{"w": row} for row in values], weights_KK)
    torch.testing.assert_close(torch.stack([one["w"] for one in found]), weights_KK @ values)
    for _ in range(200):
        found = gossip(found, weights_KK)
    torch.testing.assert_close(found[3]["w"], values.mean(0))


def test_what_a_replica_has_not_it_does_not_learn() -> None:
    states: list[dict[str, Tensor]] = [
        {"image": torch.tensor([0.0]), "shared": torch.tensor([0.0])},
        {"shared": torch.tensor([3.0])},
        {"image": torch.tensor([4.0]), "shared": torch.tensor([6.0])},
    ]
    found = gossip(states, metropolis_weights(full(3)))
    assert found[1].keys() == {"shared"}
    assert found[0]["image"].item() == 2.0
    assert [one["shared"].item() for one in found] == pytest.approx([3.0] * 3)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "graph.txt"
    path.write_text("# who knows whom\n0 1\n\n1 2  # far\n2 3\n")
    assert sorted(read_graph(path, 4).edges) == [(0, 1), (1, 2), (2, 3)]
    for content, message in {
        "0 1\n1 x\n": r"graph.txt:2: expected two numbers from 0 to 3, found '1 x'",
        "0 1\n1 4\n": r"graph.txt:2: expected two numbers",
        "0 1\n2 3\n1 1 1\n": r"graph.txt:3",
        "0 1\n1 2\n": r"graph.txt: replicas 3 cannot be reached from the others",
    }.items():
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_graph(path, 4)


def test_what_is_no_graph_is_told() -> None:
    too_many = lambda: small_world(4, neighbours=4)  # noqa: E731
    odd = lambda: small_world(9, neighbours=3)  # noqa: E731
    for make in (lambda: ring(1), too_many, odd, lambda: erdos_renyi(30, probability=0.01)):
        with pytest.raises(ValueError, match=r"at least 2|neighbours must be|none hangs together"):
            make()


def test_graphs_of_neighbouring_seeds_have_nothing_in_common() -> None:
    """Also where many must be drawn until one hangs together."""
    found = [frozenset(erdos_renyi(12, probability=0.18, seed=seed).edges) for seed in range(20)]
    assert len(set(found)) == 20
    assert frozenset(erdos_renyi(12, probability=0.18, seed=3).edges) == found[3]
