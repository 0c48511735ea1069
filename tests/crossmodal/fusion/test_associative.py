"""Legend: B rows, N tokens of all modalities and a null token, L memory slots, D width, R memory width, H heads."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from crossmodal.fusion import AssociativeFusion
from crossmodal.fusion.layers import CrossAttention
from experts.base import ExpertTokens
from tests.crossmodal.fusion.references import (
    MODALITIES,
    WIDTH,
    Row,
    assert_equals,
    changed,
    drawn,
    gradients,
    mixed,
    passed,
    shaken,
)


def made(**settings: Any) -> AssociativeFusion:
    return AssociativeFusion(MODALITIES, **{"width": WIDTH, "slots": 3, "memory_width": 8, "dropout": 0.0, **settings})


def rows_of(tokens: dict[str, ExpertTokens]) -> list[Row]:
    num_rows = len(tokens["image"].mask_BN)
    return [{name: one.tokens_BND[row][one.mask_BN[row]] for name, one in tokens.items()} for row in range(num_rows)]


def unit(values_LR: Tensor) -> Tensor:
    return torch.stack([value_R / value_R.square().sum().sqrt() for value_R in values_LR])


def retrieved(fusion: AssociativeFusion, token_D: Tensor, memory_LR: Tensor) -> Tensor:
    patterns = [fusion.up(slot_R) for slot_R in memory_LR]
    weights = [(fusion.beta * (fusion.norm_token(token_D) @ pattern_D)).exp() for pattern_D in patterns]
    retrieved_D: Tensor = sum(w * p for w, p in zip(weights, patterns, strict=True)) / sum(weights)  # type: ignore[assignment]
    return retrieved_D


def remembered(fusion: AssociativeFusion, row: Row) -> list[tuple[Tensor, Tensor]]:
    """One row's memory and tokens before each round, and after the last."""
    named = [tokens_ND + fusion.modality_MD[MODALITIES.index(name)] for name, tokens_ND in row.items()]
    tokens_ND = torch.cat([*named, fusion.null_D[None]])
    memory_LR = unit(fusion.priors_LR + fusion.slots_LR)
    states = []
    for number in range(fusion.rounds):
        if number:
            told = [mixed(fusion.mix, token_D + retrieved(fusion, token_D, memory_LR)) for token_D in tokens_ND]
            tokens_ND = torch.stack(told)
        states.append((memory_LR, tokens_ND))
        memory_LR = unit(passed(fusion.write, memory_LR, tokens_ND))
    return [*states, (memory_LR, tokens_ND)]


@pytest.mark.parametrize("top_k", [0, 1, 3])
@pytest.mark.parametrize("rounds", [2, 3])
def test_it_equals_a_loop_over_tokens_and_slots(rounds: int, top_k: int) -> None:
    fusion = made(rounds=rounds, top_k=top_k, beta=1.5)

    def reference(row: Row) -> Tensor:
        memory_LR, _ = remembered(fusion, row)[-1]
        return F.layer_norm(fusion.up(memory_LR), (WIDTH,), fusion.norm.weight, fusion.norm.bias)

    assert_equals(fusion, reference)


def test_the_priors_are_a_moving_average() -> None:
    fusion = shaken(made(top_k=2, rate=0.3))
    assert isinstance(fusion, AssociativeFusion)
    fusion.train()
    for _ in range(3):
        tokens = drawn(*MODALITIES)
        found = [remembered(fusion, row)[-1][0].detach() for row in rows_of(tokens)[1:]]  # the first has no tokens
        mean_LR = sum(found) / len(found)
        apart_LR = unit(torch.stack([slot_R - sum(mean_LR) / 3 for slot_R in mean_LR]))
        expected_LR = unit(0.7 * fusion.priors_LR + 0.3 * apart_LR)
        fusion(tokens)
        assert_close(fusion.priors_LR, expected_LR, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fill", [0.0, -1e4, math.inf])
def test_what_is_masked_moves_nothing(fill: float) -> None:
    tokens = drawn(*MODALITIES)  # NaN where it is masked
    filled = changed(tokens, lambda one: (one.tokens_BND.nan_to_num(fill), one.mask_BN))
    rows = slice(1, None)  # the first has no tokens
    without = changed(tokens, lambda one: (one.tokens_BND[rows], one.mask_BN[rows]))
    fusions = [copy.deepcopy(fusion) for fusion in [shaken(made()).train()] * 3]
    for fusion, given in zip(fusions, (tokens, filled, without), strict=True):
        fusion(given)
    is_same = torch.equal(fusions[0].priors_LR, fusions[1].priors_LR)
    assert is_same
    terms = [list(fusion.terms.values()) for fusion in fusions]
    assert_close(terms[0], terms[1], atol=0, rtol=0)
    assert_close(fusions[0].priors_LR, fusions[2].priors_LR, atol=1e-6, rtol=1e-6)
    assert_close(terms[0], terms[2], atol=1e-6, rtol=1e-5)


def test_without_tokens_there_is_nothing_to_remember() -> None:
    fusion = made().train()
    before_LR = fusion.priors_LR.clone()
    nothing = changed(drawn(*MODALITIES), lambda one: (one.tokens_BND, torch.zeros_like(one.mask_BN)))
    fused_BLD = fusion(nothing)
    assert fused_BLD.isfinite().all()
    assert torch.equal(fusion.priors_LR, before_LR)
    assert {name: float(term.detach()) for name, term in fusion.terms.items()} == {"importance": 0, "load": 0}
    torch.stack([fused_BLD.square().sum(), *fusion.terms.values()]).sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in fusion.parameters())


