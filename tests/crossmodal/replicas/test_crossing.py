from __future__ import annotations

import math

import pytest
import torch

from crossmodal.alignment import InfoNCE
from crossmodal.module import CrossModalModule
from crossmodal.replicas.crossing import Line, is_client, train_split
from crossmodal.replicas.engine import Job
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.node import LocalTraining, Memory, load_sent, sent_state, train_at
from crossmodal.replicas.split import SplitLearning
from tests.crossmodal.replicas.test_node import HOW, equal, loaders, module

__all__ = ["module"]  # a fixture


def test_one_client_and_the_server_learn_what_one_model_would(module: CrossModalModule) -> None:
    began = sent_state(module)
    loader = loaders(module)[0]
    together = train_at(module, loader, Job(0, began, 1), HOW, Memory())
    (update,), server = train_split(module, {0: loader}, [Job(0, began, 1)], HOW)
    load_sent(module, began)
    assert all(map(is_client, update.state))
    assert not any(map(is_client, server))
    apart = {**update.state, **server}
    assert apart.keys() == began.keys()
    for name, value in together.state.items():
        torch.testing.assert_close(apart[name], value, atol=1e-6, rtol=1e-5)
    assert update.loss == pytest.approx(together.loss, rel=1e-5)


def test_no_graph_leads_across(module: CrossModalModule) -> None:
    batch = next(iter(loaders(module)[0]))
    module.train()
    line = Line()
    with line.across(module.model.projections):
        terms = module.training_terms(batch)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    ours = {name: one for name, one in module.named_parameters() if one.requires_grad}
    assert {name for name, one in ours.items() if one.grad is not None} == {
        name for name in ours if not is_client(name)
    }
    crossed = line.num_bytes
    assert crossed == sum(one.numel() * 4 + one.shape[0] * one.shape[1] for one in line.arrived)  # a mask has bytes
    line.send_back()
    assert line.num_bytes == crossed + sum(one.numel() * 4 for one in line.arrived)
    assert all(one.grad is not None for name, one in ours.items() if "projections" in name)
    module.zero_grad(set_to_none=True)


def test_clients_take_turns_and_what_they_learn_is_merged(module: CrossModalModule) -> None:
    began = sent_state(module)
    engine = LocalEngine(module, loaders(module), LocalTraining(epochs=5))
    method = SplitLearning()
    method.begin(began, 2, seed=0)
    losses = [method.round(engine, number).figures["train/loss"] for number in range(4)]
    assert min(losses[1:]) < 0.8 * losses[0], losses  # how far each goes differs between processors
    again = SplitLearning()
    again.begin(began, 2, seed=0)
    assert again.round(engine, 0).figures["train/loss"] == losses[0]
    kept = again.state_dict()
    again.round(engine, 1)
    resumed = SplitLearning()
    resumed.begin(began, 2, seed=0)
    resumed.load_state_dict(kept)
    resumed.round(engine, 1)
    assert equal(resumed.state, again.state)
    load_sent(module, began)


def test_parts_may_be_merged_within_a_round(module: CrossModalModule) -> None:
    began, own = sent_state(module), dict(enumerate(loaders(module)))
    jobs = [Job(node, began, 0) for node in own]
    apart, _ = train_split(module, own, jobs, LocalTraining(epochs=2))
    merged, _ = train_split(module, own, jobs, LocalTraining(epochs=2), merge_every=1)
    size = sum(value.nbytes for value in merged[0].state.values())
    assert [one.num_bytes - other.num_bytes for one, other in zip(merged, apart, strict=True)] == [4 * size] * 2
    assert not equal(apart[0].state, apart[1].state)
    assert equal(merged[0].state, merged[1].state)  # after the last batch, too
    assert not equal(merged[0].state, apart[0].state)
    with pytest.raises(ValueError, match="merge_every"):
        SplitLearning(merge_every=-1)
    load_sent(module, began)


def test_what_lies_on_neither_side_is_refused(module: CrossModalModule) -> None:
    loader = loaders(module)[0]
    aligned = CrossModalModule(
        module.experts,
        module.outputs,
        alignments=[lambda widths: InfoNCE({"image": 8, "question": 8}, source="image", target="question")],
    )
    with pytest.raises(ValueError, match=r"model.alignments: look at tokens before they are projected"):
        train_split(aligned, {0: loader}, [Job(0, sent_state(aligned), 0)], HOW)


def test_a_loss_that_is_not_finite_ends_it(module: CrossModalModule) -> None:
    began = sent_state(module)
    broken = {**began, "model.heads.answer.linear.bias": began["model.heads.answer.linear.bias"] * math.nan}
    with pytest.raises(ValueError, match="the loss is no longer finite"):
        train_split(module, {0: loaders(module)[0]}, [Job(0, broken, 0)], HOW)
    load_sent(module, began)
