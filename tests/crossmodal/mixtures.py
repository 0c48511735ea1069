"""A small mixture of two experts, one of which tells the class and one of which does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from crossmodal.building import build_model
from crossmodal.fusion import ConcatFusion, Fusion
from crossmodal.heads import ClassificationHead
from crossmodal.holding_out import HELD_OUT
from crossmodal.meta_learner import MetaLearner
from crossmodal.model import CrossModalModel
from crossmodal.selector import Selector
from datamodules.batch import PairedBatch
from experts.base import Expert, ExpertTokens

NAMES = ("sees", "guesses")
CLASSES = 4
WIDTH = 8
CENTRES_CD = 2 * torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(5))


class AsItIs:
    """Leaves inputs as they are."""

    for_evaluation = property(lambda self: self)

    def describe(self) -> dict[str, object]:
        return {}


class GivenTokens(Expert):
    """Its inputs are tokens."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), width=WIDTH, transform=AsItIs(), freeze=True, precision="float32")

    def encode(self, inputs: ExpertTokens) -> ExpertTokens:
        return inputs


def a_model(
    fusion: type[Fusion] = ConcatFusion,
    *,
    selector: Callable[[list[str], int], Selector] | None = None,
    **of_meta_learner: float,
) -> CrossModalModel:
    torch.manual_seed(0)
    return build_model(
        {name: GivenTokens() for name in NAMES},
        {"answer": [str(number) for number in range(CLASSES)]},
        fusion=partial(fusion, width=WIDTH),
        heads={"answer": ClassificationHead},
        meta_learner=partial(MetaLearner, **of_meta_learner),
        selector=selector,
    )


def a_batch(count: int = 64, *, seed: int = 0, lacking: bool = False, held_out: float = 0.3) -> PairedBatch:
    """Rows of four classes; if `lacking`, every other row has no guess, and every third is not seen."""
    draw = torch.Generator().manual_seed(seed)
    target_B = torch.randint(CLASSES, (count,), generator=draw)
    noise_B2D = torch.randn(count, 2, WIDTH, generator=draw)
    seen_BD, guessed_BD = CENTRES_CD[target_B] + noise_B2D[:, 0], noise_B2D[:, 1]
    index = {name: torch.arange(count) for name in NAMES}
    if lacking:
        index["guesses"] = torch.where(torch.arange(count) % 2 == 0, -1, index["guesses"])
        index["sees"] = torch.where(torch.arange(count) % 3 == 0, -1, index["sees"])
    ids = [f"{seed}/{number}" for number in range(count)]
    positions: dict[str, Tensor] = {name: 1000 * seed + torch.arange(count) for name in NAMES}
    inputs = {name: of_one(tokens) for name, tokens in zip(NAMES, (seen_BD, guessed_BD), strict=True)}
    kinds = {HELD_OUT: torch.rand(count, generator=draw) < held_out}
    return PairedBatch(inputs, index, {"answer": target_B}, ids, positions, kinds)


def of_one(tokens_BD: Tensor) -> ExpertTokens:
    return ExpertTokens(tokens_BD.unsqueeze(1), torch.ones(len(tokens_BD), 1, dtype=torch.bool))
