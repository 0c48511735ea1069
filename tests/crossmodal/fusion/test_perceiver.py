"""Legend: N tokens of all modalities and a null token, L latents, D width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import PerceiverFusion
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals, passed, shaken, some_tokens


def made(**options: Any) -> PerceiverFusion:
    return PerceiverFusion(MODALITIES, width=WIDTH, slots=3, **options)


@pytest.mark.parametrize("share_weights", [False, True])
@pytest.mark.parametrize(("rounds", "layers"), [(1, 1), (2, 2), (3, 1)])
def test_it_equals_the_paper_s_figure_1(rounds: int, layers: int, share_weights: bool) -> None:
    fusion = made(rounds=rounds, layers=layers, share_weights=share_weights)

    def reference(row: Row) -> Tensor:
        named = [tokens_ND + fusion.modality_MD[MODALITIES.index(name)] for name, tokens_ND in row.items()]
        array_ND = torch.cat([*named, fusion.null_D[None]])
        latents_LD: Tensor = fusion.latents_LD
        for number in range(rounds):
            first_or_rest = 0 if number == 0 else 1
            reading = fusion.readings[first_or_rest if share_weights else number]
            latents_LD = passed(reading, latents_LD, array_ND)  # type: ignore[arg-type]
            for layer in fusion.transformers[0 if share_weights else number]:  # type: ignore[attr-defined]
                latents_LD = passed(layer, latents_LD, latents_LD)
        return latents_LD

    assert_equals(fusion, reference)


def test_shared_weights_do_not_grow_with_the_rounds() -> None:
    sizes = [
        [sum(one.numel() for one in made(rounds=rounds, share_weights=shared).parameters()) for rounds in (2, 3, 4)]
        for shared in (True, False)
    ]
    assert sizes[0][0] == sizes[0][1] == sizes[0][2]
    assert sizes[1][2] - sizes[1][1] == sizes[1][1] - sizes[1][0] > 0


def test_a_row_without_any_modality_reads_the_null_token_alone() -> None:
    fusion, tokens = made(), some_tokens()
    before_BLD = shaken(fusion)(tokens)
    with torch.no_grad():
        fusion.modality_MD.add_(1)
    assert_close(fusion(tokens)[0], before_BLD[0], atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        fusion.null_D.add_(torch.randn(WIDTH))
    assert (fusion(tokens)[0] - before_BLD[0]).abs().max() > 1e-3
