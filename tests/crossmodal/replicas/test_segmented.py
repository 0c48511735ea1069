from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from crossmodal.replicas.segmented import Segmented, grouped
from tests.crossmodal.replicas.engines import Goals, zero


def test_nodes_of_different_goals_part_and_each_group_comes_to_its_own() -> None:
    engine = Goals([0.0, 0.1, 10.0, 10.1, 0.0])
    method = Segmented(begins=2, every=2, apart=1.0)
    method.begin(zero(), 5, seed=0)
    told = [method.round(engine, number) for number in range(12)]
    assert list(told[0].segments) == [0] * 5
    assert list(told[1].segments) == [0, 0, 1, 1, 0]
    assert told[1].figures["train/segments"] == 2
    assert float(method.state_of(4)["w"][0]) == pytest.approx(0.1 / 3, abs=0.02)
    assert float(method.state_of(2)["w"][0]) == pytest.approx(10.05, abs=0.02)
    assert torch.equal(method.state["w"], method.state_of(0)["w"])  # the largest


def test_segments_merge_again_when_goals_do() -> None:
    engine = Goals([0.0, 0.0, 10.0, 10.0])
    method = Segmented(begins=1, every=1, apart=1.0)
    method.begin(zero(), 4, seed=0)
    assert len(set(method.round(engine, 0).segments)) == 2
    engine.goals = [5.0] * 4
    segments = [len(set(method.round(engine, number).segments)) for number in range(1, 8)]
    assert segments[-1] == 1
    assert float(method.state["w"][0]) == pytest.approx(5.0, abs=0.3)


def test_who_does_not_answer_stays_with_those_it_was_with() -> None:
    engine = Goals([0.0, 0.0, 10.0, 10.0])
    method = Segmented(begins=1, every=1, apart=1.0)
    method.begin(zero(), 4, seed=0)
    method.round(engine, 0)
    engine.dead = {3}
    told = method.round(engine, 1)
    assert told.path == [0, 1, 2]
    assert list(told.segments) == [0, 0, 1, 1]
    engine.dead = {2, 3}  # nobody of that segment answers: it keeps what it had
    before = method.state_of(3)["w"]
    assert list(method.round(engine, 2).segments) == [0, 0, 1, 1]
    assert torch.equal(method.state_of(3)["w"], before)


def test_it_goes_on_where_it_was() -> None:
    engine = Goals([0.0, 10.0, 10.0])
    method = Segmented(begins=1, every=2, apart=1.0)
    method.begin(zero(), 3, seed=0)
    method.round(engine, 0)
    kept = copy.deepcopy(method.state_dict())
    method.round(engine, 1)
    again = Segmented(begins=1, every=2, apart=1.0)
    again.begin(zero(), 3, seed=0)
    again.load_state_dict(kept)
    again.round(engine, 1)
    assert all(torch.equal(again.state_of(node)["w"], method.state_of(node)["w"]) for node in range(3))


def test_groups_are_as_far_apart_as_their_members_in_the_mean() -> None:
    line = np.abs(np.subtract.outer([0.0, 1.0, 2.0, 9.0], [0.0, 1.0, 2.0, 9.0]))
    assert list(grouped(line, 0.5)) == [0, 1, 2, 3]
    assert list(grouped(line, 1.1)) == [0, 0, 1, 2]
    assert list(grouped(line, 5.0)) == [0, 0, 0, 1]
    assert list(grouped(line, 20.0)) == [0, 0, 0, 0]
    line[0, 3] = line[3, 0] = np.nan  # a model that is not finite is nobody's neighbour
    assert list(grouped(line, 20.0))[3] == 1
    with pytest.raises(ValueError, match="apart"):
        Segmented(apart=0.0)
