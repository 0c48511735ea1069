"""Who is waited for, with a post that carries nothing anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, cast

import pytest
import torch

from crossmodal.replicas import remote
from crossmodal.replicas.engine import Job, Update
from crossmodal.replicas.federated import Federated
from crossmodal.replicas.gossip import Gossip
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.remote import LOST, Patience, RemoteEngine
from crossmodal.replicas.segmented import Segmented
from crossmodal.replicas.wire import Parcel, job_of, pack, parcel_of_update, refused, unpack
from tests.crossmodal.replicas.engines import Goals, zero

AGREED = {"seed_everything": 0}
Answer = Callable[[Parcel], Parcel | None]


class Clock:
    """Time that goes on only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for event in [one for one in self.events if one[0] <= self.now]:
            self.events.remove(event)
            event[1]()


class Machines:
    """Nodes by address; each answers a parcel, or not."""

    def __init__(self) -> None:
        self.nodes: dict[int, Answer] = {}
        self.waiting: dict[str, tuple[int, Parcel]] = {}
        self.sent: list[tuple[int, str]] = []

    def there(self) -> set[int]:
        return {*self.nodes}

    def send(self, address: int, parcel: Parcel, *, seconds: float) -> str:
        assert seconds > 0
        name = f"letter {len(self.sent)}"
        self.sent.append((address, parcel.kind))
        self.waiting[name] = (address, unpack(pack(parcel)))
        return name

    def answers(self, names: Collection[str]) -> dict[str, Parcel]:
        found = {}
        for name in [name for name in names if name in self.waiting]:
            address, parcel = self.waiting[name]
            answer = self.nodes[address](parcel) if address in self.nodes else Parcel(LOST, {"reason": "gone"})
            if answer is not None:
                found[name] = unpack(pack(answer))
                del self.waiting[name]
        return found


def node(number: int, goals: Goals | None = None, agreed: dict[str, Any] = AGREED, answers: bool = True) -> Answer:
    """A node that says who it is, and trains unless it does not answer."""

    def answer(parcel: Parcel) -> Parcel | None:
        if parcel.kind == "hello":
            return Parcel("here", {"node": number, "agreed": agreed})
        if not answers:
            return None
        if parcel.kind == "score":
            return Parcel("scored", {"loss": (goals or Goals([1.0] * 3)).score([(number, parcel.tensors)])[0]})
        [update] = (goals or Goals([1.0] * 3)).train([job_of(parcel, zero())])
        return parcel_of_update(update)

    return answer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(remote, "time", found)
    return found


def engine(
    machines: Machines, said: list[str], *, nodes: int = 3, timeout: float = 60, min_nodes: int = 2
) -> RemoteEngine:
    here = cast(LocalEngine, Goals([1.0] * nodes))
    patience = Patience(timeout, min_nodes)
    return RemoteEngine(machines, nodes, here, AGREED, patience=patience, say=said.append)


def jobs(round_: int = 0) -> list[Job]:
    return [Job(number, zero(), round_) for number in range(3)]


def who(updates: list[Update]) -> list[int]:
    return [one.node for one in updates]


def test_all_train_and_the_order_is_that_of_the_jobs(clock: Clock) -> None:
    machines, said = Machines(), list[str]()
    machines.nodes = {70: node(2), 80: node(0), 90: node(1)}
    remote_engine = engine(machines, said)
    updates = remote_engine.train(jobs())
    assert who(updates) == [0, 1, 2]
    assert updates[0].state["w"].tolist() == [0.5, 0.5]
    assert updates[0].num_bytes == 8
    assert who(remote_engine.train(jobs(1))) == [0, 1, 2]
    assert [kind for _, kind in machines.sent].count("hello") == 3
    assert clock.now < 2


@pytest.mark.parametrize("address", [90, 91])
def test_the_first_round_waits_for_all_and_later_ones_for_those_that_are_there(clock: Clock, address: int) -> None:
    machines, said = Machines(), list[str]()
    machines.nodes = {70: node(0), 80: node(1)}
    clock.events = [(25.0, lambda: machines.nodes.update({90: node(2)}))]
    remote_engine = engine(machines, said)
    assert who(remote_engine.train(jobs())) == [0, 1, 2]
    assert "round 1: waiting for node 2 (not connected)" in said
    del machines.nodes[90]
    began = clock.now
    assert who(remote_engine.train(jobs(1))) == [0, 1]
    assert clock.now - began < 2
    assert said[-1] == "round 2: goes on without node 2 (not connected)"
    machines.nodes[address] = node(2)  # it comes back
    assert who(remote_engine.train(jobs(2))) == [0, 1, 2]


def test_a_node_that_does_not_answer_is_waited_for_so_long(clock: Clock) -> None:
    machines, said = Machines(), list[str]()
    machines.nodes = {70: node(0), 80: node(1), 90: node(2, answers=False)}
    remote_engine = engine(machines, said, timeout=30)
    assert who(remote_engine.train(jobs())) == [0, 1]
    assert 30 <= clock.now < 32
    assert said[-1] == "round 1: goes on without node 2 (no answer yet)"


