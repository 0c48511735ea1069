"""How a mixture learns, and that it learns whom to trust."""

from __future__ import annotations

import torch

from crossmodal.meta_learner import MetaLearner
from crossmodal.mixture import Mixture
from crossmodal.model import CrossModalModel
from crossmodal.objectives import TaskObjective
from crossmodal.stacking import _either, held_out, learn
from datamodules.batch import PairedBatch
from experts.base import ExpertTokens
from tests.crossmodal.mixtures import NAMES, a_batch, a_model


def terms_of(model: CrossModalModel, batch: PairedBatch) -> dict[str, torch.Tensor]:
    assert isinstance(model.mixture, Mixture)
    return learn(model.mixture, TaskObjective(), model.encode(batch), batch, model.fuse)


def of_meta_learner(model: CrossModalModel) -> set[str]:
    silent = "mixture.meta_learner.silent_ED"  # the fusion learns what stands for an expert
    return {name for name, _ in model.named_parameters() if name.startswith("mixture.meta_learner.")} - {silent}


def test_held_out_rows_are_always_the_same_and_as_many_as_asked_for() -> None:
    batch = a_batch(4000)
    held_B = held_out(batch, 0.1, None)
    assert 0.08 < held_B.float().mean() < 0.12
    order_B = torch.randperm(4000)
    batch.ids = [batch.ids[number] for number in order_B.tolist()]
    assert torch.equal(held_out(batch, 0.1, None), held_B[order_B])


def test_rows_that_share_an_input_are_held_out_together() -> None:
    batch = a_batch(4000)
    batch.index["sees"] = torch.arange(4000) // 8
    held_B8 = held_out(batch, 0.1, "sees").view(500, 8)
    assert (held_B8 == held_B8[:, :1]).all()
    assert 0.05 < held_B8.float().mean() < 0.15


def test_no_held_out_row_trains_anything_but_the_meta_learner() -> None:
    model = a_model(held_out=0.5)
    batch = a_batch(200)
    rows = batch.select(held_out(batch, 0.5, None))
    terms = terms_of(model, rows)
    assert terms.keys() == {"weights", "score_z"}
    torch.stack(list(terms.values())).sum().backward()
    learned = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert learned
    assert learned <= of_meta_learner(model)


def test_no_other_row_trains_the_meta_learner() -> None:
    model = a_model(held_out=0.5)
    batch = a_batch(200)
    terms = terms_of(model, batch.select(~held_out(batch, 0.5, None)))
    assert terms.keys() == {"answer", "own/sees", "own/guesses"}
    torch.stack(list(terms.values())).sum().backward()
    learned = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert not learned & of_meta_learner(model)
    assert {name.split(".")[0] for name in learned} >= {"fusion", "heads", "projections", "mixture"}


def test_rows_without_targets_teach_nothing() -> None:
    batch = a_batch(64)
    batch.targets = {}
    assert terms_of(a_model(), batch) == {}


def test_some_rows_have_the_first_tokens_and_others_the_second() -> None:
    batch = a_batch(6, lacking=True)
    first = a_model().encode(batch)
    second = {name: ExpertTokens(-own.tokens_BND, own.mask_BN) for name, own in first.items()}
    is_first_B = torch.tensor([True, False, True, False, True, False])
    tokens, either = _either(first, second, batch, is_first_B)
    for name in NAMES:
        has_B = batch.present(name)
        assert torch.equal(either.present(name), has_B)
        sign_B11 = torch.where(is_first_B[has_B], 1, -1).view(-1, 1, 1)
        expected = sign_B11 * first[name].tokens_BND[batch.index[name][has_B]]
        assert torch.equal(tokens[name].tokens_BND[either.index[name][has_B]], expected)


def trained(**of_meta_learner: float) -> CrossModalModel:
    model = a_model(**of_meta_learner).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        loss = torch.stack(list(terms_of(model, a_batch(128, seed=step)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_it_learns_whom_to_trust() -> None:
    model = trained()
    assert isinstance(model.mixture, Mixture)
    assert isinstance(model.mixture.meta_learner, MetaLearner)
    record = model.mixture.record
    # of rows some of which are corrupted, as those are that it learns from
    assert record.accuracy_M[0] > 0.6 > 0.4 > record.accuracy_M[1]
    assert record.gain_M[0] > 0.5 > record.gain_M[1]
    batch = a_batch(256, seed=1000)
    with torch.no_grad():
        answers = model.answer(model.encode(batch), batch)[1]
        assert answers is not None
        assert answers.weights_BM[:, 0].mean() > 10 * answers.weights_BM[:, 1].mean()
        before_E = answers.shares_BE.mean(0)
        # now its sensor is stuck
        stuck = batch.inputs["sees"].tokens_BND[:1].expand(256, -1, -1)
        batch.inputs["sees"] = ExpertTokens(stuck, batch.inputs["sees"].mask_BN)
        worse = model.answer(model.encode(batch), batch)[1]
        assert worse is not None
    assert worse.weights_BM[:, 0].mean() < 0.2 * answers.weights_BM[:, 0].mean()
    assert worse.shares_BE.mean(0)[0] < before_E[0]
    assert NAMES[0] == answers.experts[0]
