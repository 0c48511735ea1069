"""How a mixture learns: the experts' own networks and their fusion by most rows, the meta-learner by the others.

What combines answers must see them as they will be: an expert that has learned its rows by heart is right on each of
them. So the meta-learner is trained by rows that train nothing else (stacking, Wolpert 1992), some of them corrupted.

Legend: U distinct inputs, B rows, E experts, M members (the experts, then their fusion), C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.corruption import corrupt, examine
from crossmodal.holding_out import HELD_OUT, not_held_out
from crossmodal.meta_learner import Scores
from crossmodal.mixture import Answers, Mixture, Said
from crossmodal.model import CrossModalModel
from crossmodal.objectives import TaskObjective
from crossmodal.opinions import for_each
from crossmodal.selector import Choice
from datamodules.batch import ABSENT, PairedBatch
from experts.base import ExpertTokens

SILENCE = 0.2  # rate at which the fusion learns to do without an expert of a row; one always stays
LACK = 0.1  # rate at which a held-out row lacks one, so that it is known who answers then; one always stays


def learn(
    model: CrossModalModel,
    objective: TaskObjective,
    tokens: Mapping[str, ExpertTokens],
    batch: PairedBatch,
    choice: Choice | None = None,
) -> dict[str, Tensor]:
    """Return the terms of the loss: of the fusion by task, `own/EXPERT` of its own head, `weights` and `score_z`.

    With a selector also those of what it chose: `selector/gain`, `selector/balance` and `selector/z`.

    Args:
        model: Has a mixture, whose running figures are updated.
        objective: The loss of an answer.
        tokens: Of the distinct inputs.
        batch: B rows, which say whether they are of the kind `HELD_OUT`.
        choice: What a selector chose; the batch is as if rows lacked all else.
    """
    mixture = model.mixture
    assert mixture is not None
    rate = mixture.meta_learner.corruption
    held_B = batch.kinds[HELD_OUT]
    terms: dict[str, Tensor] = {}
    if held_B.any():
        rows = batch.select(held_B)
        _note_gain(model, objective, tokens, rows)
        worse = {name: examine(own, rate) for name, own in tokens.items()}
        fewer = _hearing(rows, mixture, _kept(mixture.present(rows), LACK))
        terms |= _learn_to_weigh(model, objective, worse, fewer)
        if choice is not None:
            terms |= _learn_to_choose(model, tokens, rows, choice, held_B)
    if not held_B.all():  # last: the fusion's own terms are of these rows
        rows = not_held_out(batch)
        _become_familiar(mixture, tokens, rows)
        worse = {name: corrupt(own, rate) for name, own in tokens.items()}
        terms |= _learn_to_answer(model, objective, tokens, worse, rows)
    return terms


def _become_familiar(mixture: Mixture, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> None:
    for name, own in tokens.items():
        if name in mixture.networks:
            familiarity = mixture.network(name).familiarity
            assert familiarity is not None
            is_used_U = torch.zeros_like(own.mask_BN[:, 0])
            is_used_U[batch.index[name][batch.present(name)]] = True
            familiarity.learn(own.mean()[is_used_U & own.mask_BN.any(1)].detach())


def _learn_to_answer(
    model: CrossModalModel,
    objective: TaskObjective,
    tokens: Mapping[str, ExpertTokens],
    worse: Mapping[str, ExpertTokens],
    batch: PairedBatch,
) -> dict[str, Tensor]:
    """Return the losses of the fusion and of the experts' own networks.

    They learn of tokens as they are, and corrupted, but not of all that the meta-learner is examined with: it is to
    know how they do with what they never saw.
    """
    mixture = model.mixture
    assert mixture is not None
    said, said_worse = mixture.say(tokens, batch), mixture.say(worse, batch)
    with torch.no_grad():
        shares_BE = mixture.score(said_worse).shares() * _kept(said.present_BE, SILENCE)
    # the fusion learns of each row twice: with all experts as they are, which costs it nothing of what a plain one
    # would learn; and with what it will hear of experts, some of which are broken
    both, twice = _followed_by(tokens, worse, batch)
    fused = model.fuse(both, twice, torch.cat([torch.ones_like(shares_BE), shares_BE]))
    terms: dict[str, Tensor] = objective(mixture.heads, fused, twice.targets)
    for heard in (said, said_worse):
        for name, loss in own_losses(mixture.networks, objective, heard, batch).items():
            terms[name] = terms.get(name, 0) + mixture.meta_learner.own * loss
    return terms


def _followed_by(
    first: Mapping[str, ExpertTokens], second: Mapping[str, ExpertTokens], batch: PairedBatch
) -> tuple[dict[str, ExpertTokens], PairedBatch]:
    """Return tokens, and a batch of each row twice: all with the first ones, then all with the second."""
    tokens, index = {}, {name: index_B.repeat(2) for name, index_B in batch.index.items()}
    for name, one in first.items():
        other, index_B = second[name], batch.index[name]
        tokens[name] = ExpertTokens(
            torch.cat([one.tokens_BND, other.tokens_BND]), torch.cat([one.mask_BN, other.mask_BN])
        )
        index[name] = torch.cat([index_B, torch.where(index_B == ABSENT, ABSENT, index_B + len(one))])
    targets = {task: torch.cat([target, target]) for task, target in batch.targets.items()}
    return tokens, replace(batch, index=index, targets=targets, ids=[*batch.ids, *batch.ids], kinds={})


def _kept(present_BE: Tensor, rate: float) -> Tensor:
    """Draw which experts a row is to be learned with, (B, E); each is left out at a rate, but one stays."""
    draw_BE = torch.rand(present_BE.shape, device=present_BE.device)
    return (draw_BE >= rate) | (draw_BE == (draw_BE * present_BE).amax(1, keepdim=True))


def own_losses(networks: nn.ModuleDict, objective: TaskObjective, said: Said, batch: PairedBatch) -> dict[str, Tensor]:
    """Return `own/EXPERT`: the loss of its own heads, of those that a row with targets has.

    Args:
        networks: By expert.
        objective: The loss of an answer.
        said: By the networks.
        batch: The rows that it was said of.
    """
    losses = {}
    for number, (name, network) in enumerate(networks.items()):
        has_B = said.present_BE[:, number]
        outputs = {task: outputs_BEC[has_B, number] for task, outputs_BEC in said.outputs.items()}
        targets = {task: target[has_B] for task, target in batch.targets.items()}
        if has_B.any() and (terms := objective(network.heads, outputs, targets)):
            losses[f"own/{name}"] = torch.stack(list(terms.values())).sum()
    return losses


def _learn_to_weigh(
    model: CrossModalModel, objective: TaskObjective, tokens: Mapping[str, ExpertTokens], batch: PairedBatch
) -> dict[str, Tensor]:
    mixture = model.mixture
    assert mixture is not None
    tokens = {name: ExpertTokens(own.tokens_BND.detach(), own.mask_BN) for name, own in tokens.items()}
    said = mixture.say(tokens, batch).detached()
    scores = mixture.score(said)
    # the way back ends at the scores: what they weigh must not learn from rows that say how well it has learned
    leaf = Scores(scores.scores_BE.detach().requires_grad_(), scores.context_BH)
    with model.as_in_use():
        fused = model.fuse(tokens, batch, leaf.shares())
    fusion_B = mixture.score_fusion(said, scores, fused)
    fusion_leaf_B = fusion_B.detach().requires_grad_()
    answers = mixture.weigh(said, leaf, fused, fusion_leaf_B)
    terms = [objective(mixture.heads, outputs, batch.targets) for outputs in (answers.outputs, fused)]
    losses = [loss for of_answer in terms for loss in of_answer.values()]
    if not losses:
        return {}
    _note(mixture, answers, batch, said.present_BE)
    loss = torch.stack(losses).sum()
    to_scores_BE, to_fusion_B = torch.autograd.grad(loss, [leaf.scores_BE, fusion_leaf_B])
    known_BE = scores.scores_BE.masked_fill(~said.present_BE, 0)
    surrogate = (known_BE * to_scores_BE).sum() + (fusion_B * to_fusion_B).sum()
    size = torch.cat([scores.scores_BE, fusion_B.unsqueeze(1)], 1).logsumexp(1).square().mean()
    return {
        "weights": loss.detach() + surrogate - surrogate.detach(),
        "score_z": mixture.meta_learner.score_z * size,
    }


def _learn_to_choose(
    model: CrossModalModel,
    tokens: Mapping[str, ExpertTokens],
    batch: PairedBatch,
    choice: Choice,
    held_B: Tensor,
) -> dict[str, Tensor]:
    """Compare what an expert of each row was thought to be worth with what it is, beside some of the others."""
    mixture = model.mixture
    assert mixture is not None
    assert mixture.selector is not None
    selector = mixture.selector
    selector.learn_price(choice.worth_BE[held_B].detach(), choice.available_BE[held_B])
    first_BE = choice.chosen_BE[held_B] & selector.first_E
    others_BE = choice.chosen_BE[held_B] & ~selector.first_E & mixture.present(batch)
    draw_BE = torch.rand(others_BE.shape, device=others_BE.device)
    which_BE = others_BE & (draw_BE == (draw_BE * others_BE).amax(1, keepdim=True))
    beside_BE = others_BE & ~which_BE & (torch.rand_like(draw_BE) < torch.rand_like(draw_BE[:, :1]))
    tried_B = which_BE.any(1)
    with torch.no_grad(), model.as_in_use():
        said = mixture.say(tokens, batch)
        without_B, with_B = (
            _losses(model, said.hearing(heard_BE), tokens, _hearing(batch, mixture, heard_BE))
            for heard_BE in (first_BE | beside_BE, first_BE | beside_BE | which_BE)
        )
    terms = selector.terms(choice)
    if tried_B.any() and without_B is not None and with_B is not None:
        worth_B = (choice.worth_BE[held_B] * which_BE).sum(1)
        terms["selector/gain"] = selector.gain_loss(worth_B[tried_B], (without_B - with_B)[tried_B])
    return terms


def _hearing(batch: PairedBatch, mixture: Mixture, heard_BE: Tensor) -> PairedBatch:
    """Return the batch as if rows lacked the experts that are not heard."""
    index = {
        name: torch.where(heard_B, batch.index[name], ABSENT)
        for name, heard_B in zip(mixture.networks, heard_BE.unbind(1), strict=True)
    }
    return replace(batch, index=index)


def _losses(
    model: CrossModalModel, said: Said, tokens: Mapping[str, ExpertTokens], batch: PairedBatch
) -> Tensor | None:
    """Return the loss of each row's answer, (B,), a mean over the tasks; None where there are no targets."""
    mixture = model.mixture
    assert mixture is not None
    outputs = mixture.answer(said, tokens, batch, model.fuse).outputs
    losses = [
        mixture.heads[task].opinions().losses(mixture.heads[task].activate(outputs[task]), target)
        for task, target in batch.targets.items()
        if task in outputs
    ]
    return torch.stack(losses).mean(0) if losses else None


