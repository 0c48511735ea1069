"""How a mixture learns, and that it learns whom to trust."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from crossmodal.alignment import InfoNCE
from crossmodal.fusion import AssociativeFusion, ConcatFusion
from crossmodal.heads import ClassificationHead
from crossmodal.holding_out import HELD_OUT
from crossmodal.meta_learner import MetaLearner
from crossmodal.mixture import Mixture
from crossmodal.model import CrossModalModel
from crossmodal.module import CrossModalModule
from crossmodal.objectives import TaskObjective
from crossmodal.stacking import _followed_by, learn
from datamodules.batch import PairedBatch, gather_rows
from experts.base import Expert, ExpertTokens
from tests.crossmodal.mixtures import CLASSES, NAMES, WIDTH, AsItIs, a_batch, a_model


def terms_of(model: CrossModalModel, batch: PairedBatch) -> dict[str, torch.Tensor]:
    assert isinstance(model.mixture, Mixture)
    return learn(model, TaskObjective(), model.encode(batch), batch)


def of_meta_learner(model: CrossModalModel) -> set[str]:
    silent = "mixture.meta_learner.silent_ED"  # the fusion learns what stands for an expert
    return {name for name, _ in model.named_parameters() if name.startswith("mixture.meta_learner.")} - {silent}


def test_no_held_out_row_trains_anything_but_the_meta_learner() -> None:
    model = a_model()
    batch = a_batch(200)
    terms = terms_of(model, batch.select(batch.kinds[HELD_OUT]))
    assert terms.keys() == {"weights", "score_z"}
    torch.stack(list(terms.values())).sum().backward()
    learned = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert learned
    assert learned <= of_meta_learner(model)


def test_no_other_row_trains_the_meta_learner() -> None:
    model = a_model()
    batch = a_batch(200)
    terms = terms_of(model, batch.select(~batch.kinds[HELD_OUT]))
    assert terms.keys() == {"answer", "own/sees", "own/guesses"}
    torch.stack(list(terms.values())).sum().backward()
    learned = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert not learned & of_meta_learner(model)
    assert {name.split(".")[0] for name in learned} >= {"fusion", "heads", "projections", "mixture"}


def test_rows_without_targets_teach_nothing() -> None:
    batch = a_batch(64)
    batch.targets = {}
    assert terms_of(a_model(), batch) == {}


@pytest.mark.parametrize("lacking", [True, False])
def test_each_row_stands_twice_with_the_first_tokens_and_with_the_second(lacking: bool) -> None:
    batch = a_batch(12, lacking=lacking)
    first = a_model().encode(batch)
    second = {name: ExpertTokens(-own.tokens_BND, own.mask_BN) for name, own in first.items()}
    tokens, twice = _followed_by(first, second, batch)
    assert torch.equal(twice.targets["answer"], batch.targets["answer"].repeat(2))
    assert twice.ids == batch.ids * 2
    for name in NAMES:
        expected = gather_rows(first[name].tokens_BND, batch.index[name])
        assert torch.equal(gather_rows(tokens[name].tokens_BND, twice.index[name]), torch.cat([expected, -expected]))


def test_trials_are_made_as_in_use_and_move_nothing() -> None:
    model = a_model(AssociativeFusion).train()
    assert model.fusion is not None
    seen: list[bool] = []
    model.fusion.register_forward_hook(lambda fusion, *_: seen.append(fusion.training))
    priors = model.fusion.state_dict()
    before = {name: value.clone() for name, value in priors.items()}
    batch = a_batch(200)
    terms_of(model, batch.select(batch.kinds[HELD_OUT]))
    assert seen == [False] * 3  # with an expert and without it, and to weigh
    assert all(torch.equal(priors[name], value) for name, value in before.items())
    assert model.fusion.training
    assert not model.fusion.terms  # of rows that train nothing else there is no loss of the fusion's own
    terms_of(model, batch)
    assert seen == [False] * 6 + [True]


def test_some_held_out_rows_lack_an_expert_and_none_lacks_all() -> None:
    model = a_model().train()
    assert model.mixture is not None
    seen: list[torch.Tensor] = []
    model.mixture.meta_learner.register_forward_hook(lambda _, given, __: seen.append(given[2]))
    batch = a_batch(2000)
    terms_of(model, batch.select(batch.kinds[HELD_OUT]))
    (present_BE,) = seen
    assert 0.08 < 1 - present_BE.float().mean() < 0.13
    assert present_BE.any(1).all()


def test_the_fusion_counts_for_less_where_it_is_deaf_to_what_it_lives_by() -> None:
    model = a_model().eval()
    assert model.mixture is not None
    batch = a_batch(64).without("sees")
    weights = []
    for gain in (0.0, 1.0):
        model.mixture.record.gain_M[0] = gain
        answers = model.answer(model.encode(batch), batch)[1]
        assert answers is not None
        weights.append(answers.weights_BM[:, -1].mean())
    assert weights[1] < 0.6 * weights[0]


def test_what_is_held_out_does_not_become_familiar() -> None:
    batch = a_batch(200)
    found = []
    for far in (0.0, 100.0):
        model = a_model().train()
        own = batch.inputs["sees"]
        far_B11 = far * batch.kinds[HELD_OUT].float()[:, None, None]
        given = replace(batch, inputs={**batch.inputs, "sees": ExpertTokens(own.tokens_BND + far_B11, own.mask_BN)})
        terms_of(model, given)
        assert model.mixture is not None
        familiarity = model.mixture.network("sees").familiarity
        assert familiarity is not None
        found.append(familiarity.mean_K)
    assert torch.equal(*found)


def trained(**of_meta_learner: float) -> CrossModalModel:
    model = a_model(**of_meta_learner).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        loss = torch.stack(list(terms_of(model, a_batch(128, seed=step, held_out=0.1)).values())).sum()
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
        assert answers.weights_BM[:, 0].mean() > 4 * answers.weights_BM[:, 1].mean()
        before_E = answers.shares_BE.mean(0)
        # now its sensor is stuck
        stuck = batch.inputs["sees"].tokens_BND[:1].expand(256, -1, -1)
        batch.inputs["sees"] = ExpertTokens(stuck, batch.inputs["sees"].mask_BN)
        worse = model.answer(model.encode(batch), batch)[1]
        assert worse is not None
    assert worse.weights_BM[:, 0].mean() < 0.2 * answers.weights_BM[:, 0].mean()
    assert worse.shares_BE.mean(0)[0] < before_E[0]
    assert NAMES[0] == answers.experts[0]


class Learning(Expert):
    """An expert that trains."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH), width=WIDTH, transform=AsItIs(), freeze=False)

    def encode(self, inputs: torch.Tensor) -> ExpertTokens:
        return ExpertTokens(self.network(inputs), torch.ones(inputs.shape[:2], dtype=torch.bool))


def test_no_alignment_learns_of_a_held_out_row() -> None:
    module = CrossModalModule(
        {name: Learning() for name in NAMES},
        {"answer": [str(number) for number in range(CLASSES)]},
        fusion=partial(ConcatFusion, width=WIDTH),
        heads={"answer": ClassificationHead},
        meta_learner=MetaLearner,
        alignments=[partial(InfoNCE, source="sees", target="guesses")],
        feature_store=None,
    ).train()
    module.trainer = Trainer(logger=False, enable_checkpointing=False, log_every_n_steps=0, accelerator="cpu")
    batch = a_batch(200)
    batch.inputs = {name: own.tokens_BND for name, own in batch.inputs.items()}
    learned: dict[bool, set[str]] = {}
    for is_held in (True, False):
        module.zero_grad()
        loss = module.training_step(batch.select(batch.kinds[HELD_OUT] == is_held), 0)
        assert loss is not None
        loss.backward()
        learned[is_held] = {name for name, one in module.named_parameters() if one.grad is not None and one.grad.any()}
    assert {name.removeprefix("model.") for name in learned[True]} <= of_meta_learner(module.model)
    assert any("experts.sees" in name for name in learned[False])
    assert any(name.startswith("alignments.") for name in learned[False])
