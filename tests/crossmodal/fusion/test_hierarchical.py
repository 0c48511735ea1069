"""Legend: B rows, N tokens, D width."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from crossmodal.fusion import HierarchicalFusion
from tests.crossmodal.fusion import checks
from tests.crossmodal.fusion.test_fusion import MODALITIES, WIDTH, reference


def make(modalities: tuple[str, ...] = MODALITIES) -> HierarchicalFusion:
    return HierarchicalFusion(modalities, width=WIDTH)


@pytest.mark.parametrize("first", [MODALITIES, MODALITIES[:2], MODALITIES[:1]], ids=len)
def test_it_equals_a_row_by_row_reference(first: tuple[str, ...]) -> None:
    fusion = make(first)
    for name in MODALITIES[len(first) :]:
        fusion.join(name)

    def embedding(name: str) -> Tensor:
        return fusion.modality_MD[first.index(name)] if name in first else fusion.added_D[name]

    def level(name: str, summary_D: Tensor, row: checks.Row) -> Tensor:
        """Attention to the tokens of the row, and the null token; then the feed-forward layer."""
        context = getattr(fusion, name)
        sources_ND = torch.cat([*(row[name] + embedding(name) for name in row), fusion.null_D[None]])
        summed_11D = summary_D + reference(context.read, summary_D[None, None], sources_ND[None], None)
        normed_11D = context.mix.norm(summed_11D)
        gate_11E, value_11E = context.mix.gate_value(normed_11D).split(2 * WIDTH, dim=-1)
        mixed_11D = summed_11D + context.mix.out(gate_11E * torch.sigmoid(gate_11E) * value_11E)
        return mixed_11D[0, 0]

    def fused(row: checks.Row) -> Tensor:
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
        return level("whole", torch.stack(total).tanh(), row)

    checks.assert_equals_reference(fusion, fused)


@pytest.mark.parametrize("name", ["image", "speech"])
def test_one_modality_alone(name: str) -> None:
    tokens = checks.some(checks.drawn(), name)
    fused_B1D = checks.shaken(make((name,)))(tokens)
    assert fused_B1D.shape == (5, 1, WIDTH)
    assert fused_B1D.isfinite().all()
    assert fused_B1D[1:].std(0).min() > 1e-3


def test_it_compiles() -> None:
    checks.assert_compiles(make)


def test_it_runs_in_bfloat16() -> None:
    checks.assert_autocasts(make)


def test_modalities_join_without_a_trace() -> None:
    checks.assert_joins_without_a_trace(make)


def test_one_that_joined_can_go() -> None:
    checks.assert_one_that_joined_can_go(make)


@pytest.mark.parametrize("like", MODALITIES)
def test_it_imitates(like: str) -> None:
    checks.assert_imitates(make, like)


@pytest.mark.parametrize("num_heads", [0, 3])
def test_heads_that_do_not_divide_the_width(num_heads: int) -> None:
    with pytest.raises(ValueError, match=rf"width \(16\) must be a multiple of num_heads \({num_heads}\)"):
        HierarchicalFusion(MODALITIES, width=16, num_heads=num_heads)
