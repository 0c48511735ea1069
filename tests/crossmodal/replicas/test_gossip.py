from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from crossmodal.replicas.gossip import ErdosRenyi, FromFile, Full, Gossip, Ring, SmallWorld, Star, Torus
from tests.crossmodal.replicas.engines import Goals, zero


def test_all_come_to_the_mean_of_their_goals_the_more_often_they_talk() -> None:
    apart = {}
    for times in (1, 10):
        engine = Goals([0.0, 1.0, 2.0, 3.0, 4.0])
        method = Gossip(Ring(), times=times)
        method.begin(zero(), 5, seed=0)
        for number in range(20):
            told = method.round(engine, number)
        assert method.state["w"].tolist() == pytest.approx([2.0, 2.0], abs=1e-3)
        apart[times] = told.figures["train/disagreement"]
    assert apart[10] < apart[1] / 5


def test_bytes_are_those_that_neighbours_send() -> None:
    for topology, talks in ((Ring(), 12), (Star(), 10), (Full(), 30), (Torus(2), 18)):
        engine = Goals([0.0] * 6)
        method = Gossip(topology)
        method.begin(zero(), 6, seed=0)
        assert method.round(engine, 0).figures["train/bytes_up"] == talks * 8


def test_a_dead_node_is_heard_with_what_it_had() -> None:
    engine = Goals([4.0, 4.0, 4.0], dead=[1])
    method = Gossip(Full())
    method.begin(zero(), 3, seed=0)
    assert method.round(engine, 0).path == [0, 2]
    assert method.state["w"].tolist() == pytest.approx([4 / 3, 4 / 3])


def test_it_goes_on_where_it_was() -> None:
    engine = Goals([0.0, 1.0, 5.0, 2.0])
    method = Gossip(SmallWorld(neighbours=2))
    method.begin(zero(), 4, seed=3)
    method.round(engine, 0)
    kept = copy.deepcopy(method.state_dict())
    method.round(engine, 1)
    again = Gossip(SmallWorld(neighbours=2))
    again.begin(zero(), 4, seed=3)
    again.load_state_dict(kept)
    again.round(engine, 1)
    assert torch.equal(again.state["w"], method.state["w"])


def test_a_graph_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "graph.txt").write_text("0 1\n1 2\n")
    assert set(FromFile(str(tmp_path / "graph.txt")).graph(3, seed=0).edges) == {(0, 1), (1, 2)}
    assert ErdosRenyi(1.0).graph(3, seed=0).number_of_edges() == 3
    with pytest.raises(ValueError, match="5 nodes make no grid of 2 rows"):
        Torus(2).graph(5, seed=0)
    with pytest.raises(ValueError, match="times"):
        Gossip(times=0)
