from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from crossmodal.replicas.federated import Federated
from crossmodal.replicas.merging import AdaptiveServer, Krum, Mean, Median, OuterServer
from crossmodal.replicas.method import Method
from crossmodal.replicas.privacy import Privacy
from tests.crossmodal.replicas.engines import Goals, zero


def rounds(method: Method, engine: Goals, count: int, *, first: int = 0) -> torch.Tensor:
    for number in range(first, count):
        method.round(engine, number)
    return method.state["w"]


def begun(method: Method, engine: Goals, seed: int = 0) -> Method:
    method.begin(zero(), engine.nodes, seed=seed)
    return method


def test_the_mean_is_by_rows() -> None:
    engine = Goals([0.0, 4.0], rows=[3, 1])
    assert rounds(begun(Federated(), engine), engine, 1).tolist() == [0.5, 0.5]
    assert rounds(begun(Federated(Mean(by_rows=False)), engine), engine, 1).tolist() == [1.0, 1.0]


def test_of_what_nodes_hide_the_server_learns_the_mean() -> None:
    engine = Goals([0.0, 4.0, 2.0], rows=[3, 1, 4])
    plain = rounds(begun(Federated(), engine), engine, 3)
    engine.jobs = []
    assert torch.allclose(rounds(begun(Federated(secure=True), engine), engine, 3), plain, atol=1e-6)
    nonces = {job.hiding.nonce for job in engine.jobs if job.hiding is not None}
    assert len(nonces) == 3  # another one in each round


def test_where_one_does_not_answer_the_others_hide_among_themselves() -> None:
    engine = Goals([0.0, 4.0, 2.0], rows=[3, 1, 4], dead=[0])
    method = begun(Federated(secure=True), engine)
    told = method.round(engine, 0)
    assert told.path == [1, 2]
    assert method.state["w"].tolist() == pytest.approx([1.2, 1.2])  # half of (1 * 4 + 4 * 2) / 5
    assert [job.hiding.among for job in engine.jobs if job.hiding] == [(0, 1, 2)] * 3 + [(1, 2)] * 2
    engine.dead = {0, 1}
    assert method.round(engine, 1).path == []  # one alone would be seen
    assert method.state["w"].tolist() == pytest.approx([1.2, 1.2])


def test_one_node_cannot_hide() -> None:
    with pytest.raises(ValueError, match=r"secure: a sum of one node .* of 4 nodes, share 0\.25"):
        begun(Federated(secure=True, share=0.25), Goals([0.0, 4.0, 2.0, 1.0]))


@pytest.mark.parametrize("others", [{"merge": Median()}, {"privacy": Privacy(clip=1.0, noise=1.0, delta=1e-5)}])
def test_only_a_mean_can_be_had_of_what_is_hidden(others: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="secure: the server sees a sum alone"):
        Federated(secure=True, **others)


def test_what_it_tells_is_what_was_done() -> None:
    engine = Goals([0.0, 4.0], rows=[3, 1])
    method = begun(Federated(), engine)
    told = method.round(engine, 0)
    assert told.figures["train/loss"] == 1.0  # (3 * 0 + 1 * 4) / 4
    assert told.figures["train/bytes_up"] == 16
    assert told.figures["train/bytes_down"] == 2 * 2 * 4
    assert told.path == [0, 1]


def test_a_dead_node_is_gone_on_without() -> None:
    engine = Goals([2.0, 4.0, 9.0], dead=[2])
    told = begun(method := Federated(), engine).round(engine, 0)
    assert told.path == [0, 1]
    assert method.state["w"].tolist() == [1.5, 1.5]
    engine.dead = {0, 1, 2}
    told = method.round(engine, 1)
    assert told.figures["train/nodes"] == 0
    assert method.state["w"].tolist() == [1.5, 1.5]
    engine.dead = set()
    assert method.round(engine, 2).path == [0, 1, 2]  # it may return


def test_a_share_of_the_nodes_trains_in_each_round_and_others_in_the_next() -> None:
    engine = Goals([1.0] * 10)
    method = begun(Federated(share=0.3), engine)
    paths = [tuple(method.round(engine, number).path) for number in range(6)]
    assert {len(path) for path in paths} == {3}
    assert len(set(paths)) > 1
    assert paths == [tuple(begun(Federated(share=0.3), engine).round(engine, number).path) for number in range(6)]


