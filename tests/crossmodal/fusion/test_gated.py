"""Legend: B rows, N tokens, D width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import GatedFusion
from tests.crossmodal.fusion import checks
from tests.crossmodal.fusion.test_fusion import MODALITIES, WIDTH


def make(modalities: tuple[str, ...] = MODALITIES) -> GatedFusion:
    return GatedFusion(modalities, width=WIDTH)


def test_it_equals_the_paper_channel_by_channel() -> None:
    fusion = make()

    def reference(row: checks.Row) -> Tensor:
        if not row:
            return fusion.null_D
        means = {name: tokens_ND.mean(0) for name, tokens_ND in row.items()}
        channels = []
        for channel in range(WIDTH):
            gates, said = {}, {}
            for name in row:
                feature = fusion.features[name]
                said[name] = torch.tanh(feature.weight[channel] @ means[name] + feature.bias[channel])
                score = fusion.gates[f"{name}->{name}"].bias[channel]
                for source in row:
                    score = score + fusion.gates[f"{source}->{name}"].weight[channel] @ means[source]
                gates[name] = score.exp()
            channels.append(sum(gates[name] / sum(gates.values()) * said[name] for name in row))
        return torch.stack(channels)

    checks.assert_equals_reference(fusion, reference)


def test_of_two_modalities_the_gates_are_the_paper_s_z_and_1_minus_z() -> None:
    fusion = checks.shaken(make(("image", "question")))
    one_BD, other_BD = torch.randn(2, 4, WIDTH)
    real_BN = torch.ones(4, 1, dtype=torch.bool)
    tokens = {
        "image": checks.ExpertTokens(one_BD.unsqueeze(1), real_BN),
        "question": checks.ExpertTokens(other_BD.unsqueeze(1), real_BN),
    }

    def score(name: str) -> Tensor:
        return fusion.gates[f"image->{name}"](one_BD) + fusion.gates[f"question->{name}"](other_BD)

    z_BD = torch.sigmoid(score("image") - score("question"))
    h_image_BD, h_question_BD = fusion.features["image"](one_BD).tanh(), fusion.features["question"](other_BD).tanh()
    assert_close(fusion(tokens).squeeze(1), z_BD * h_image_BD + (1 - z_BD) * h_question_BD, atol=1e-6, rtol=1e-6)


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


def test_a_width_below_1() -> None:
    with pytest.raises(ValueError, match="width must be at least 1, not 0"):
        GatedFusion(MODALITIES, width=0)
