from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from crossmodal.heads import ClassificationHead, Head, RegressionHead
from crossmodal.objectives import TaskObjective

HEADS: dict[str, Head] = {"colour": ClassificationHead(4, 3), "price": RegressionHead(4, 2)}
PREDICTIONS = {
    "colour": torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 0.5]]),
    "price": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
}
TARGETS = {"colour": torch.tensor([2, 0]), "price": torch.tensor([[0.0, 2.0], [3.0, 6.0]])}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [(None, (1, 1)), ({}, (1, 1)), ({"price": 0.5}, (1, 0.5)), ({"colour": 2.0, "price": 0.0}, (2, 0))],
)
def test_weights(weights: dict[str, float] | None, expected: tuple[float, float]) -> None:
    terms = TaskObjective(weights)(HEADS, PREDICTIONS, TARGETS)
    assert list(terms) == ["colour", "price"]
    colour = HEADS["colour"].loss(PREDICTIONS["colour"], TARGETS["colour"])
    assert_close(terms["colour"], expected[0] * colour)
    assert_close(terms["price"], torch.tensor(expected[1] * (1 + 4) / 4))


def test_a_task_without_targets_has_no_term() -> None:
    terms = TaskObjective()(HEADS, PREDICTIONS, {"price": TARGETS["price"]})
    assert list(terms) == ["price"]


def test_terms_carry_gradients() -> None:
    predictions = {task: value.clone().requires_grad_() for task, value in PREDICTIONS.items()}
    terms = TaskObjective({"colour": 0.0})(HEADS, predictions, TARGETS)
    torch.stack(list(terms.values())).sum().backward()
    assert_close(predictions["price"].grad, 2 * (PREDICTIONS["price"] - TARGETS["price"]) / 4)
    assert_close(predictions["colour"].grad, torch.zeros(2, 3))
