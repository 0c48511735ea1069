from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmodal.heads import RegressionHead
from crossmodal.module import CrossModalModule
from crossmodal.replicas.aggregation import State
from crossmodal.replicas.attacks import Attack, HostileEngine
from crossmodal.replicas.compression import EightBits
from crossmodal.replicas.engine import LOCAL, SERVER, Job, Update
from crossmodal.replicas.federated import Federated
from crossmodal.replicas.fedka import FedKA
from crossmodal.replicas.knowledge import adaptation, multi_kernel_mmd
from crossmodal.replicas.method import Method
from crossmodal.replicas.node import load_sent, sent_state
from tests.crossmodal.replicas.engines import Goals
from tests.crossmodal.replicas.shifted import COUNT, Shifted, made, make_engine, make_module

ROUNDS = 4


@pytest.fixture
def module() -> CrossModalModule:
    return make_module()


def begun(method: Method, module: CrossModalModule, *, seed: int = 0) -> Method:
    method.prepare(module, rounds=ROUNDS)
    method.begin(sent_state(module), 2, seed=seed)
    return method


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def trained(method: Method, module: CrossModalModule, *, rounds: int = 2) -> State:
    begun(method, module)
    engine = make_engine(module)
    for number in range(rounds):
        method.round(engine, number)
    return method.state


def test_with_no_part_it_is_fedavg_and_with_each_it_is_not() -> None:
    plain = trained(Federated(), make_module())
    assert equal(plain, trained(FedKA(0, 0, 0), make_module()))
    found = [trained(FedKA(*parts), make_module()) for parts in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1))]
    assert not any(equal(one, other) for n, one in enumerate([plain, *found]) for other in [plain, *found][:n])
    assert all(one.keys() == plain.keys() for one in found)  # of the domain classifier nothing is in the model


def test_a_job_depends_on_nothing_but_itself_and_leaves_nothing_behind(module: CrossModalModule) -> None:
    method = begun(FedKA(), module)
    assert isinstance(method, FedKA)
    engine, job = make_engine(module), Job(1, method._state, 2, local=method.local())
    torch.manual_seed(99)
    first = engine.train([job])[0]
    drawn = torch.rand(1)
    engine.train([Job(0, method._state, 0, local=method.local())])
    again = make_engine(module).train([job])[0]
    assert equal(first.state, again.state)
    assert (first.loss, first.terms) == (again.loss, again.terms)
    torch.manual_seed(99)
    assert torch.equal(drawn, torch.rand(1))
    assert not module.model.fusion._forward_hooks  # type: ignore[union-attr]
    assert not any(name.startswith(LOCAL) for name in module.state_dict())
    other = engine.train([Job(1, method._state, 3, local=method.local())])[0]
    assert not equal(first.state, other.state)


def test_what_is_added_to_the_loss_is_told_apart_from_it(module: CrossModalModule) -> None:
    method = begun(FedKA(disentangle=0.5, vote=0), module)
    engine = make_engine(module)
    figures = [method.round(engine, number).figures for number in range(ROUNDS)]
    assert figures[0]["train/loss/disentangle"] == pytest.approx(0.5 * 2 * math.log(2), rel=0.5)
    assert figures[0]["train/loss/match"] > 0
    plain = begun(Federated(), make_module()).round(make_engine(make_module()), 0).figures
    assert figures[0]["train/loss"] == pytest.approx(plain["train/loss"], rel=0.2)  # the task's alone
    assert "train/loss/match" not in plain


@pytest.mark.parametrize(("number", "done"), [(0, 0.0), (0, 0.5), (3, 0.75)])
def test_the_terms_are_what_they_are_by_hand(module: CrossModalModule, number: int, done: float) -> None:
    data = Shifted(batch_size=8)
    data.connect({"image": module.experts["image"].transform})
    rows = data.unlabelled()
    assert rows is not None
    target = next(iter(data.unlabelled_loader(rows, shuffle=True)))
    batch = next(iter(data.loader(made(("dark",)), "train")))
    method = begun(FedKA(disentangle=0.5, match=3.0), module)
    assert isinstance(method, FedKA)
    local = method.local()
    assert local is not None
    job = Job(0, method._state, number, local=local)
    module.train()
    with torch.no_grad():  # what trains has gone on from what was sent
        as_sent = module.model.workspace(target).mean(1)
        for parameter in module.parameters():
            parameter.mul_(1.5)
        own, now = (module.model.workspace(of).mean(1) for of in (batch, target))
    alpha = adaptation((number + done) / ROUNDS)
    with local.at(module, job, iter([target])) as node:
        found = node.terms(batch, module.training_terms(batch), done)
        classifier = node.layers["disentangler"]  # type: ignore[index]
        expected = classifier.loss(own, now, alpha)
    assert found["disentangle"].item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    assert found["match"].item() == pytest.approx(3 * alpha * float(multi_kernel_mmd(own, as_sent)), rel=1e-4, abs=1e-7)
    gradients = torch.autograd.grad(found["match"], [*module.model.experts.parameters()], allow_unused=True)
    assert any(one is not None and one.abs().sum() > 0 for one in gradients) == (alpha > 0)


