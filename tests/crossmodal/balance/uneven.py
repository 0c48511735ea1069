"""Two modalities that tell the same class: one at a glance, the other only along a few of many directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from crossmodal.balance.balancing import Balancing
from crossmodal.balance.base import Balance
from crossmodal.building import build_balancing, build_model
from crossmodal.fusion import ConcatFusion
from crossmodal.heads import ClassificationHead
from crossmodal.model import CrossModalModel
from crossmodal.objectives import TaskObjective
from datamodules.batch import PairedBatch
from experts.base import Expert
from tests.crossmodal.mixtures import GivenTokens, of_one

CLASSES, WIDTH, DIRECTIONS = 4, 3, 32
NAMES = ("loud", "quiet")
OUTPUTS = {"answer": [str(number) for number in range(CLASSES)]}
HEADS = {"answer": ClassificationHead}
Method = Callable[[list[str]], Balance]
CENTRES_CD = torch.randn(CLASSES, DIRECTIONS, generator=torch.Generator().manual_seed(3))


class Wide(GivenTokens):
    """Its inputs are tokens of many directions."""

    def __init__(self) -> None:
        super().__init__()
        self.width = DIRECTIONS


def a_model(*methods: Method, expert: Callable[[], Expert] = Wide, **parts: Any) -> tuple[CrossModalModel, Balancing]:
    torch.manual_seed(0)
    fusion = partial(ConcatFusion, width=WIDTH, hidden=16, dropout=0.0)
    model = build_model({name: expert() for name in NAMES}, OUTPUTS, fusion=fusion, heads=HEADS, **parts)
    return model, build_balancing(model, OUTPUTS, HEADS, list(methods))


def always_answers(balancing: Balancing, name: str, logits: Sequence[float]) -> None:
    """Let what a modality says alone be the same of all rows."""
    answer = dict(balancing.networks[name].named_parameters())
    answer["heads.answer.linear.weight"].data.zero_()
    answer["heads.answer.linear.bias"].data = torch.tensor(logits)


def a_batch(count: int = 64, *, seed: int = 0, lacking: bool = False) -> PairedBatch:
    """Rows of four classes; if `lacking`, some rows have one modality, some have none."""
    draw = torch.Generator().manual_seed(seed)
    target_B = torch.randint(CLASSES, (count,), generator=draw)
    noise_2BD = torch.randn(2, count, DIRECTIONS, generator=draw)
    loud_BD = 3 * CENTRES_CD[target_B] + 0.1 * noise_2BD[0]
    quiet_BD = 0.6 * CENTRES_CD[target_B].roll(7, dims=1) + noise_2BD[1]
    rows = torch.arange(count)
    index = {name: rows.clone() for name in NAMES}
    if lacking:
        index["loud"] = torch.where(rows % 3 == 0, -1, rows)
        index["quiet"] = torch.where(rows % 2 == 0, -1, rows)
    inputs = {"loud": of_one(loud_BD), "quiet": of_one(quiet_BD)}
    return PairedBatch(inputs, index, {"answer": target_B}, [str(row) for row in range(count)])


def terms_of(model: CrossModalModel, balancing: Balancing, batch: PairedBatch) -> dict[str, Tensor]:
    objective, tokens = TaskObjective(), model.encode(batch)
    terms = objective(model.heads, model.predict(tokens, batch), batch.targets)  # type: ignore[arg-type]
    return balancing.learn(model, objective, tokens, batch, terms)


def one_step(
    model: CrossModalModel, balancing: Balancing, batch: PairedBatch, epoch: int = 0
) -> tuple[dict[str, float], dict[str, float]]:
    """Leave gradients; return the terms of the loss and the factors."""
    model.zero_grad()
    balancing.zero_grad()
    terms = terms_of(model, balancing, batch)
    torch.stack(list(terms.values())).sum().backward()
    return (
        {name: term.item() for name, term in terms.items()},
        {name: factor.item() for name, factor in balancing.after_backward(epoch).items()},
    )


def trained(*methods: Method, steps: int = 150, lr: float = 0.3) -> CrossModalModel:
    model, balancing = a_model(*methods)
    optimizer = torch.optim.SGD([*model.parameters(), *balancing.parameters()], lr=lr)
    for step in range(steps):
        one_step(model, balancing, a_batch(seed=step))
        optimizer.step()
    return model.eval()


@cache
def unbalanced() -> CrossModalModel:
    return trained()


@torch.no_grad()
def known_alone(model: CrossModalModel, modality: str) -> float:
    """Return how often a linear probe of what the workspace is told of a modality is right, on rows that are new."""

    def told(seed: int) -> tuple[Tensor, Tensor]:
        batch = a_batch(2000, seed=seed)
        mean_BD = model.tokens_of_rows(model.encode(batch)[modality], batch.index[modality], modality).mean()
        return torch.cat([mean_BD, torch.ones(len(batch), 1)], dim=1), batch.targets["answer"]

    features_BD, target_B = told(10_001)
    weights_DC = torch.linalg.lstsq(features_BD, torch.nn.functional.one_hot(target_B).float()).solution
    features_BD, target_B = told(10_002)
    return float(((features_BD @ weights_DC).argmax(1) == target_B).float().mean())
