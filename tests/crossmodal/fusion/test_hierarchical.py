"""Legend: B rows, N tokens, D width."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from crossmodal.fusion import HierarchicalFusion
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals, drawn, passed, shaken


@pytest.mark.parametrize("first", [MODALITIES, MODALITIES[:2], MODALITIES[:1]], ids=len)
def test_it_equals_a_row_by_row_reference(first: tuple[str, ...]) -> None:
    fusion = HierarchicalFusion(first, width=WIDTH)
    for name in MODALITIES[len(first) :]:
        fusion.join(name)

    def embedding(name: str) -> Tensor:
        return fusion.modality_MD[first.index(name)] if name in first else fusion.added_D[name]

    def level(name: str, summary_D: Tensor, row: Row) -> Tensor:
        """Attention to the tokens of the row, and the null token; then the feed-forward layer."""
        sources_ND = torch.cat([*(row[name] + embedding(name) for name in row), fusion.null_D[None]])
        return passed(getattr(fusion, name), summary_D[None], sources_ND)[0]

    def fused(row: Row) -> Tensor:
        singles = {name: level("single", tokens_ND.mean(0), {name: tokens_ND}) for name, tokens_ND in row.items()}
        total = [*fusion.bias_D]
        for one, other in itertools.combinations(row, 2):
            weights = fusion.pairs_4D[f"{one}+{other}"]
            pair_D = torch.stack(
                [
                    torch.tanh(weights[0, d] * singles[one][d] + weights[1, d] * singles[other][d] + weights[2, d])
                    for d in range(WIDTH)
                ]
            )
            pair_D = level("pair", pair_D, {one: row[one], other: row[other]})
            total = [channel + weights[3, d] * pair_D[d] for d, channel in enumerate(total)]
        return level("whole", torch.stack(total).tanh(), row)[None]

    assert_equals(fusion, fused)


@pytest.mark.parametrize("name", ["image", "speech"])
def test_one_modality_alone(name: str) -> None:
    fused_B1D = shaken(HierarchicalFusion((name,), width=WIDTH))(drawn(name))
    assert fused_B1D.shape == (5, 1, WIDTH)
    assert fused_B1D.isfinite().all()
    assert fused_B1D[1:].std(0).min() > 1e-3