def test_the_domain_classifier_is_sent_merged_and_drawn_by_the_seed(module: CrossModalModule) -> None:
    method = begun(FedKA(vote=0), module)
    assert isinstance(method, FedKA)
    own = {name: value for name, value in method._state.items() if name.startswith(LOCAL)}
    assert own
    assert equal(own, {n: v for n, v in begun(FedKA(), module)._state.items() if n in own})  # type: ignore[attr-defined]
    assert not equal(own, {n: v for n, v in begun(FedKA(), module, seed=1)._state.items() if n in own})  # type: ignore[attr-defined]
    engine = make_engine(module)
    updates = engine.train([Job(node, method._state, 0, local=method.local()) for node in range(2)])
    method.round(engine, 0)
    for name, before in own.items():
        first, second = (one.state[name] for one in updates)
        torch.testing.assert_close(method._state[name], (first + second) / 2)
        assert not torch.equal(first, before)


def test_features_come_nearer_to_those_of_the_target() -> None:
    def apart(method: Method) -> float:
        module = make_module()
        load_sent(module, trained(method, module, rounds=ROUNDS))
        module.eval()
        own, target = (made((kind,)) for kind in ("dark", "bright"))
        transform = module.experts["image"].transform
        with torch.no_grad():
            tokens = [
                module.experts["image"](
                    transform.collate([transform(of.sources["image"].load(n)) for n in range(COUNT)])
                )
                for of in (own, target)
            ]
            features = [module.model.projections["image"](one).mean() for one in tokens]
        return float(multi_kernel_mmd(*features))

    assert apart(FedKA(0, 20.0, 0)) < 0.9 * apart(FedKA(0, 0, 0))


class Voting(Goals):
    """Nodes whose answers are given, and a server whose training leads to a given state."""

    def __init__(self, answers: Sequence[Tensor]) -> None:
        super().__init__([0.0] * len(answers))
        self.answers = answers
        self.asked: list[State] = []
        self.tuned: list[tuple[Job, list[int], list[int]]] = []

    def answer(self, states: Sequence[State]) -> list[dict[str, Tensor]]:
        self.asked += states
        return [{"colour": one} for one in self.answers]

    def tune(self, job: Job, rows: np.ndarray, targets: Mapping[str, Tensor]) -> Update:
        self.tuned.append((job, rows.tolist(), targets["colour"].tolist()))
        return Update(SERVER, {"w": job.state["w"] + 1, "count": torch.tensor(7)}, len(rows), 0.25, 0)


def logits(*chosen: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(chosen), 3).float()


@pytest.mark.parametrize(
    ("agreement", "rows", "labels"), [(0.0, [0, 1], [2, 1]), (2 / 3, [0, 1], [2, 1]), (1.0, [1], [1])]
)
def test_the_server_goes_towards_what_nodes_agree_on(
    module: CrossModalModule, agreement: float, rows: list[int], labels: list[int]
) -> None:
    engine = Voting([logits(2, 1), logits(2, 1), logits(0, 1)])
    method = FedKA(0, 0, 0.5, agreement=agreement)
    method.prepare(module, rounds=ROUNDS)
    method.begin({"w": torch.zeros(2), "count": torch.tensor(0)}, 3, seed=0)
    told = method.round(engine, 1)
    ((job, given, targets),) = engine.tuned
    assert (given, targets) == (rows, labels)
    assert (job.node, job.round, job.local) == (SERVER, 1, None)
    assert len(engine.asked) == 3
    assert told.figures["train/vote/agreement"] == pytest.approx((2 / 3 + 1) / 2)
    assert told.figures["train/vote/rows"] == len(rows)
    assert method.state["w"].tolist() == pytest.approx([0.5 * adaptation(2 / ROUNDS)] * 2)
    assert method.state["count"] == 7
    method.round(engine, 2)
    assert method.state["w"].tolist() == pytest.approx([0.5 * adaptation(3 / ROUNDS)] * 2)  # from the merged one again


