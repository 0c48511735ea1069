"""How a mixture learns: the experts' own networks and their fusion by most rows, the meta-learner by the others.

What combines answers must see them as they will be: an expert that has learned its rows by heart is right on each of
them. So the meta-learner is trained by rows that train nothing else (stacking, Wolpert 1992), some of them corrupted.

Legend: U distinct inputs, B rows, E experts, M members (the experts, then their fusion), C outputs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.corruption import corrupt, examine
from crossmodal.meta_learner import Scores
from crossmodal.mixture import Answers, Fuse, Mixture, Said
from crossmodal.objectives import TaskObjective
from crossmodal.selector import Choice
from datamodules.batch import ABSENT, PairedBatch
from datamodules.rows import PairedRows
from experts.base import ExpertTokens

HEARD = 0.5  # share of the rows on which the fusion learns with all experts heard
SILENCE = 0.1  # rate at which it learns without one; one always stays


def learn(
    mixture: Mixture,
    objective: TaskObjective,
    tokens: Mapping[str, ExpertTokens],
    batch: PairedBatch,
    fuse: Fuse,
    choice: Choice | None = None,
) -> dict[str, Tensor]:
    """Return the terms of the loss: of the fusion by task, `own/EXPERT` of its own head, `weights` and `score_z`.

    With a selector also those of what it chose: `selector/gain`, `selector/balance` and `selector/z`.

    Args:
        mixture: Its running figures are updated.
        objective: The loss of an answer.
        tokens: Of the distinct inputs.
        batch: B rows.
        fuse: Asks the fusion.
        choice: What a selector chose; the batch is as if rows lacked all else.
    """
    for name, own in tokens.items():
        if name in mixture.networks:
            usual = mixture.network(name).familiarity
            assert usual is not None
            usual.learn(own.mean()[own.mask_BN.any(1)].detach())
    rate = mixture.meta_learner.corruption
    # by the batch as it was: a row must not change sides where its input is not chosen
    whole = batch if choice is None else choice.whole
    held_B = held_out(whole, mixture.meta_learner.held_out, mixture.held_out_by)
    terms: dict[str, Tensor] = {}
    if held_B.any():
        rows = batch.select(held_B)
        _note_gain(mixture, objective, tokens, rows, fuse)
        worse = {name: examine(own, rate) for name, own in tokens.items()}
        terms |= _learn_to_weigh(mixture, objective, worse, rows, fuse)
        if choice is not None:
            terms |= _learn_to_choose(mixture, tokens, rows, fuse, choice, held_B)
    if not held_B.all():  # last: the fusion's own terms are of these rows
        rows = batch.select(~held_B)
        worse = {name: corrupt(own, rate) for name, own in tokens.items()}
        terms |= _learn_to_answer(mixture, objective, tokens, worse, rows, fuse)
    return terms


def held_out(batch: PairedBatch, share: float, by: str | None) -> Tensor:
    """Return which rows train only the meta-learner, bool of shape (B,): always the same ones.

    Args:
        batch: B rows.
        share: Of all rows.
        by: Rows with the same input of this modality are held out together; other rows each by its id.
    """
    names = list(batch.ids)
    index_B = next(iter(batch.index.values()))
    if by in batch.positions:
        index_B = batch.index[by]
        positions_B = batch.positions[by][index_B.clamp_min(0)].tolist()
        names = [str(p) if i >= 0 else name for p, i, name in zip(positions_B, index_B.tolist(), names, strict=True)]
    numbers_B = torch.tensor([zlib.crc32(name.encode()) for name in names], device=index_B.device)
    return numbers_B < share * 2**32


def most_varied(rows: PairedRows, experts: Iterable[str]) -> str:
    """Return the expert of which rows have most distinct inputs: a row cannot be new where its inputs are known."""
    return max(experts, key=lambda expert: len(rows.used(expert)))


def _learn_to_answer(
    mixture: Mixture,
    objective: TaskObjective,
    tokens: Mapping[str, ExpertTokens],
    worse: Mapping[str, ExpertTokens],
    batch: PairedBatch,
    fuse: Fuse,
) -> dict[str, Tensor]:
    """Return the losses of the fusion and of the experts' own networks.

    They learn of tokens as they are, and corrupted, but not of all that the meta-learner is examined with: it is to
    know how they do with what they never saw.
    """
    said, said_worse = mixture.say(tokens, batch), mixture.say(worse, batch)
    # of some rows the fusion hears all, as it is; of the others what it will hear of experts, some of which are broken
    is_clean_B = torch.rand(len(batch), device=said.present_BE.device) < HEARD
    with torch.no_grad():
        shares_BE = torch.where(is_clean_B.unsqueeze(1), 1.0, mixture.score(said_worse).shares())
    fused = fuse(*_either(tokens, worse, batch, is_clean_B), shares_BE * _kept(said.present_BE))
    terms: dict[str, Tensor] = objective(mixture.heads, fused, batch.targets)
    for heard in (said, said_worse):
        for name, loss in own_losses(mixture.networks, objective, heard, batch).items():
            terms[name] = terms.get(name, 0) + mixture.meta_learner.own * loss
    return terms


def _either(
    first: Mapping[str, ExpertTokens], second: Mapping[str, ExpertTokens], batch: PairedBatch, is_first_B: Tensor
) -> tuple[dict[str, ExpertTokens], PairedBatch]:
    """Return tokens, and the batch such that some of its rows have the first ones, the others the second."""
    index, tokens = dict(batch.index), {}
    for name, one in first.items():
        other = second[name]
        tokens[name] = ExpertTokens(
            torch.cat([one.tokens_BND, other.tokens_BND]), torch.cat([one.mask_BN, other.mask_BN])
        )
        is_first_or_absent_B = is_first_B | (index[name] == ABSENT)
        index[name] = torch.where(is_first_or_absent_B, index[name], index[name] + len(one))
    return tokens, replace(batch, index=index)


def _kept(present_BE: Tensor) -> Tensor:
    """Draw which experts a row is to be learned with, (B, E)."""
    draw_BE = torch.rand(present_BE.shape, device=present_BE.device)
    return (draw_BE >= SILENCE) | (draw_BE == (draw_BE * present_BE).amax(1, keepdim=True))


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
    mixture: Mixture, objective: TaskObjective, tokens: Mapping[str, ExpertTokens], batch: PairedBatch, fuse: Fuse
) -> dict[str, Tensor]:
    tokens = {name: ExpertTokens(own.tokens_BND.detach(), own.mask_BN) for name, own in tokens.items()}
    said = mixture.say(tokens, batch).detached()
    scores = mixture.score(said)
    # the way back ends at the scores: what they weigh must not learn from rows that say how well it has learned
    leaf = Scores(scores.scores_BE.detach().requires_grad_(), scores.context_BH)
    fused = fuse(tokens, batch, leaf.shares())
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
    mixture: Mixture,
    tokens: Mapping[str, ExpertTokens],
    batch: PairedBatch,
    fuse: Fuse,
    choice: Choice,
    held_B: Tensor,
) -> dict[str, Tensor]:
    """Compare what an expert of each row was thought to be worth with what it is, beside some of the others."""
    selector = mixture.selector
    assert selector is not None
    selector.learn_price(choice.worth_BE[held_B].detach(), choice.available_BE[held_B])
    first_BE = choice.chosen_BE[held_B] & selector.first_E
    others_BE = choice.chosen_BE[held_B] & ~selector.first_E
    draw_BE = torch.rand(others_BE.shape, device=others_BE.device)
    which_BE = others_BE & (draw_BE == (draw_BE * others_BE).amax(1, keepdim=True))
    beside_BE = others_BE & ~which_BE & (torch.rand_like(draw_BE) < torch.rand_like(draw_BE[:, :1]))
    tried_B = which_BE.any(1)
    with torch.no_grad():
        said = mixture.say(tokens, batch)
        without_B, with_B = (
            _losses(mixture, said.hearing(heard_BE), tokens, _hearing(batch, mixture, heard_BE), fuse)
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
    mixture: Mixture, said: Said, tokens: Mapping[str, ExpertTokens], batch: PairedBatch, fuse: Fuse
) -> Tensor | None:
    """Return the loss of each row's answer, (B,), a mean over the tasks; None where there are no targets."""
    outputs = mixture.answer(said, tokens, batch, fuse).outputs
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
            targets = batch.targets[task].unsqueeze(1)
            targets = targets.expand(-1, present_BM.shape[1], *targets.shape[2:])
            losses.append(opinions.losses(answers_BMC, targets))
            right.append(opinions.right(answers_BMC, targets))
    mixture.record.note(torch.stack(losses).mean(0), torch.stack(right).mean(0), present_BM)


@torch.no_grad()
def _note_gain(
    mixture: Mixture, objective: TaskObjective, tokens: Mapping[str, ExpertTokens], batch: PairedBatch, fuse: Fuse
) -> None:
    """Try the fusion with and without one of the experts, drawn, on rows that have it and another."""
    present_BE = torch.stack([batch.present(name) for name in mixture.networks], dim=1)
    which = int(torch.randint(len(mixture.networks), ()))
    rows_B = present_BE[:, which] & (present_BE.sum(1) > 1)
    if not rows_B.any():
        return
    rows = batch.select(rows_B)
    heard_BE = torch.ones(len(rows), len(mixture.networks), device=present_BE.device)
    silent_BE = heard_BE.clone()
    silent_BE[:, which] = 0
    with_it, without = (
        list(objective(mixture.heads, fuse(tokens, rows, shares_BE), rows.targets).values())
        for shares_BE in (heard_BE, silent_BE)
    )
    if with_it:
        mixture.record.note_gain(which, torch.stack(without).sum() - torch.stack(with_it).sum(), len(rows) / len(batch))
