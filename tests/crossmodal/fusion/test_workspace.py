"""Legend: N tokens of all modalities and a null token, L slots, D width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from crossmodal.fusion import WorkspaceFusion
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals, passed


@pytest.mark.parametrize("top_k", [0, 1, 3])
@pytest.mark.parametrize(("rounds", "share_weights"), [(2, True), (3, True), (2, False), (3, False)])
def test_it_equals_the_paper_s_steps_1_to_3(rounds: int, share_weights: bool, top_k: int) -> None:
    fusion = WorkspaceFusion(MODALITIES, width=WIDTH, slots=3, rounds=rounds, top_k=top_k, share_weights=share_weights)
    writes = [fusion.write] * rounds if share_weights else [fusion.write, *fusion.later_writes]
    broadcasts = [fusion.broadcast] * rounds if share_weights else [fusion.broadcast, *fusion.later_broadcasts]

    def reference(row: Row) -> Tensor:
        named = [tokens_ND + fusion.modality_MD[MODALITIES.index(name)] for name, tokens_ND in row.items()]
        specialists_ND = torch.cat([*named, fusion.null_D[None]])
        workspace_LD: Tensor = fusion.slots_LD
        for number in range(rounds):
            if number:
                specialists_ND = passed(broadcasts[number - 1], specialists_ND, workspace_LD)  # type: ignore[arg-type]
            workspace_LD = passed(writes[number], workspace_LD, specialists_ND)  # type: ignore[arg-type]
        return F.layer_norm(workspace_LD, (WIDTH,), fusion.norm.weight, fusion.norm.bias)

    assert_equals(fusion, reference)


def test_weights_that_are_not_shared_grow_with_the_rounds() -> None:
    def names(rounds: int, *, share_weights: bool) -> list[str]:
        fusion = WorkspaceFusion(MODALITIES, width=WIDTH, rounds=rounds, share_weights=share_weights)
        return list(fusion.state_dict())

    assert names(1, share_weights=True) == names(4, share_weights=True) == names(1, share_weights=False)
    counts = [len(names(rounds, share_weights=False)) for rounds in (2, 3, 4)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


@pytest.mark.parametrize("share_weights", [True, False])
def test_sharpness_makes_the_first_attention_uneven_and_changes_nothing_else(share_weights: bool) -> None:
    def made(**arguments: float) -> WorkspaceFusion:
        torch.manual_seed(0)
        return WorkspaceFusion(MODALITIES, width=WIDTH, rounds=3, share_weights=share_weights, **arguments)  # type: ignore[arg-type]

    plain, same, sharp = made(), made(sharpness=1.0), made(sharpness=3.0)
    assert all(torch.equal(left, right) for left, right in zip(plain.parameters(), same.parameters(), strict=True))
    for (name, before), after in zip(plain.named_parameters(), sharp.parameters(), strict=True):
        rows = len(before) if "query" in name else WIDTH if "key_value" in name else 0
        assert torch.equal(after[:rows], 3 * before[:rows])
        assert torch.equal(after[rows:], before[rows:])
    readers, sources = torch.randn(4, 2, WIDTH), torch.randn(4, 5, WIDTH)
    mask = torch.ones(4, 5, dtype=torch.bool)
    most = [one.write.attention.with_shares(readers, sources, mask)[2].amax(-1).mean() for one in (plain, sharp)]
    assert most[1] > 1.5 * most[0]


@pytest.mark.parametrize("share_weights", [True, False])
def test_gain_lets_rounds_hear_each_other_and_leaves_the_attention_as_it_is(share_weights: bool) -> None:
    def made(**arguments: float) -> WorkspaceFusion:
        torch.manual_seed(0)
        return WorkspaceFusion(MODALITIES, width=WIDTH, rounds=3, share_weights=share_weights, **arguments)  # type: ignore[arg-type]

    plain, same, loud = made(), made(gain=1.0), made(gain=2.0)
    assert all(torch.equal(left, right) for left, right in zip(plain.parameters(), same.parameters(), strict=True))
    for (name, before), after in zip(plain.named_parameters(), loud.parameters(), strict=True):
        kept = WIDTH if "key_value" in name else 0
        factor = 2 if name.endswith(("key_value.weight", "out.weight", "gate_value.weight")) else 1
        assert torch.equal(after[:kept], before[:kept])
        assert torch.equal(after[kept:], factor * before[kept:])


@pytest.mark.parametrize("goal", MODALITIES)
def test_the_goal_is_added_to_the_slots(goal: str) -> None:
    fusion = WorkspaceFusion(MODALITIES, width=WIDTH, slots=3, rounds=2, top_k=2, goal=goal)

    def reference(row: Row) -> Tensor:
        named = [tokens_ND + fusion.modality_MD[MODALITIES.index(name)] for name, tokens_ND in row.items()]
        specialists_ND = torch.cat([*named, fusion.null_D[None]])
        workspace_LD: Tensor = fusion.slots_LD + (row[goal].mean(0) if goal in row else 0)
        workspace_LD = passed(fusion.write, workspace_LD, specialists_ND)
        specialists_ND = passed(fusion.broadcast, specialists_ND, workspace_LD)
        workspace_LD = passed(fusion.write, workspace_LD, specialists_ND)
        return F.layer_norm(workspace_LD, (WIDTH,), fusion.norm.weight, fusion.norm.bias)

    assert_equals(fusion, reference)


def test_a_goal_that_is_no_modality() -> None:
    with pytest.raises(ValueError, match="goal: there is no modality 'wish'; there are"):
        WorkspaceFusion(MODALITIES, goal="wish")


@pytest.mark.parametrize("name", ["sharpness", "gain"])
def test_a_factor_of_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0, not 0"):
        WorkspaceFusion(MODALITIES, **{name: 0})  # type: ignore[arg-type]


def test_a_competition_of_fewer_than_none() -> None:
    with pytest.raises(ValueError, match="top_k must be at least 0, not -1"):
        WorkspaceFusion(MODALITIES, top_k=-1)
