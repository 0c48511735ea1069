from __future__ import annotations

import math

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import nn

from crossmodal.optimization import WarmupCosine, accumulates, parameter_groups
from tests.crossmodal.test_module import build


@pytest.mark.parametrize(
    ("total", "warmup", "rising"), [(100, 0.1, 10), (100, 0.0, 1), (10, 0.25, 2), (7, 1.0, 7), (1, 0.5, 1)]
)
def test_warmup_cosine(total: int, warmup: float, rising: int) -> None:
    factor = WarmupCosine(total, warmup=warmup)
    for step in range(total + 3):
        if step < rising:
            expected = (step + 1) / rising
        else:
            done = min(1.0, (step - rising) / max(1, total - rising))
            expected = (1 + math.cos(math.pi * done)) / 2
        assert factor(step) == pytest.approx(expected)
    assert factor(rising - 1) == 1
    assert factor(total) == pytest.approx(0 if total > rising else 1)


@pytest.mark.parametrize("freeze", [True, False])
def test_parameter_groups_hold_what_trains_once(freeze: bool) -> None:
    model = build(freeze=freeze).model
    matrices, others = parameter_groups(model)
    grouped = [*matrices["params"], *others["params"]]
    assert len({id(parameter) for parameter in grouped}) == len(grouped)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    trained = {names[id(parameter)] for parameter in grouped}
    frozen = tuple(f"experts.{modality}." for modality in (("image", "question") if freeze else ("question",)))
    assert trained == {name for name in names.values() if not name.startswith(frozen)}
    assert "weight_decay" not in matrices
    assert others["weight_decay"] == 0
    assert all(parameter.dim() > 1 for parameter in matrices["params"])
    assert all(parameter.dim() <= 1 for parameter in others["params"])


def test_an_empty_group_is_left_out() -> None:
    assert [len(group["params"]) for group in parameter_groups(nn.Linear(2, 2, bias=False))] == [1]
    assert parameter_groups(nn.Linear(2, 2).requires_grad_(False)) == []


def test_whether_several_batches_make_a_step() -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    later = GradientAccumulationScheduler({1: 2})
    assert not accumulates(Trainer(**quiet))  # type: ignore[arg-type]
    assert accumulates(Trainer(accumulate_grad_batches=2, **quiet))  # type: ignore[arg-type]
    assert accumulates(Trainer(callbacks=[later], **quiet))  # type: ignore[arg-type]