def test_who_comes_back_within_the_round_gets_the_job_again(clock: Clock) -> None:
    machines, said = Machines(), list[str]()
    machines.nodes = {70: node(0), 80: node(1), 90: node(2, answers=False)}
    clock.events = [(10.0, lambda: machines.nodes.update({91: node(2)}))]  # the old one seems to be there still
    assert who(engine(machines, said).train(jobs())) == [0, 1, 2]
    assert clock.now < 15


def test_too_few_nodes_end_in_one_error_that_says_who_is_missing(clock: Clock) -> None:
    machines, said = Machines(), list[str]()
    machines.nodes = {70: node(1)}
    message = r"round 1: node 0 \(not connected\), node 2 \(not connected\); min-nodes is 2"
    with pytest.raises(TimeoutError, match=message):
        engine(machines, said).train(jobs())
    assert 60 <= clock.now < 62
    assert [line for line in said if "waiting for" in line] == [
        "round 1: waiting for node 0 (not connected), node 2 (not connected)"
    ] * 5


def test_a_node_of_another_configuration_takes_no_part(clock: Clock) -> None:
    machines, said = Machines(), list[str]()
    machines.nodes = {
        70: node(0),
        80: node(1, agreed={"seed_everything": 1}),
        81: node(7),
        82: lambda parcel: refused("experts.image: no weights"),
        90: node(2),
    }
    assert who(engine(machines, said, timeout=5).train(jobs())) == [0, 2]
    assert "node 1 takes no part: seed_everything is 1 there and 0 here" in said
    assert "a node takes no part: there is no node 7; they are 0 to 2" in said
    assert "a node takes no part: experts.image: no weights" in said
    assert said[-1] == "round 1: goes on without node 1 (seed_everything is 1 there and 0 here)"


def test_an_answer_that_is_none_counts_as_none(clock: Clock) -> None:
    machines, said = Machines(), list[str]()

    def other(parcel: Parcel) -> Parcel:
        if parcel.kind == "hello":
            return Parcel("here", {"node": 2, "agreed": AGREED})
        told = {"node": 2, "rows": 1, "loss": 0.0, "terms": {}}
        return Parcel("update", told, {"v": torch.zeros(2)}) if said_first.pop() else refused("the loss is nan")

    said_first = [False, True]
    machines.nodes = {70: node(0), 80: node(1), 90: other}
    remote_engine = engine(machines, said)
    assert who(remote_engine.train(jobs())) == [0, 1]
    assert "round 1: node 2: the model has no 'v'" in said
    assert who(remote_engine.train(jobs(1))) == [0, 1]
    assert "round 2: node 2: the loss is nan" in said
    said_first += [True]
    with pytest.raises(TimeoutError, match=r"round 1: node 2 \(no answer yet\); min-nodes is 3"):
        engine(machines, said, min_nodes=3).train(jobs())


def test_methods_train_as_in_one_process(clock: Clock) -> None:
    goals = Goals([0.0, 4.0, 8.0], rows=[1, 2, 3])
    for method, other in (
        (Federated(), Federated()),
        (Gossip(), Gossip()),
        (Segmented(apart=1.0, begins=1, every=1), Segmented(apart=1.0, begins=1, every=1)),
    ):
        machines = Machines()
        machines.nodes = {70 + number: node(number, goals) for number in range(3)}
        remote_engine = engine(machines, [])
        method.begin(zero(), 3, seed=0)
        other.begin(zero(), 3, seed=0)
        for number in range(3):
            told, expected = method.round(remote_engine, number), other.round(goals, number)
            assert told == expected
        assert torch.equal(method.state["w"], other.state["w"])


def test_scores_of_nodes_that_do_not_answer_are_not_numbers(clock: Clock) -> None:
    machines = Machines()
    machines.nodes = {70: node(0), 80: node(1), 90: node(2, answers=False)}
    first, second = engine(machines, [], timeout=5).score([(0, zero()), (2, zero())])
    assert first == 1.0
    assert math.isnan(second)


def test_a_run_that_goes_on_has_the_same_name() -> None:
    one, other = engine(Machines(), []), engine(Machines(), [])
    assert one.state_dict() != other.state_dict()
    other.load_state_dict(one.state_dict())
    assert one.state_dict() == other.state_dict()
    other.load_state_dict({"left": []})  # it was begun in one process


def test_what_can_never_be_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 3 nodes, so that 4 can never be there"):
        engine(Machines(), [], min_nodes=4)
    with pytest.raises(ValueError, match="timeout is above 0"):
        Patience(timeout=0)
    with pytest.raises(ValueError, match=r"replicas\.method"):
        engine(Machines(), []).train_split(jobs(), merge_every=None)
