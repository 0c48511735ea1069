from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal.replicas.handing_on import AtRandom, HandOn, InTurn, Learned, Nearest, NextNode
from tests.crossmodal.replicas.engines import Goals, zero


def begun(policy: NextNode, nodes: int = 4, **more: object) -> HandOn:
    method = HandOn(policy, **more)  # type: ignore[arg-type]
    method.begin(zero(), nodes, seed=0)
    return method


def test_one_node_trains_in_a_round_and_the_next_goes_on_from_there() -> None:
    engine = Goals([4.0, 4.0, 8.0, 8.0])
    method = begun(InTurn())
    told = [method.round(engine, number) for number in range(4)]
    path = [node for one in told for node in one.path]
    assert sorted(path) == [0, 1, 2, 3]
    assert [(before + 1) % 4 for before in path[:-1]] == path[1:]
    expected = 0.0
    for node in path:
        expected += (engine.goals[node] - expected) / 2
    assert method.state["w"].tolist() == [expected] * 2
    assert told[0].figures["train/distance"] == 0  # it begins where the model is
    ways = [float(method.distances_KK[one, other]) for one, other in itertools.pairwise(path)]
    assert told[-1].figures["train/episode_distance"] == pytest.approx(sum(ways))


def test_the_nearest_comes_first_and_none_twice_before_all_have_trained() -> None:
    method = begun(Nearest(), 6)
    engine = Goals([1.0] * 6)
    path = [method.round(engine, number).path[0] for number in range(12)]
    assert sorted(path[:6]) == sorted(path[6:]) == list(range(6))
    for place in range(5):
        left = [node for node in range(6) if node not in path[: place + 1]]
        assert path[place + 1] == min(left, key=lambda node: method.distances_KK[path[place], node])


def test_it_may_stay_some_rounds_at_each() -> None:
    method, engine = begun(Nearest(stay=2), 4), Goals([1.0] * 4)
    path = [method.round(engine, number).path[0] for number in range(8)]
    assert path[::2] == path[1::2]
    assert sorted(path[::2]) == list(range(4))
    with pytest.raises(ValueError, match="stay"):
        Nearest(stay=0)


def test_episodes_begin_anew_at_the_goal_where_that_is_wanted() -> None:
    engine = Goals([1.0] * 4)
    method = begun(InTurn(), goal=0.75, begins_anew=True)
    told = [method.round(engine, number).figures for number in range(6)]
    # after a round the model is 1/2 away, after two 1/4
    assert [one["train/episode_rounds"] for one in told] == [1, 2, 1, 2, 1, 2]
    assert [one["train/episode"] for one in told] == [0, 0, 1, 1, 2, 2]
    on = begun(InTurn(), goal=0.75)
    assert [on.round(engine, number).figures["train/episode_rounds"] for number in range(4)] == [1, 2, 3, 4]


def test_a_node_that_does_not_answer_leaves_the_model_as_it_was() -> None:
    engine = Goals([1.0] * 4, dead=[0, 1, 2, 3])
    method = begun(InTurn())
    method.round(engine, 0)
    assert torch.equal(method.state["w"], zero()["w"])


@pytest.mark.parametrize("policy", [AtRandom, Learned])
def test_it_goes_on_where_it_was(policy: type[NextNode]) -> None:
    engine = Goals([1.0, 2.0, 1.0, 2.0])
    more = {"goal": 0.9, "begins_anew": True, "rounds": 5}
    method = begun(policy(), **more)
    for number in range(40):
        method.round(engine, number)
    kept = copy.deepcopy(method.state_dict())
    whole = [method.round(engine, number) for number in range(40, 60)]
    again = HandOn(policy(), **more)  # type: ignore[arg-type]
    again.begin({"w": torch.full((2,), 9.0)}, 4, seed=0)  # as a model is that was trained
    again.load_state_dict(kept)
    assert [again.round(engine, number) for number in range(40, 60)] == whole
    assert torch.equal(again.state["w"], method.state["w"])


def test_distances_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "far.txt"
    path.write_text("0 1\n1 0\n")
    assert begun(InTurn(), 2, distances=str(path)).distances_KK.tolist() == [[0, 1], [1, 0]]
    for content, message in (
        ("0 1\n1\n", "far.txt: no distances can be read"),
        ("0 1 2\n1 0 2\n2 2 0\n", r"far.txt: expected 2 lines of 2 numbers, at least 0, found \(3, 3\)"),
        ("0 -1\n1 0\n", "far.txt: expected 2 lines"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            begun(InTurn(), 2, distances=str(path))
    with pytest.raises(ValueError, match=r"none.txt: no distances can be read"):
        begun(InTurn(), 2, distances=str(tmp_path / "none.txt"))
    with pytest.raises(ValueError, match="rounds: of an episode"):
        HandOn(rounds=0)
    drawn = begun(InTurn(), 9).distances_KK
    assert np.array_equal(drawn, drawn.T)
    assert not drawn.diagonal().any()
    assert 0 < drawn.max() <= 0.1
