"""Legend: B rows, N tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.fusion import GatedFusion
from experts.base import ExpertTokens
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals, shaken


def test_it_equals_the_paper_channel_by_channel() -> None:
    fusion = GatedFusion(MODALITIES, width=WIDTH)

    def reference(row: Row) -> Tensor:
        if not row:
            return fusion.null_D[None]
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
        return torch.stack(channels)[None]

    assert_equals(fusion, reference)


def test_of_two_modalities_the_gates_are_the_paper_s_z_and_1_minus_z() -> None:
    fusion = GatedFusion(("image", "question"), width=WIDTH)
    shaken(fusion)
    one_BD, other_BD = torch.randn(2, 4, WIDTH)
    real_BN = torch.ones(4, 1, dtype=torch.bool)
    tokens = {
        "image": ExpertTokens(one_BD.unsqueeze(1), real_BN),
        "question": ExpertTokens(other_BD.unsqueeze(1), real_BN),
    }

    def score(name: str) -> Tensor:
        scored: Tensor = fusion.gates[f"image->{name}"](one_BD) + fusion.gates[f"question->{name}"](other_BD)
        return scored

    z_BD = torch.sigmoid(score("image") - score("question"))
    h_image_BD, h_question_BD = fusion.features["image"](one_BD).tanh(), fusion.features["question"](other_BD).tanh()
    assert_close(fusion(tokens).squeeze(1), z_BD * h_image_BD + (1 - z_BD) * h_question_BD, atol=1e-6, rtol=1e-6)
