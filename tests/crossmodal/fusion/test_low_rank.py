"""Legend: B rows, N tokens, R rank, D width of what comes in, E of what goes out."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmodal.fusion import LowRankFusion
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals, drawn, shaken

RANK = 3


def test_it_is_a_linear_map_of_the_outer_product() -> None:
    fusion = LowRankFusion(MODALITIES, width=WIDTH, rank=RANK)

    def reference(row: Row) -> Tensor:
        outer = torch.ones(())  # an axis for each modality that the row has
        maps = [torch.ones(WIDTH) for _ in range(RANK)]  # of each rank; the same axes, and one of what goes out
        for name, tokens_ND in row.items():
            outer = outer[..., None] * torch.cat([tokens_ND.mean(0), torch.ones(1)])
            factor = fusion.factors[name]
            own_RDE = torch.cat([factor.weight, factor.bias[:, None]], 1).view(RANK, WIDTH, WIDTH + 1).mT
            maps = [whole[..., None, :] * own_DE for whole, own_DE in zip(maps, own_RDE, strict=True)]
        return torch.stack([(outer * sum(maps)[..., channel]).sum() for channel in range(WIDTH)])[None]

    assert_equals(fusion, reference)


def test_what_joins_begins_as_1() -> None:
    tokens = drawn(*MODALITIES)
    fusion = LowRankFusion(MODALITIES[:2], width=WIDTH, rank=RANK)
    before_B1D = shaken(fusion)(tokens)
    fusion.join("speech")
    is_same = torch.equal(fusion(tokens), before_B1D)
    assert is_same
