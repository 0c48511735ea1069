"""Legend: N tokens, L slots, D width, E experts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import MoEFusion
from crossmodal.fusion.moe import SparseLayer
from experts.base import ExpertTokens
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals, attended, drawn, mixed, shaken


def through(layer: SparseLayer, tokens_ND: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One row through a layer, token by token; the probabilities of each token's choice beside it."""
    tokens_ND = tokens_ND + attended(layer.attention, tokens_ND[None], tokens_ND[None], None)[0]
    after, chances = [], []
    for token_D in tokens_ND:
        chance_E = layer.router(layer.norm(token_D)).exp()
        chance_E = chance_E / chance_E.sum()
        best = sorted(range(len(chance_E)), key=lambda expert: -float(chance_E[expert].detach()))[: layer.top_k]
        added = [chance_E[expert] * (mixed(layer.experts[expert], token_D) - token_D) for expert in best]  # type: ignore[arg-type]
        after.append(token_D + sum(added))
        chances.append(chance_E)
    return torch.stack(after), chances


def start(fusion: MoEFusion, row: Row) -> Tensor:
    own = [tokens_ND + fusion.modality_MD[MODALITIES.index(name)] for name, tokens_ND in row.items()]
    return torch.cat([fusion.slots_LD, *own, fusion.null_D[None]])


@pytest.mark.parametrize(("layers", "experts", "top_k"), [(2, 2, 1), (2, 3, 2), (1, 3, 3)])
def test_it_equals_tokens_routed_one_by_one(layers: int, experts: int, top_k: int) -> None:
    torch.manual_seed(0)  # so that each expert is chosen by a token
    fusion = MoEFusion(MODALITIES, width=WIDTH, slots=3, layers=layers, experts=experts, top_k=top_k)

    def reference(row: Row) -> Tensor:
        tokens_ND = start(fusion, row)
        for layer in fusion.layers:
            assert isinstance(layer, SparseLayer)
            tokens_ND, _ = through(layer, tokens_ND)
        fused_LD: Tensor = fusion.norm(tokens_ND[:3])
        return fused_LD

    assert_equals(fusion, reference)


def test_its_terms_are_those_of_the_paper() -> None:
    fusion = MoEFusion(
        MODALITIES, width=WIDTH, slots=3, layers=1, experts=4, min_experts=4, entropy=0.5, router_z=0.25, dropout=0
    )
    shaken(fusion).train()
    tokens = drawn(*MODALITIES)
    fusion(tokens)
    chances: dict[str, list[Tensor]] = {name: [] for name in MODALITIES}
    layer = fusion.layers[0]
    assert isinstance(layer, SparseLayer)
    for number in range(5):
        row = {name: one.tokens_BND[number][one.mask_BN[number]] for name, one in tokens.items()}
        found = iter(through(layer, start(fusion, row))[1][3:])
        for name, tokens_ND in row.items():
            chances[name] += [next(found) for _ in tokens_ND]

    def entropy(chance_E: Tensor) -> Tensor:
        return -sum((p * p.log() for p in chance_E), torch.zeros(()))

    local = [sum(map(entropy, own)) / len(own) for own in chances.values()]
    spread = [(math.log(4) - entropy(sum(own) / len(own))).clamp(min=0) for own in chances.values()]  # type: ignore[arg-type]
    assert_close(fusion.terms["local"], 0.5 * sum(local) / 3)
    assert_close(fusion.terms["global"], 0.5 * sum(spread) / 3)
    assert fusion.terms["router_z"] > 0
    torch.stack(list(fusion.terms.values())).sum().backward()
    router_ED = layer.router.weight.grad
    assert router_ED is not None
    assert router_ED.any()


def test_the_terms_spread_modalities_and_make_each_choice_sure() -> None:
    torch.manual_seed(0)
    fusion = MoEFusion(MODALITIES, width=WIDTH, slots=1, layers=1, experts=4, entropy=1, dropout=0)
    layer = fusion.layers[0]
    assert isinstance(layer, SparseLayer)
    with torch.no_grad():
        layer.router.weight.mul_(0.01)
    tokens = drawn(*MODALITIES)
    optimizer = torch.optim.Adam(fusion.parameters(), 0.01)
    fusion(tokens)
    before = {name: float(term.detach()) for name, term in fusion.terms.items()}
    for _ in range(100):
        optimizer.zero_grad()
        fusion(tokens)
        (fusion.terms["local"] + fusion.terms["global"]).backward()
        optimizer.step()
    assert before["local"] > math.log(4) - 0.01
    assert float(fusion.terms["local"].detach()) < 0.2
    assert float(fusion.terms["global"].detach()) < 0.05


def test_rows_without_anything_have_no_terms_but_zero() -> None:
    fusion = MoEFusion(MODALITIES, width=WIDTH)
    nothing = {
        name: ExpertTokens(one.tokens_BND, torch.zeros_like(one.mask_BN)) for name, one in drawn(*MODALITIES).items()
    }
    assert fusion(nothing).isfinite().all()
    assert all(float(term) == 0 for term in fusion.terms.values())
    fusion.eval()(nothing)
    assert fusion.terms == {}


def test_an_expert_that_no_token_chose_still_has_a_gradient() -> None:
    """On several devices the others would wait for it."""
    fusion = MoEFusion(MODALITIES, width=WIDTH, layers=1, experts=2)
    layer = fusion.layers[0]
    assert isinstance(layer, SparseLayer)
    layer.router = torch.nn.Linear(WIDTH, 2)
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.bias.copy_(torch.tensor([1.0, 0.0]))
    fusion.eval()(drawn(*MODALITIES)).square().sum().backward()
    chosen, idle = ([parameter.grad for parameter in expert.parameters()] for expert in layer.experts)
    assert all(grad is not None and grad.any() for grad in chosen)
    assert all(grad is not None and not grad.any() for grad in idle)


@pytest.mark.parametrize("name", ["top_k", "min_experts"])
def test_more_experts_than_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} \(5\) must be at most experts \(4\)"):
        MoEFusion(MODALITIES, experts=4, **{name: 5})  # type: ignore[arg-type]
