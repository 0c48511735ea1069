"""What modalities say alone, and what goes together."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from crossmodal.balance import GradientModulation, MMPareto, UnimodalLosses
from crossmodal.balance.balancing import likelihoods, own_parameters
from crossmodal.balance.base import Balance
from crossmodal.building import build_balancing, build_model
from crossmodal.heads import ClassificationHead, MultiLabelHead, RegressionHead
from crossmodal.joining import Joined
from crossmodal.meta_learner import MetaLearner
from experts.base import Expert, ExpertTokens
from tests.crossmodal.balance.uneven import (
    DIRECTIONS,
    NAMES,
    Method,
    a_batch,
    a_model,
    always_answers,
    known_alone,
    one_step,
    terms_of,
    trained,
    unbalanced,
)
from tests.crossmodal.mixtures import AsItIs, GivenTokens, of_one

OUTPUTS_BEC = torch.tensor([[[2.0, -1.0], [0.0, 0.5]], [[-3.0, 1.0], [1.0, 1.0]]])  # two rows, modalities, outputs


def test_the_likelihood_of_a_class_is_its_probability() -> None:
    found_BE = likelihoods({"t": ClassificationHead(4, 2)}, {"t": OUTPUTS_BEC}, {"t": torch.tensor([0, 1])})
    expected = [[math.exp(2) / (math.exp(2) + math.exp(-1)), 1 / (1 + math.exp(0.5))], [1 / (1 + math.exp(-4)), 0.5]]
    torch.testing.assert_close(found_BE, torch.tensor(expected))


def test_the_likelihood_of_labels_and_of_numbers() -> None:
    heads = {"labels": MultiLabelHead(4, 2), "numbers": RegressionHead(4, 2), "none": ClassificationHead(4, 2)}
    heads["numbers"].scale_C.fill_(2.0)  # type: ignore[union-attr]
    targets = {"labels": torch.tensor([[1, 0], [0, 0]]), "numbers": torch.tensor([[2.0, 1.0], [0.0, 0.0]])}
    found_BE = likelihoods(heads, dict.fromkeys(heads, OUTPUTS_BEC), targets)

    def right(logit: float, label: int) -> float:
        return 1 / (1 + math.exp(-logit if label else logit))

    for row in range(2):
        for modality in range(2):
            first, second = OUTPUTS_BEC[row, modality].tolist()
            labels = targets["labels"][row].tolist()
            of_labels = math.sqrt(right(first, labels[0]) * right(second, labels[1]))
            numbers = targets["numbers"][row].tolist()
            of_numbers = math.exp(-(((first - numbers[0]) / 2) ** 2 + ((second - numbers[1]) / 2) ** 2) / 2)
            assert float(found_BE[row, modality]) == pytest.approx((of_labels + of_numbers) / 2, rel=1e-5)


def test_a_loss_of_its_own_reaches_only_the_modality() -> None:
    model, balancing = a_model(partial(UnimodalLosses, weight=0.5))
    terms, factors = one_step(model, balancing, a_batch(lacking=True))
    plain, plain_balancing = a_model(UnimodalLosses)
    whole, _ = one_step(plain, plain_balancing, a_batch(lacking=True))
    assert terms.keys() == {"answer", "own/loud", "own/quiet"}
    assert terms["own/loud"] == pytest.approx(0.5 * whole["own/loud"])
    assert terms["answer"] == whole["answer"]
    assert factors == {}
    model.zero_grad()
    terms_of(model, balancing, a_batch(lacking=True))["own/loud"].backward()
    reached = [one for one in model.parameters() if one.grad is not None and one.grad.any()]
    owned = own_parameters(model)["loud"]
    assert {id(one) for one in reached} == {id(one) for one in owned}


class Trained(Expert):
    """Its inputs are vectors, of which it makes others."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(DIRECTIONS, 5), width=5, transform=AsItIs(), freeze=False)

    def encode(self, inputs: torch.Tensor) -> ExpertTokens:
        return of_one(self.network(inputs))


