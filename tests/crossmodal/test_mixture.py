"""Experts that answer by themselves, their fusion, and what weighs them."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from crossmodal.mixture import Answers
from crossmodal.model import CrossModalModel
from crossmodal.selector import Selector
from datamodules.batch import PairedBatch
from experts.base import ExpertTokens
from tests.crossmodal.mixtures import CLASSES, NAMES, a_batch, a_model


def answered(model: CrossModalModel, batch: PairedBatch) -> Answers:
    with torch.no_grad():
        answers = model.eval().answer(model.encode(batch), batch)[1]
    assert answers is not None
    return answers


def test_the_answer_is_the_weighted_mean() -> None:
    answers = answered(a_model(), a_batch(lacking=True))
    expected_BC = torch.zeros(64, CLASSES)
    for row in range(64):
        for member in range(3):
            expected_BC[row] += answers.weights_BM[row, member] * answers.members["answer"][row, member]
    assert_close(answers.outputs["answer"].softmax(-1), expected_BC)
    assert_close(answers.weights_BM.sum(1), torch.ones(64))


def test_who_is_not_there_weighs_nothing() -> None:
    answers = answered(a_model(), a_batch(lacking=True))
    absent_BE = ~answers.present_BE
    assert absent_BE.any(0).all()
    assert (answers.weights_BM[:, :2][absent_BE] == 0).all()
    assert (answers.shares_BE[absent_BE] == 0).all()
    nobody_B = absent_BE.all(1)
    assert nobody_B.any()
    assert (answers.weights_BM[nobody_B, 2] == 1).all()  # the fusion gives the prior
    assert_close(answers.shares_BE[~nobody_B].amax(1), torch.ones(int((~nobody_B).sum())))  # the best is heard in full


@pytest.mark.parametrize("name", NAMES)
def test_a_modality_that_no_row_has(name: str) -> None:
    batch = a_batch()
    del batch.inputs[name]
    batch.index[name] = torch.full((64,), -1)
    answers = answered(a_model(), batch)
    assert (answers.weights_BM[:, NAMES.index(name)] == 0).all()
    assert answers.outputs["answer"].isfinite().all()
    assert (answers.disagreement["answer"] == 0).all()  # one does not disagree


def test_rows_do_not_depend_on_order() -> None:
    model, batch = a_model(), a_batch(lacking=True)
    order_B = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    moved = batch.select(torch.ones(64, dtype=torch.bool))
    moved.index = {name: index_B[order_B] for name, index_B in batch.index.items()}
    first, second = answered(model, batch), answered(model, moved)
    assert_close(first.outputs["answer"][order_B], second.outputs["answer"])
    assert_close(first.weights_BM[order_B], second.weights_BM)


def test_what_is_masked_changes_nothing() -> None:
    model, batch = a_model(), a_batch()
    first = answered(model, batch)
    for name in NAMES:
        tokens = batch.inputs[name]
        garbage_BND = torch.full_like(tokens.tokens_BND, 1e3)
        batch.inputs[name] = ExpertTokens(
            torch.cat([tokens.tokens_BND, garbage_BND], 1),
            torch.cat([tokens.mask_BN, torch.zeros_like(tokens.mask_BN)], 1),
        )
    assert_close(answered(model, batch).outputs["answer"], first.outputs["answer"], atol=1e-6, rtol=0)


def test_disagreement() -> None:
    answers = answered(a_model(), a_batch())
    sees_BC, guesses_BC = answers.members["answer"][:, 0], answers.members["answer"][:, 1]
    mean_BC = (sees_BC + guesses_BC) / 2
    expected_B = ((sees_BC - mean_BC).abs().sum(1) / 2 + (guesses_BC - mean_BC).abs().sum(1) / 2) / 2
    assert_close(answers.disagreement["answer"], expected_B)


def test_the_workspace_hears_the_same_shares() -> None:
    model, batch = a_model().eval(), a_batch(lacking=True)
    with torch.no_grad():
        workspace_BLD = model.workspace(batch)
        absent_B = ~answered(model, batch).present_BE.any(1)
        outputs_BC = model.heads["answer"](workspace_BLD, absent_B)
    assert_close(outputs_BC.softmax(-1), answered(model, batch).members["answer"][:, 2])


def broken(batch: PairedBatch, name: str, rows: list[int], value: float) -> PairedBatch:
    """Return the batch with one number of these rows' tokens made another."""
    tokens_BND = batch.inputs[name].tokens_BND.clone()
    tokens_BND[rows, 0, 3] = value
    return replace(batch, inputs={**batch.inputs, name: ExpertTokens(tokens_BND, batch.inputs[name].mask_BN)})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -3e38])
@pytest.mark.parametrize("with_selector", [False, True])
def test_what_is_not_finite_is_as_if_the_row_lacked_it(name: str, value: float, with_selector: bool) -> None:
    costs = dict.fromkeys(NAMES, 1.0)
    selector = partial(Selector, first=["guesses"], top_k=1, costs=costs) if with_selector else None
    model = a_model(selector=selector).eval()
    batch, rows = a_batch(), [0, 5, 63]
    is_whole_B = torch.ones(64, dtype=torch.bool)
    is_whole_B[rows] = False
    with torch.no_grad():
        with pytest.warns(UserWarning, match=rf"experts.{name} gives tokens that are not finite, first of row 0/0"):
            found = model(broken(batch, name, rows, value))["answer"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is said once
            all_broken = model(broken(batch, name, list(range(64)), value))["answer"]
            expected = model(batch.keeping({name: is_whole_B}))["answer"]
            assert_close(all_broken, model(batch.without(name))["answer"])
    assert found.isfinite().all()
    assert_close(found, expected)


@pytest.mark.parametrize("trains", [False, True])
def test_an_input_of_which_nothing_is_said_is_as_if_the_row_lacked_it(trains: bool) -> None:
    model, batch = a_model().train(trains), a_batch()
    own = batch.inputs["sees"]
    mask_BN = own.mask_BN.clone()
    mask_BN[:5] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = replace(batch, inputs={**batch.inputs, "sees": ExpertTokens(own.tokens_BND, mask_BN)})
        _, observed, _ = model.observe(given)
    assert observed.present("sees").tolist() == [False] * 5 + [True] * 59


@pytest.mark.filterwarnings("ignore:experts.sees gives")
def test_what_is_not_finite_teaches_nothing() -> None:
    model, batch = a_model().train(), a_batch()
    tokens, observed, _ = model.observe(broken(batch, "sees", [0, 1, 2], torch.nan))
    lacking = batch.keeping({"sees": torch.arange(64) >= 3})
    for name in NAMES:
        assert torch.equal(observed.index[name], lacking.index[name])
        assert torch.equal(observed.positions[name], lacking.positions[name])
        assert torch.equal(tokens[name].tokens_BND, lacking.inputs[name].tokens_BND)


def test_an_expert_that_diverges_while_it_trains_is_not_left_out() -> None:
    model, batch = a_model().train(), broken(a_batch(), "sees", [0], torch.nan)
    model.experts["sees"].frozen = False
    tokens, observed, _ = model.observe(batch)
    assert tokens["sees"].tokens_BND.isnan().any()
    assert observed is batch