def test_only_training_moves_the_priors() -> None:
    fusion = made().eval()
    before_LR = fusion.priors_LR.clone()
    tokens = drawn(*MODALITIES)
    fused_BLD = fusion(tokens)
    assert torch.equal(fusion.priors_LR, before_LR)
    assert fusion.terms == {}
    assert_close(fusion.train()(tokens), fused_BLD)  # a row reads its own memory, not what the batch leaves
    assert not torch.equal(fusion.priors_LR, before_LR)
    assert_close(fusion.priors_LR.norm(dim=-1), torch.ones(3))
    assert fusion.terms.keys() == {"importance", "load"}
    assert not torch.equal(fusion.eval()(tokens), fused_BLD)
    assert fusion.terms == {}


def test_the_way_back_needs_the_priors_as_they_were() -> None:
    fusion = shaken(made()).train()
    tokens = drawn(*MODALITIES)
    expected = gradients(fusion.eval()(tokens), fusion, tokens)
    fused_BLD = fusion.train()(tokens)
    fusion(drawn(*MODALITIES))
    for found, right in zip(gradients(fused_BLD, fusion, tokens), expected, strict=True):
        assert_close(found, right)


def variation(amounts: Tensor) -> Tensor:
    """The squared coefficient of variation."""
    mean = sum(amounts) / len(amounts)
    squares: Tensor = sum((amount - mean) ** 2 for amount in amounts) / len(amounts)  # type: ignore[assignment]
    return squares / (mean**2 + 1e-10)