def test_some_rules_hold_against_a_hostile_node() -> None:
    goals = [1.0, 1.1, 0.9, 1.0, 1.05, 1000.0]
    for method, expected in (
        (Federated(Median()), 0.5),
        (Federated(Krum(faulty=1)), 0.5),
    ):
        assert rounds(begun(method, engine := Goals(goals)), engine, 1).tolist() == pytest.approx(
            [expected] * 2, abs=0.05
        )
    assert rounds(begun(Federated(), engine := Goals(goals)), engine, 1)[0] > 50


@pytest.mark.parametrize("server", [AdaptiveServer("adam", lr=0.3), AdaptiveServer("yogi", lr=0.3), OuterServer(0.5)])
def test_a_server_with_a_memory_comes_to_the_goal_and_goes_on_where_it_was(
    server: AdaptiveServer | OuterServer,
) -> None:
    engine = Goals([2.0, 2.0])
    whole = begun(Federated(server=copy.deepcopy(server)), engine)
    rounds(whole, engine, 5)
    kept = copy.deepcopy(whole.state_dict())
    final = rounds(whole, engine, 40, first=5)
    assert final.tolist() == pytest.approx([2.0, 2.0], abs=0.3)
    again = begun(Federated(server=copy.deepcopy(server)), engine)
    again.load_state_dict(kept)
    assert torch.equal(rounds(again, engine, 40, first=5), final)


def test_noise_is_what_privacy_says_and_hides_a_node_of_any_size() -> None:
    privacy = Privacy(clip=1.0, noise=0.5, delta=1e-3)
    state = {"w": torch.zeros(20_000), "steps": torch.tensor(3)}
    sent = {"w": torch.full((20_000,), 100.0), "steps": torch.tensor(9)}
    found = privacy.noisy_mean(state, [sent, sent], wanted=4, seed=0)
    assert found.keys() == {"w"}
    each = 1 / 20_000**0.5  # of a change of norm 1
    assert float(found["w"].mean()) == pytest.approx(2 * each / 4, abs=0.004)
    assert float(found["w"].std()) == pytest.approx(0.5 / 4, rel=0.03)
    assert torch.equal(found["w"], privacy.noisy_mean(state, [sent, sent], wanted=4, seed=0)["w"])
    assert not torch.equal(found["w"], privacy.noisy_mean(state, [sent, sent], wanted=4, seed=1)["w"])


def test_privacy_is_spent_by_rounds_and_less_by_few_nodes() -> None:
    privacy = Privacy(clip=1.0, noise=1.1, delta=1e-5)
    # of one round in which all take part: Renyi's divergence of order a is a / (2 noise^2)
    assert privacy.epsilon(rounds=1, share=1.0) == pytest.approx(_epsilon_of_gauss(1.1, 1e-5), rel=0.02)
    spent = [privacy.epsilon(rounds=rounds, share=0.1) for rounds in (1, 10, 100)]
    assert spent == sorted(spent)
    assert privacy.epsilon(rounds=10, share=0.1) < privacy.epsilon(rounds=10, share=1.0) / 3


def _epsilon_of_gauss(noise: float, delta: float) -> float:
    """Balle et al. 2020, theorem 21, by trying orders."""
    from math import log

    return min(
        a / (2 * noise**2) + log((a - 1) / a) - (log(delta) + log(a)) / (a - 1)
        for a in (1 + step / 100 for step in range(1, 6000))
    )


def test_private_nodes_are_bounded_and_drawn_each_by_itself() -> None:
    engine = Goals([1.0] * 20)
    method = begun(Federated(privacy=Privacy(clip=0.5, noise=0.1), share=0.3), engine)
    counts = [len(method.round(engine, number).path) for number in range(12)]
    assert len(set(counts)) > 2
    assert {job.clip for job in engine.jobs} == {0.5}


def test_what_makes_no_sense_is_told() -> None:
    for make, message in (
        (lambda: Federated(share=0.0), "share: of the nodes"),
        (lambda: Federated(proximal=-1.0), "proximal: at least 0"),
        (lambda: Federated(Median(), privacy=Privacy(1.0, 1.0)), "privacy: is reckoned for a mean in which all nodes"),
        (lambda: Privacy(clip=0.0, noise=1.0), "privacy: clip"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
