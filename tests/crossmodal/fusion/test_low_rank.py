"""Legend: B rows, N tokens, R rank, D width of what comes in, E of what goes out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossmodal.fusion import LowRankFusion
from tests.crossmodal.fusion import checks
from tests.crossmodal.fusion.test_fusion import MODALITIES, WIDTH


def make(modalities: tuple[str, ...] = MODALITIES) -> LowRankFusion:
    return LowRankFusion(modalities, width=WIDTH, rank=3)


def test_it_is_a_linear_map_of_the_outer_product() -> None:
    fusion = make()

    def reference(row: checks.Row) -> Tensor:
        outer = torch.ones(())  # an axis for each modality that the row has
        maps = [torch.ones(WIDTH) for _ in range(3)]  # of each rank; the same axes, and one of what goes out
        for name, tokens_ND in row.items():
            outer = outer[..., None] * torch.cat([tokens_ND.mean(0), torch.ones(1)])
            factor = fusion.factors[name]
            own_RDE = torch.cat([factor.weight, factor.bias[:, None]], 1).view(3, WIDTH, WIDTH + 1).mT
            maps = [whole[..., None, :] * own_DE for whole, own_DE in zip(maps, own_RDE, strict=True)]
        return torch.stack([(outer * sum(maps)[..., channel]).sum() for channel in range(WIDTH)])

    checks.assert_equals_reference(fusion, reference)


def test_what_joins_begins_as_1() -> None:
    tokens = checks.some(checks.drawn(), *MODALITIES)
    fusion = checks.shaken(make(MODALITIES[:2]))
    before_B1D = fusion(tokens)
    fusion.join("speech")
    is_same = torch.equal(fusion(tokens), before_B1D)
    assert is_same


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


@pytest.mark.parametrize("name", ["width", "rank"])
def test_sizes_below_1(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        LowRankFusion(MODALITIES, **{name: 0})
