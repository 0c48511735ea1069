"""Legend: N tokens of all modalities and a null token, L slots, D width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossmodal.fusion import WorkspaceFusion
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals, passed


@pytest.mark.parametrize("top_k", [0, 1, 3])
@pytest.mark.parametrize("rounds", [2, 3])
def test_it_equals_the_paper_s_steps_1_to_3(rounds: int, top_k: int) -> None:
    fusion = WorkspaceFusion(MODALITIES, width=WIDTH, slots=3, rounds=rounds, top_k=top_k)

    def reference(row: Row) -> Tensor:
        named = [tokens_ND + fusion.modality_MD[MODALITIES.index(name)] for name, tokens_ND in row.items()]
        specialists_ND = torch.cat([*named, fusion.null_D[None]])
        workspace_LD: Tensor = fusion.slots_LD
        for number in range(rounds):
            if number:
                specialists_ND = passed(fusion.broadcast, specialists_ND, workspace_LD)
            workspace_LD = passed(fusion.write, workspace_LD, specialists_ND)
        return F.layer_norm(workspace_LD, (WIDTH,), fusion.norm.weight, fusion.norm.bias)

    assert_equals(fusion, reference)


def test_a_competition_of_fewer_than_none() -> None:
    with pytest.raises(ValueError, match="top_k must be at least 0, not -1"):
        WorkspaceFusion(MODALITIES, top_k=-1)
