"""Legend: B rows, C outputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from crossmodal.metrics import classification, multilabel, regression


def measured(metrics: MetricCollection, outputs_BC: Tensor, targets: Tensor, *, batch_size: int) -> dict[str, float]:
    for rows in torch.arange(len(outputs_BC)).split(batch_size):
        metrics.update(outputs_BC[rows], targets[rows])
    return {name: float(value) for name, value in metrics.compute().items()}


def f1(predicted: list[bool], actual: list[bool]) -> float:
    hits = sum(p and a for p, a in zip(predicted, actual, strict=True))
    return 2 * hits / (sum(predicted) + sum(actual)) if sum(predicted) + sum(actual) else 0.0


def average_precision(scores: list[float], actual: list[bool]) -> float:
    ranked = [hit for _, hit in sorted(zip(scores, actual, strict=True), key=lambda pair: -pair[0])]
    precisions = [sum(ranked[: place + 1]) / (place + 1) for place, hit in enumerate(ranked) if hit]
    return sum(precisions) / len(precisions)


@pytest.mark.parametrize("batch_size", [5, 23])
def test_classification(batch_size: int) -> None:
    torch.manual_seed(0)
    outputs_BC, targets_B = 3 * torch.randn(23, 4), torch.randint(0, 4, (23,))
    predicted_B = outputs_BC.argmax(1)
    expected = {
        "accuracy": float((predicted_B == targets_B).float().mean()),
        "f1": sum(f1((predicted_B == c).tolist(), (targets_B == c).tolist()) for c in range(4)) / 4,
    }
    assert measured(classification(4), outputs_BC.softmax(-1), targets_B, batch_size=batch_size) == pytest.approx(
        expected
    )


@pytest.mark.parametrize("batch_size", [1, 5, 23])
@pytest.mark.parametrize("scale", [0.3, 4.0], ids=["small logits", "large logits"])
def test_multilabel(batch_size: int, scale: float) -> None:
    torch.manual_seed(0)
    outputs_BC, targets_BC = scale * (torch.rand(23, 3) + 0.1), torch.randint(0, 2, (23, 3))
    outputs_BC[::2] -= 0.6 * scale
    on_BC = outputs_BC > 0  # as MultiLabelHead.decide says
    expected = {
        "accuracy": float((on_BC == targets_BC.bool()).float().mean()),
        "f1": sum(f1(on_BC[:, c].tolist(), targets_BC[:, c].bool().tolist()) for c in range(3)) / 3,
        "map": sum(average_precision(outputs_BC[:, c].tolist(), targets_BC[:, c].bool().tolist()) for c in range(3))
        / 3,
    }
    assert measured(multilabel(3), outputs_BC.sigmoid(), targets_BC, batch_size=batch_size) == pytest.approx(expected)


def test_regression_of_a_single_row() -> None:
    found = measured(regression(), torch.tensor([[2.0]]), torch.tensor([[1.5]]), batch_size=1)
    assert (found["mae"], found["rmse"]) == (0.5, 0.5)
    assert math.isnan(found["r2"])


@pytest.mark.parametrize("batch_size", [1, 5, 23])
@pytest.mark.parametrize("num_outputs", [1, 3])
def test_regression(batch_size: int, num_outputs: int) -> None:
    torch.manual_seed(0)
    targets_BC = torch.randn(23, num_outputs)
    outputs_BC = targets_BC + 0.5 * torch.randn(23, num_outputs)
    error_BC = outputs_BC - targets_BC
    spread_C = (targets_BC - targets_BC.mean(0)).square().sum(0)
    expected = {
        "mae": float(error_BC.abs().mean()),
        "rmse": math.sqrt(float(error_BC.square().mean())),
        "r2": float((1 - error_BC.square().sum(0) / spread_C).mean()),
    }
    assert measured(regression(), outputs_BC, targets_BC, batch_size=batch_size) == pytest.approx(expected, rel=1e-4)