def test_the_next_round_may_begin_with_what_was_tuned(module: CrossModalModule) -> None:
    engine = Voting([logits(2), logits(2)])
    for sends in (False, True):
        method = FedKA(0, 0, 1, sends_tuned=sends)
        method.prepare(module, rounds=ROUNDS)
        method.begin({"w": torch.zeros(2), "count": torch.tensor(0)}, 2, seed=0)
        for number in range(2):
            method.round(engine, number)
        began = engine.jobs[-1].state["w"].tolist()
        assert began == pytest.approx([adaptation(1 / ROUNDS) if sends else 0.0] * 2)


def test_where_nobody_agrees_nothing_is_tuned(module: CrossModalModule) -> None:
    engine = Voting([logits(0), logits(1)])
    method = FedKA(0, 0, 1, agreement=1.0)
    method.prepare(module, rounds=ROUNDS)
    method.begin({"w": torch.ones(2)}, 2, seed=0)
    told = method.round(engine, 0)
    assert not engine.tuned
    assert told.figures["train/vote/rows"] == 0


def test_answers_are_in_the_order_of_the_rows_and_tuning_learns_what_it_is_told(module: CrossModalModule) -> None:
    engine = make_engine(module, epochs=5)
    began = sent_state(module)
    first, again = engine.answer([began, began])
    assert torch.equal(first["colour"], again["colour"])
    assert first["colour"].shape == (COUNT, 3)
    told = torch.from_numpy(np.random.default_rng(1).integers(0, 2, COUNT - 4))
    rows = np.arange(4, COUNT)
    state: State = began
    losses = []
    for number in range(40):
        update = engine.tune(Job(SERVER, state, number), rows, {"colour": told * 2})
        losses.append(update.loss)
        state = {**state, **update.state}
    assert update.rows == COUNT - 4
    assert losses[-1] < losses[0]
    (after,) = engine.answer([state])
    assert not (after["colour"].argmax(1)[4:] == 1).any()  # nobody said so
    load_sent(module, began)


def test_it_goes_on_where_it_was(module: CrossModalModule) -> None:
    engine = make_engine(module)
    whole = begun(FedKA(), module)
    whole.round(engine, 0)
    kept, first = copy.deepcopy((whole.state_dict(), dict(whole.state)))
    whole.round(engine, 1)
    again = begun(FedKA(), module, seed=5)
    again.load_state_dict(kept)
    assert equal(again.state, first)
    again.round(engine, 1)
    assert equal(whole.state, again.state)


def test_what_is_sent_may_be_small_and_nodes_hostile(module: CrossModalModule) -> None:
    plain = begun(FedKA(), module)
    bytes_ = plain.round(make_engine(module), 0).figures["train/bytes_up"]
    small = begun(FedKA(), module)
    figures = small.round(make_engine(module, compressor=EightBits()), 0).figures
    assert figures["train/bytes_up"] < bytes_ / 2
    hostile = begun(FedKA(), module)
    hostile.round(HostileEngine(make_engine(module), Attack([1]), seed=0), 0)
    assert not equal(hostile.state, plain.state)


@pytest.mark.parametrize("parts", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_rows_without_targets_are_wanted_by_each_part(module: CrossModalModule, parts: tuple[float, ...]) -> None:
    method = begun(FedKA(*parts), module)
    assert method.reads_unlabelled
    with pytest.raises(ValueError, match=r"rows without targets.* the data has none"):
        method.round(make_engine(module, unlabelled=False), 0)
    assert not FedKA(0, 0, 0).reads_unlabelled


def test_what_makes_no_sense_is_told(module: CrossModalModule) -> None:
    for arguments in ({"disentangle": -1.0}, {"vote": 1.1}, {"agreement": 2.0}, {"hidden": 0}):
        with pytest.raises(ValueError, match=f"FedKA: .*{next(iter(arguments))}"):
            FedKA(**arguments)  # type: ignore[arg-type]
    (method := FedKA(0, 0, 1)).prepare(module, rounds=1)
    method.begin({"w": torch.zeros(1)}, 1, seed=0)
    with pytest.raises(ValueError, match="rows without targets at the server; Goals has none"):
        method.round(Goals([0.0]), 0)
    module.model.heads["colour"] = RegressionHead(6, 1)
    with pytest.raises(ValueError, match="nodes vote on classes, and 'colour' has none"):
        FedKA().prepare(module, rounds=1)
    FedKA(vote=0).prepare(module, rounds=1)
    module.model.fusion = None
    with pytest.raises(ValueError, match="needs a fusion"):
        FedKA().prepare(module, rounds=1)