@pytest.mark.parametrize("method", [UnimodalLosses, MMPareto])
def test_a_loss_of_its_own_reaches_an_expert_that_trains(method: Method) -> None:
    model, balancing = a_model(method, expert=Trained)
    experts: dict[str, Any] = dict(model.experts.items())
    batch = a_batch(lacking=True)
    batch.inputs = {name: tokens.tokens_BND[:, 0] for name, tokens in batch.inputs.items()}
    whole = terms_of(model, balancing, batch)
    torch.stack(list(whole.values())).sum().backward()
    plain = experts["quiet"].network.weight.grad
    model.zero_grad()
    terms_of(model, balancing, batch)["own/quiet"].backward()
    own = experts["quiet"].network.weight.grad
    assert own.any()
    assert not experts["loud"].network.weight.grad.any()
    one_step(model, balancing, batch)
    balanced = experts["quiet"].network.weight.grad
    assert torch.equal(balanced, plain) == (method is UnimodalLosses)


def test_how_often_each_is_right_alone() -> None:
    model, balancing = a_model(GradientModulation)
    batch = a_batch(lacking=True)
    for name, number in (("loud", 2), ("quiet", 1)):
        always_answers(balancing, name, torch.eye(4)[number].tolist())
    for half in (torch.arange(64) < 20, torch.arange(64) >= 20):
        balancing.measure(model, model.encode(batch), batch.select(half), {"answer": ""})
    targets = batch.targets["answer"]
    expected = {
        f"alone/{name}": float((targets[batch.present(name)] == number).float().mean())
        for name, number in (("loud", 2), ("quiet", 1))
    }
    assert balancing.figures() == pytest.approx(expected)
    assert balancing.figures() == {}


def test_the_quiet_one_learns() -> None:
    assert known_alone(trained(UnimodalLosses), "quiet") > known_alone(unbalanced(), "quiet") + 0.2


def test_rows_without_targets_change_nothing() -> None:
    model, balancing = a_model(MMPareto)
    batch = a_batch()
    batch.targets = {}
    assert terms_of(model, balancing, batch) == {}
    assert balancing.after_backward(0) == {}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([UnimodalLosses, UnimodalLosses], "UnimodalLosses stands twice"),
        ([MMPareto, GradientModulation], "MMPareto and GradientModulation both change the gradients"),
        ([partial(UnimodalLosses, weight=0.0)], "weight must be above 0, not 0.0"),
    ],
)
def test_what_does_not_go_together(methods: list[Method], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_model(*methods)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (UnimodalLosses, r"leave UnimodalLosses out: model.meta_learner.init_args.own is its weight"),
        (MMPareto, "MMPareto works on .* but all experts are frozen"),
        (GradientModulation, None),
    ],
)
def test_beside_a_meta_learner(method: Method, message: str | None) -> None:
    if message is None:
        assert not a_model(method, meta_learner=MetaLearner)[1].networks
        return
    with pytest.raises(ValueError, match=message):
        a_model(method, meta_learner=MetaLearner)


def test_not_without_answers_and_not_where_one_joined() -> None:
    with pytest.raises(ValueError, match=r"model.balance: it goes by answers"):
        build_balancing(build_model({name: GivenTokens() for name in NAMES}, {}), {}, {}, MMPareto)
    with pytest.raises(ValueError, match="of a model that quiet joined only what is new trains"):
        a_model(MMPareto, joined={"quiet": Joined("model.ckpt")})


@pytest.mark.parametrize(("method", "refuses"), [(UnimodalLosses, False), (GradientModulation, True), (MMPareto, True)])
def test_what_gradients_cannot_be_changed_in(method: type[Balance], refuses: bool) -> None:
    if not refuses:
        method(NAMES).refuse(accumulates=True, precision="16-mixed", devices=2)
        return
    with pytest.raises(ValueError, match=r"trainer.accumulate_grad_batches would add up before: set it to 1"):
        method(NAMES).refuse(accumulates=True, precision="32-true", devices=1)
    with pytest.raises(ValueError, match=r"so that 2 would come to differ: set trainer.devices: 1"):
        method(NAMES).refuse(accumulates=False, precision="32-true", devices=2)
