"""What chooses experts before they run."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import AssociativeFusion
from crossmodal.mixture import Mixture
from crossmodal.model import CrossModalModel
from crossmodal.objectives import TaskObjective
from crossmodal.selector import SCALE, Choice, Selector
from crossmodal.stacking import learn
from experts.base import ExpertTokens
from tests.crossmodal.mixtures import CLASSES, NAMES, a_batch, a_model

FOUR = ("a", "b", "c", "d")


def a_selector(**arguments: Any) -> Selector:
    torch.manual_seed(0)
    return Selector(FOUR, 8, **{"costs": dict.fromkeys(FOUR, 1.0), **arguments}).eval()


def drawn(rows: int = 40) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    available_BE = torch.rand(rows, 4, generator=draw) < 0.7
    available_BE[0] = False
    return torch.randn(rows, 4, generator=draw), available_BE


def test_the_best_of_each_row() -> None:
    worth_BE, available_BE = drawn()
    chosen_BE = a_selector(top_k=2, first=["b"]).choose(worth_BE, available_BE)
    for row in range(40):
        others = [e for e in (0, 2, 3) if available_BE[row, e]]
        best = sorted(others, key=lambda e: -float(worth_BE[row, e]))[:2]
        expected = {*best, *([1] if available_BE[row, 1] else [])}
        assert set(chosen_BE[row].nonzero().flatten().tolist()) == expected


def test_what_is_not_worth_its_cost_is_not_chosen() -> None:
    selector = a_selector(budget=0.5, first=["a"], costs={"a": 1.0, "b": 1.0, "c": 4.0, "d": 1.0})
    selector.price.fill_(0.5)
    worth_BE = torch.tensor([[9.0, 0.6, 1.9, 0.4], [0.0, 0.4, 2.1, 0.5], [0.0, -1.0, -2.0, -0.5]])
    available_BE = torch.ones(3, 4, dtype=torch.bool)
    available_BE[2, 0] = False  # a row is given at least one
    assert selector.choose(worth_BE, available_BE).tolist() == [
        [True, True, False, False],
        [True, False, True, False],
        [False, False, False, True],
    ]


@pytest.mark.parametrize("budget", [0.4, 0.6, 0.9])
def test_the_price_spends_the_budget(budget: float) -> None:
    costs = {"a": 0.5, "b": 1.0, "c": 4.0, "d": 2.0}
    selector = a_selector(budget=budget, first=["a"], costs=costs, least_gain=0.0)
    draw = torch.Generator().manual_seed(0)
    available_BE = torch.ones(200, 4, dtype=torch.bool)
    for _ in range(60):
        selector.learn_price(1 + torch.randn(200, 4, generator=draw), available_BE)
    worth_BE = 1 + torch.randn(2000, 4, generator=draw)
    chosen_BE = selector.choose(worth_BE, torch.ones(2000, 4, dtype=torch.bool))
    spent = float((chosen_BE * torch.tensor([*costs.values()])).sum(1).mean()) / sum(costs.values())
    worthwhile = (0.5 + 7 * 0.8413) / 7.5  # what is worth more than nothing: P(worth > 0) = 0.8413
    assert spent <= budget + 0.02
    assert spent > min(budget, worthwhile) - 0.02


def test_what_gains_too_little_is_not_chosen_even_if_the_budget_allows_it() -> None:
    worth_BE = torch.tensor([[0.04, 0.06, -1.0, 3.0]])
    available_BE = torch.ones(1, 4, dtype=torch.bool)
    assert a_selector(budget=0.9).choose(worth_BE, available_BE).tolist() == [[False, True, False, True]]
    assert a_selector(budget=0.9, least_gain=0.5).choose(worth_BE, available_BE).tolist() == [
        [False, False, False, True]
    ]
    assert (
        a_selector(top_k=3, least_gain=0.5).choose(worth_BE, available_BE).sum() == 3
    )  # without a budget none is asked


def test_others_are_chosen_by_how_sure_the_answer_by_the_first_is() -> None:
    costs = dict.fromkeys(NAMES, 1.0)
    model = a_model(selector=partial(Selector, first=["guesses"], budget=0.9, costs=costs))
    assert isinstance(model.mixture, Mixture)
    selector = model.mixture.selector
    assert isinstance(selector, Selector)
    for parameter in selector.parameters():
        parameter.data.zero_()
    selector.doubt.weight.data.copy_(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))  # by entropy alone
    batch = a_batch()
    given = batch.without("sees")
    model.eval()
    with torch.no_grad():
        _, _, choice = model.observe(batch)
        answers = model.predict(model.encode(given), given)["answer"].softmax(1)
    assert choice is not None
    entropy_B = -(answers * answers.log()).sum(1) / np.log(CLASSES)
    assert_close(choice.worth_BE[:, 0], SCALE * entropy_B)


def test_to_ask_the_first_moves_nothing() -> None:
    costs = dict.fromkeys(NAMES, 1.0)
    make = partial(Selector, first=["guesses"], budget=0.9, costs=costs, explore=1.0)
    model = a_model(AssociativeFusion, selector=make).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _, _, choice = model.observe(a_batch())
    assert choice is not None
    assert 0 < choice.chosen_BE[:, 0].sum() < 64  # drawn, as in training
    assert all(module.training for part in (model.fusion, model.heads, model.mixture) for module in part.modules())
    assert_close(model.state_dict(), before, atol=0, rtol=0)


def test_in_training_others_are_drawn_too() -> None:
    selector = a_selector(top_k=1, explore=0.5).train()
    worth_BE = torch.tensor([5.0, 1.0, 1.0, 1.0]).expand(4000, -1)
    chosen_BE = selector.choose(worth_BE, torch.ones(4000, 4, dtype=torch.bool))
    assert (chosen_BE.sum(1) == 1).all()
    assert_close(chosen_BE.float().mean(0), torch.tensor([0.625, 0.125, 0.125, 0.125]), atol=0.03, rtol=0)


def test_load_balance_is_least_where_the_load_is_even() -> None:
    selector = a_selector(top_k=1, load_balance=1.0)
    available_BE = torch.ones(4, 4, dtype=torch.bool)

    def loss(worth_BE: Tensor) -> float:
        chosen_BE = selector.choose(worth_BE, available_BE)
        return float(selector.terms(Choice(worth_BE, chosen_BE, available_BE, {}, a_batch(4)))["selector/balance"])

    assert loss(20 * torch.eye(4)) == pytest.approx(1)
    assert loss(torch.tensor([20.0, 0, 0, 0]).expand(4, -1)) == pytest.approx(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give top_k or budget"),
        ({"top_k": 2, "first": ["e"]}, "first: there is no expert 'e'; there are a, b, c, d"),
        ({"top_k": 2, "first": [*FOUR]}, "first has all experts"),
        ({"top_k": 2, "costs": {"a": 1.0}}, "costs: b, c, d has none"),
        ({"top_k": 2, "costs": {**dict.fromkeys(FOUR, 1.0), "a": 0.0}}, "costs must be above 0"),
        ({"budget": 1.5}, "budget is a share of the cost of all experts, above 0 and at most 1, not 1.5"),
        ({"budget": 0.5, "least_gain": float("nan")}, "least_gain is what an expert must gain, at least 0, not nan"),
        ({"budget": 0.5, "least_gain": -0.1}, "least_gain is what an expert must gain, at least 0, not -0.1"),
        ({"top_k": -1}, "top_k must be at least 0"),
        ({"top_k": 1, "explore": 0.0}, "explore is a share of the training rows"),
    ],
)
def test_mistakes(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        a_selector(**arguments)


def test_costs_that_were_never_counted() -> None:
    with pytest.raises(ValueError, match=r"what experts cost is counted when training begins.*give model.selector"):
        a_selector(top_k=1, costs=None).known_costs()


def test_what_no_row_is_given_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = dict.fromkeys(NAMES, 1.0)
    model = a_model(selector=partial(Selector, first=["guesses"], budget=0.5, costs=costs)).eval()
    assert isinstance(model.mixture, Mixture)
    assert isinstance(model.mixture.selector, Selector)
    seen: list[int] = []

    def encode(inputs: ExpertTokens) -> ExpertTokens:
        seen.append(len(inputs))
        return inputs

    monkeypatch.setattr(model.experts["sees"], "forward", encode)
    worth_BE = torch.where(torch.arange(64).unsqueeze(1) < 10, 5.0, -5.0).expand(-1, 2)
    batch = a_batch()
    monkeypatch.setattr(model.mixture.selector, "forward", lambda *_: worth_BE)
    with torch.no_grad():
        some = model(batch)["answer"]
        assert seen == [10]
        monkeypatch.setattr(model.mixture.selector, "forward", lambda *_: torch.full((64, 2), -5.0))
        none = model(batch)["answer"]
        assert seen == [10]
        lacking = model.predict(model.encode(batch.without("sees")), batch.without("sees"))["answer"]
    # what is not chosen is as if the row lacked it
    assert_close(none, lacking)
    assert_close(some[10:], lacking[10:])
    assert not torch.allclose(some[:10], lacking[:10])


def trained(selector: Any) -> CrossModalModel:
    model = a_model(selector=selector, corruption=0.0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        batch = half_is_easy(seed=step)
        tokens, given, choice = model.observe(batch)
        assert isinstance(model.mixture, Mixture)
        loss = torch.stack([*learn(model, TaskObjective(), tokens, given, choice).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def half_is_easy(*, seed: int) -> Any:
    """Of every other row the guess, too, tells the class, and shows it by its size."""
    batch = a_batch(128, seed=seed)
    easy_B = torch.arange(128) % 2 == 0
    seen, guessed = batch.inputs["sees"], batch.inputs["guesses"]
    guessed_BND = torch.where(easy_B[:, None, None], seen.tokens_BND, 0.3 * guessed.tokens_BND)
    batch.inputs["guesses"] = ExpertTokens(guessed_BND, guessed.mask_BN)
    return batch


def test_it_learns_which_rows_need_the_costly_one() -> None:
    costs = {"sees": 10.0, "guesses": 0.5}
    model = trained(partial(Selector, first=["guesses"], budget=0.6, costs=costs))
    batch = half_is_easy(seed=1000)
    with torch.no_grad():
        tokens, given, choice = model.observe(batch)
        right_B = model.predict(tokens, given)["answer"].argmax(1) == batch.targets["answer"]
    assert choice is not None
    ran_B = choice.chosen_BE[:, 0]
    assert ran_B[1::2].float().mean() > 0.9
    assert ran_B[::2].float().mean() < 0.25  # what hard rows leave of the budget is for 16 % of these
    assert right_B.float().mean() > 0.85


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.75])
def test_rows_that_are_alike_do_not_break_the_budget(budget: float) -> None:
    selector = a_selector(budget=budget)
    worth_BE, available_BE = torch.ones(64, 4), torch.ones(64, 4, dtype=torch.bool)
    for _ in range(200):
        selector.learn_price(worth_BE, available_BE)
    assert selector.choose(worth_BE, available_BE).float().mean() <= budget


def test_a_budget_that_those_who_always_run_exceed() -> None:
    selector = a_selector(budget=0.4, first=["a", "b"], costs=None)
    with pytest.raises(ValueError, match=r"a, b always run and cost 0.50 of all, so that a budget of 0.4 leaves"):
        selector.learn_costs(dict.fromkeys(FOUR, 1.0))


def test_it_trains_in_mixed_precision() -> None:
    costs = dict.fromkeys(NAMES, 1.0)
    model = a_model(selector=partial(Selector, first=["guesses"], budget=0.75, costs=costs)).train()
    assert isinstance(model.mixture, Mixture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, given, choice = model.observe(a_batch(64))
        terms = learn(model, TaskObjective(), tokens, given, choice)
    torch.stack([term.float() for term in terms.values()]).sum().backward()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.eval()(a_batch(64))["answer"].isfinite().all()
