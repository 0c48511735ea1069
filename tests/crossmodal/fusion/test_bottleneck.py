"""Legend: N tokens, L bottleneck tokens, D width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossmodal.fusion import BottleneckFusion
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals, passed, shaken, some_tokens


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_equals_the_paper_s_equations_8_and_9(layers: int) -> None:
    fusion = BottleneckFusion(MODALITIES, width=WIDTH, slots=3, layers=layers)

    def reference(row: Row) -> Tensor:
        bottleneck_LD: Tensor = fusion.bottleneck_LD
        own = dict(row)
        for number in range(layers):
            said = []
            for name, tokens_ND in own.items():
                both_ND = torch.cat([tokens_ND, bottleneck_LD])
                after_ND = passed(fusion.transformers[name][number], both_ND, both_ND)  # type: ignore[index]
                own[name] = after_ND[: len(tokens_ND)]
                said.append(after_ND[len(tokens_ND) :])
            bottleneck_LD = sum(said, torch.zeros(())) / len(said) if said else bottleneck_LD
        return bottleneck_LD

    assert_equals(fusion, reference)


def test_a_row_without_any_modality_has_the_bottleneck_as_it_was_learned() -> None:
    fusion = BottleneckFusion(MODALITIES, width=WIDTH, slots=3)
    assert torch.equal(shaken(fusion)(some_tokens())[0], fusion.bottleneck_LD)