def unevenness(attention: CrossAttention, memory_LR: Tensor, tokens_ND: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """Of a row and head: of all but the null token's attention, and of their number of slots."""
    head_width = memory_LR.shape[-1] // attention.num_heads
    part = slice(head * head_width, (head + 1) * head_width)
    key_ND = attention.key_value(attention.norm_source(tokens_ND))[:, part]
    importance = torch.zeros(len(tokens_ND))
    counts, chances = torch.zeros(len(tokens_ND)), torch.zeros(len(tokens_ND))
    for slot_R in memory_LR:
        score_N = torch.stack([attention.query(attention.norm_reader(slot_R))[part] @ key_D for key_D in key_ND])
        chance_N = (score_N / head_width**0.5).exp()
        best = chance_N.argsort(descending=True)[: attention.top_k or None]
        importance = importance.index_add(0, best, chance_N[best] / chance_N[best].sum())
        counts[best] += 1
        chances = chances + chance_N / chance_N.sum()
    counts = counts[:-1].requires_grad_()
    load = variation(counts)
    (slope_N,) = torch.autograd.grad(load, counts)
    passing = (slope_N * chances[:-1]).sum()
    return variation(importance[:-1]), load.detach() + passing - passing.detach()


@pytest.mark.parametrize("top_k", [0, 2])
def test_its_terms_are_those_of_the_paper(top_k: int) -> None:
    fusion = made(top_k=top_k, rounds=2, importance=0.5, load=0.25, num_heads=2)
    shaken(fusion).train()
    tokens = drawn(*MODALITIES)
    rows = [remembered(fusion, row) for row in rows_of(tokens)[1:]]
    expected = [
        unevenness(fusion.write.attention, *row[number], head)
        for row, number, head in itertools.product(rows, range(2), range(2))
    ]
    importance, load = (sum(terms) / len(terms) for terms in zip(*expected, strict=True))
    fusion(tokens)
    assert_close(fusion.terms["importance"], 0.5 * importance)
    assert_close(fusion.terms["load"], 0.25 * load)
    assert (float(fusion.terms["load"].detach()) > 1e-6) == (top_k > 0)  # where all write, all write to each
    wanted = [*fusion.write.attention.query.parameters(), *fusion.write.attention.norm_source.parameters()]
    for name, right in (("importance", 0.5 * importance), ("load", 0.25 * load)):
        pairs = [torch.autograd.grad(term, wanted, retain_graph=True) for term in (fusion.terms[name], right)]
        assert_close(*pairs, atol=1e-6, rtol=1e-4)
        assert any(grad.abs().max() > 1e-6 for grad in pairs[0]) == (name == "importance" or top_k > 0)


def test_the_terms_spread_what_is_written_and_priors_stay_apart() -> None:
    torch.manual_seed(0)
    fusion = shaken(made(slots=4, top_k=2, rounds=2, importance=1, load=1)).train()
    tokens = drawn(*MODALITIES)
    optimizer = torch.optim.Adam(fusion.parameters(), 1e-3)
    sums = []
    for _ in range(100):
        fusion(tokens)
        loss = torch.stack(list(fusion.terms.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sums.append(float(loss.detach()))
    assert sum(sums[-10:]) < 0.6 * sum(sums[:10])
    alike_LL = fusion.priors_LR @ fusion.priors_LR.T  # with what all slots have in common, all would soon be near 1
    assert alike_LL.tril(-1).max() < 0.8


@pytest.mark.parametrize("beta", [0.0, 1e5])
def test_beta_says_how_many_slots_are_retrieved(beta: float) -> None:
    fusion = made(beta=beta)
    tokens_BND, memory_BLR = torch.randn(2, 5, WIDTH), torch.randn(2, 3, 8)
    patterns_BLD = fusion.up(memory_BLR)
    nearest_BN = (fusion.norm_token(tokens_BND) @ patterns_BLD.mT).argmax(-1)
    single_BND = patterns_BLD.gather(1, nearest_BN.unsqueeze(-1).expand(-1, -1, WIDTH))
    expected_BND = single_BND if beta else patterns_BLD.mean(1, keepdim=True).expand(-1, 5, -1)
    assert_close(fusion.retrieve(tokens_BND, memory_BLR), expected_BND)


def test_a_checkpoint_has_the_priors() -> None:
    fusion, other = made().train(), made().eval()
    tokens = drawn(*MODALITIES)
    for _ in range(3):
        fusion(tokens)
    assert "priors_LR" not in dict(fusion.named_parameters())
    other.load_state_dict(fusion.state_dict())
    assert torch.equal(other.priors_LR, fusion.priors_LR)
    is_same = torch.equal(other(tokens), fusion.eval()(tokens))
    assert is_same


def test_training_compiles() -> None:
    fusion, other = made(top_k=2, rounds=2).train(), made(top_k=2, rounds=2).train()
    other.load_state_dict(fusion.state_dict())
    torch.compiler.reset()
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    tokens = drawn(*MODALITIES)
    for _ in range(2):
        fused_BLD, compiled_BLD = fusion(tokens), compiled(tokens)
        assert_close(compiled_BLD, fused_BLD, atol=1e-6, rtol=1e-6)
        assert_close(other.priors_LR, fusion.priors_LR, atol=1e-6, rtol=1e-6)
        assert_close(other.terms, fusion.terms, atol=1e-6, rtol=1e-6)
    found = gradients(compiled_BLD + sum(other.terms.values()), other, tokens)
    assert_close(found, gradients(fused_BLD + sum(fusion.terms.values()), fusion, tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("is_training", [False, True])
def test_it_runs_in_bfloat16_where_no_near_ones_compete(is_training: bool) -> None:
    fusion = shaken(made(top_k=0)).train(is_training)
    tokens = drawn(*MODALITIES)
    priors_LR = fusion.priors_LR.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused_BLD = fusion(tokens)
    assert fusion.priors_LR.dtype == torch.float32
    fusion.priors_LR.copy_(priors_LR)
    exact_BLD = fusion(tokens)
    assert not torch.equal(fused_BLD.float(), exact_BLD)  # it did run in bfloat16
    assert (fused_BLD - exact_BLD).norm() < 0.03 * exact_BLD.norm()
    for found, right in zip(gradients(fused_BLD, fusion, tokens), gradients(exact_BLD, fusion, tokens), strict=True):
        assert (found - right).norm() < 0.05 * right.norm()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top_k": -1}, "top_k must be at least 0, not -1"),
        ({"rate": 1.5}, "rate must be from 0 to 1, not 1.5"),
        ({"beta": -0.5}, "beta must be at least 0, not -0.5"),
        ({"num_heads": 0}, r"memory_width \(8\) must be a multiple of num_heads \(0\)"),
        ({"num_heads": 3}, r"memory_width \(8\) must be a multiple of num_heads \(3\)"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(**settings)


def test_the_competition_is_held_once_a_round() -> None:
    fusion, held = made(rounds=3).train(), []
    fusion.write.attention.query.register_forward_hook(lambda *_: held.append(1))
    fusion(drawn(*MODALITIES))
    assert len(held) == fusion.rounds
