"""Legend: N tokens, D width."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from crossmodal.fusion import ConcatFusion
from tests.crossmodal.fusion.references import MODALITIES, WIDTH, Row, assert_equals


def test_it_equals_a_network_of_the_means_and_what_is_absent() -> None:
    fusion = ConcatFusion(MODALITIES, width=WIDTH, hidden=32)
    first, second = fusion.network[0], fusion.network[-1]

    def reference(row: Row) -> Tensor:
        means = [row[name].mean(0) if name in row else fusion.absent_MD[place] for place, name in enumerate(MODALITIES)]
        hidden_H = F.gelu(first.weight @ torch.cat(means) + first.bias)  # type: ignore[operator]
        return (second.weight @ hidden_H + second.bias)[None]  # type: ignore[operator]

    assert_equals(fusion, reference)
