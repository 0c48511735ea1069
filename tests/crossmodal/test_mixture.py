"""Experts that answer by themselves, their fusion, and what weighs them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from crossmodal.mixture import Answers
from crossmodal.model import CrossModalModel
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
