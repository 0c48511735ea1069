"""Legend: B rows, N tokens, L bottleneck tokens, D width."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import BottleneckFusion, Fusion
from crossmodal.fusion.layers import TransformerLayer
from experts.base import ExpertTokens
from tests.crossmodal.fusion.test_fusion import MODALITIES, WIDTH, reference, some_tokens


def shaken(fusion: Fusion) -> Fusion:
    """What begins as zero must not hide what depends on it."""
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return fusion.eval()


def built(**options: int) -> BottleneckFusion:
    torch.manual_seed(0)
    fusion = shaken(BottleneckFusion(MODALITIES, **{"width": WIDTH, "slots": 3, **options}))
    assert isinstance(fusion, BottleneckFusion)
    return fusion


def literal_layer(layer: TransformerLayer, readers_LD: Tensor, sources_ND: Tensor) -> Tensor:
    """One row through a layer that normalises before it reads and before it mixes."""
    after_LD = readers_LD + reference(layer.attention, readers_LD[None], sources_ND[None], None)[0]
    gate, value = layer.mix.gate_value(layer.mix.norm(after_LD)).split(2 * WIDTH, dim=-1)
    return after_LD + layer.mix.out(gate * torch.sigmoid(gate) * value)


def literal(fusion: BottleneckFusion, tokens: dict[str, ExpertTokens]) -> Tensor:
    """The paper's equations 8 and 9, one row and modality after the other, tokens that are real alone."""
    rows = []
    for row in range(len(next(iter(tokens.values())))):
        own = {name: value.tokens_BND[row][value.mask_BN[row]] for name, value in tokens.items()}
        own = {name: tokens_ND for name, tokens_ND in own.items() if len(tokens_ND)}
        bottleneck_LD: Tensor = fusion.bottleneck_LD
        for number in range(fusion.num_layers):
            said = []
            for name, tokens_ND in own.items():
                both_ND = torch.cat([tokens_ND, bottleneck_LD])
                after_ND = literal_layer(fusion.transformers[name][number], both_ND, both_ND)  # type: ignore[index]
                own[name] = after_ND[: len(tokens_ND)]
                said.append(after_ND[len(tokens_ND) :])
            bottleneck_LD = sum(said, torch.zeros(())) / len(said) if said else bottleneck_LD
        rows.append(bottleneck_LD)
    return torch.stack(rows)


def assert_same_with_gradients(fusion: Fusion, tokens: dict[str, ExpertTokens], actual: Tensor, right: Tensor) -> None:
    assert_close(actual, right, atol=1e-5, rtol=1e-5)
    wanted = [*(value.tokens_BND for value in tokens.values()), *fusion.parameters()]
    weights = torch.randn_like(actual)
    gradients = (torch.autograd.grad((fused * weights).sum(), wanted, retain_graph=True) for fused in (actual, right))
    for found, expected in zip(*gradients, strict=True):
        assert_close(found, expected, atol=1e-5, rtol=1e-5)


def with_gradients(tokens: dict[str, ExpertTokens]) -> dict[str, ExpertTokens]:
    for value in tokens.values():
        value.tokens_BND.requires_grad_()
    return tokens


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_equals_loops_over_rows_and_modalities(layers: int) -> None:
    fusion, tokens = built(layers=layers), with_gradients(some_tokens())
    assert_same_with_gradients(fusion, tokens, fusion(tokens), literal(fusion, tokens))


def test_a_row_without_any_modality_has_the_bottleneck_as_it_was_learned() -> None:
    fusion = built()
    assert torch.equal(fusion(some_tokens())[0], fusion.bottleneck_LD)


def test_compiled_it_is_the_same() -> None:
    fusion, tokens = built(), with_gradients(some_tokens())
    compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager")
    assert_same_with_gradients(fusion, tokens, compiled(tokens), fusion(tokens))


def assert_near_in_bfloat16(fusion: Fusion) -> None:
    tokens = some_tokens()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fused_BLD = fusion(tokens)
    exact_BLD = fusion(tokens)
    assert not torch.equal(fused_BLD, exact_BLD)
    assert (fused_BLD - exact_BLD).norm() < 0.02 * exact_BLD.norm()
    fused_BLD.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in fusion.parameters())


def test_in_bfloat16_it_is_nearly_the_same() -> None:
    assert_near_in_bfloat16(built())


def assert_joins(before: Fusion) -> None:
    """A modality joins: who lacks it notices nothing; as another one, it is read as that."""
    tokens = some_tokens()
    absent = {name: ExpertTokens(one.tokens_BND, torch.zeros_like(one.mask_BN)) for name, one in tokens.items()}
    fusion = copy.deepcopy(before)
    for name in ("labs", "touch"):
        known = fusion.state_dict().keys()
        fusion.join(name)
        assert fusion.joined[name] == fusion.state_dict().keys() - known != set()
    fusion.eval()
    own = [parameter for name, parameter in fusion.named_parameters() if name in fusion.joined["labs"]]

    def shake() -> None:
        with torch.no_grad():
            for parameter in own:
                parameter.add_(torch.randn_like(parameter))

    shake()
    before_BLD = before(tokens)
    assert torch.equal(fusion(tokens), before_BLD)

    fused_BLD = fusion({**tokens, "labs": tokens["image"]})
    lacks = ~tokens["image"].mask_BN.any(1)
    assert_close(fused_BLD[lacks], before_BLD[lacks], atol=1e-6, rtol=1e-5)
    assert (fused_BLD - before_BLD)[~lacks].abs().amax((1, 2)).min() > 1e-3

    for name, like in (("labs", "image"), ("touch", "labs")):
        fusion.imitate(name, like)
        as_other_BLD = before({**absent, "image": tokens["image"]})
        assert_close(fusion({**absent, name: tokens["image"]}), as_other_BLD, atol=1e-5, rtol=1e-5)
    shake()  # what was copied is not shared
    assert torch.equal(fusion(tokens), before_BLD)
    assert not torch.equal(fusion({**tokens, "labs": tokens["image"]}), fusion({**tokens, "touch": tokens["image"]}))


def test_a_modality_joins() -> None:
    assert_joins(built())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"width": 10, "num_heads": 4}, r"width \(10\) must be a multiple of num_heads \(4\)"),
        ({"slots": 0}, r"slots \(0\), layers \(2\) and num_heads \(4\) must be at least 1"),
        ({"layers": -1}, r"layers \(-1\)"),
        ({"num_heads": 0}, r"num_heads \(0\)"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
    ],
)
def test_arguments_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottleneckFusion(MODALITIES, **options)
