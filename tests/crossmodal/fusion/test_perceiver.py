"""Legend: N tokens of all modalities and a null token, L latents, D width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import PerceiverFusion
from experts.base import ExpertTokens
from tests.crossmodal.fusion.test_bottleneck import (
    assert_joins,
    assert_near_in_bfloat16,
    assert_same_with_gradients,
    literal_layer,
    shaken,
    with_gradients,
)
from tests.crossmodal.fusion.test_fusion import MODALITIES, WIDTH, some_tokens


def built(**options: int) -> PerceiverFusion:
    torch.manual_seed(0)
    fusion = shaken(PerceiverFusion(MODALITIES, **{"width": WIDTH, "slots": 3, **options}))  # type: ignore[arg-type]
    assert isinstance(fusion, PerceiverFusion)
    return fusion


def literal(fusion: PerceiverFusion, tokens: dict[str, ExpertTokens], *, shared: bool) -> Tensor:
    """The paper's figure 1, one row after the other, tokens that are real alone."""
    rows = []
    for row in range(len(next(iter(tokens.values())))):
        bytes_ND = [
            value.tokens_BND[row][value.mask_BN[row]] + fusion.modality_MD[MODALITIES.index(name)]
            for name, value in tokens.items()
        ]
        array_ND = torch.cat([*bytes_ND, fusion.null_D[None]])
        latents_LD: Tensor = fusion.latents_LD
        for number in range(fusion.rounds):
            first_or_rest = 0 if number == 0 else 1
            reading = fusion.readings[first_or_rest if shared else number]
            latents_LD = literal_layer(reading, latents_LD, array_ND)  # type: ignore[arg-type]
            for layer in fusion.transformers[0 if shared else number]:  # type: ignore[attr-defined]
                latents_LD = literal_layer(layer, latents_LD, latents_LD)
        rows.append(latents_LD)
    return torch.stack(rows)


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize(("rounds", "layers"), [(1, 1), (2, 2), (3, 1)])
def test_it_equals_loops_over_rows(rounds: int, layers: int, share_weights: bool) -> None:
    fusion = built(rounds=rounds, layers=layers, share_weights=share_weights)
    tokens = with_gradients(some_tokens())
    assert_same_with_gradients(fusion, tokens, fusion(tokens), literal(fusion, tokens, shared=share_weights))


def test_shared_weights_do_not_grow_with_the_rounds() -> None:
    sizes = [
        [sum(one.numel() for one in built(rounds=rounds, share_weights=shared).parameters()) for rounds in (2, 3, 4)]
        for shared in (True, False)
    ]
    assert sizes[0][0] == sizes[0][1] == sizes[0][2]
    assert sizes[1][2] - sizes[1][1] == sizes[1][1] - sizes[1][0] > 0


def test_a_row_without_any_modality_reads_the_null_token_alone() -> None:
    fusion, tokens = built(), some_tokens()
    before_BLD = fusion(tokens)
    with torch.no_grad():
        fusion.modality_MD.add_(1)
    assert_close(fusion(tokens)[0], before_BLD[0], atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        fusion.null_D.add_(torch.randn(WIDTH))
    assert (fusion(tokens)[0] - before_BLD[0]).abs().max() > 1e-3


def test_compiled_it_is_the_same() -> None:
    fusion, tokens = built(rounds=3), with_gradients(some_tokens())
    compiled = torch.compile(fusion, fullgraph=True, backend="aot_eager")
    assert_same_with_gradients(fusion, tokens, compiled(tokens), fusion(tokens))


def test_in_bfloat16_it_is_nearly_the_same() -> None:
    assert_near_in_bfloat16(built())


def test_a_modality_joins() -> None:
    assert_joins(built())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"width": 10, "num_heads": 4}, r"width \(10\) must be a multiple of num_heads \(4\)"),
        ({"slots": 0}, r"slots \(0\), rounds \(2\), layers \(1\) and num_heads \(4\) must be at least 1"),
        ({"rounds": 0}, r"rounds \(0\)"),
        ({"layers": -1}, r"layers \(-1\)"),
        ({"num_heads": 0}, r"num_heads \(0\)"),
        ({"dropout": 1.5}, "dropout probability has to be between 0 and 1, but got 1.5"),
    ],
)
def test_arguments_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PerceiverFusion(MODALITIES, **options)