@torch.no_grad()
def _note(mixture: Mixture, answers: Answers, batch: PairedBatch, present_BE: Tensor) -> None:
    present_BM = F.pad(present_BE, (0, 1), value=True)
    losses, right = [], []
    for task, answers_BMC in answers.members.items():
        if task in batch.targets:
            opinions = mixture.heads[task].opinions()
            targets = for_each(batch.targets[task], present_BM.shape[1])
            losses.append(opinions.losses(answers_BMC, targets))
            right.append(opinions.right(answers_BMC, targets))
    mixture.record.note(torch.stack(losses).mean(0), torch.stack(right).mean(0), present_BM)


@torch.no_grad()
def _note_gain(
    model: CrossModalModel, objective: TaskObjective, tokens: Mapping[str, ExpertTokens], batch: PairedBatch
) -> None:
    """Try the fusion with and without one of the experts, drawn, on rows that have it and another."""
    mixture = model.mixture
    assert mixture is not None
    present_BE = mixture.present(batch)
    which = int(torch.randint(len(mixture.networks), ()))
    rows_B = present_BE[:, which] & (present_BE.sum(1) > 1)
    if not rows_B.any():
        return
    rows = batch.select(rows_B)
    heard_BE = torch.ones(len(rows), len(mixture.networks), device=present_BE.device)
    silent_BE = heard_BE.clone()
    silent_BE[:, which] = 0
    with model.as_in_use():
        with_it, without = (
            list(objective(mixture.heads, model.fuse(tokens, rows, shares_BE), rows.targets).values())
            for shares_BE in (heard_BE, silent_BE)
        )
    if with_it:
        mixture.record.note_gain(which, torch.stack(without).sum() - torch.stack(with_it).sum(), len(rows) / len(batch))
