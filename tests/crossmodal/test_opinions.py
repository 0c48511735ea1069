"""What can be said of several answers to one question."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from crossmodal.heads import ClassificationHead, Head, MultiLabelHead, RegressionHead
from crossmodal.opinions import Labels, Probabilities, Quantities

HEADS = [ClassificationHead(4, 3), MultiLabelHead(4, 3), RegressionHead(4, 3)]
OUTPUTS = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.25, 4.0]])


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_raw_is_what_is_activated(head: Head) -> None:
    answers_BC = head.activate(OUTPUTS)
    torch.testing.assert_close(head.activate(head.opinions().raw(answers_BC)), answers_BC)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: type(head).__name__)
def test_answers_that_are_sure_and_wrong_have_a_finite_loss(head: Head) -> None:
    opinions = head.opinions()
    targets = {Probabilities: torch.tensor([1]), Labels: torch.ones(1, 3), Quantities: torch.ones(1, 3)}[type(opinions)]
    answers_BC = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    opinions.losses(answers_BC, targets).sum().backward()
    assert answers_BC.grad is not None
    assert answers_BC.grad.isfinite().all()


def test_probabilities() -> None:
    answers_BC = OUTPUTS.softmax(-1)
    targets_B = torch.tensor([1, 2])
    opinions = Probabilities()
    torch.testing.assert_close(
        opinions.losses(answers_BC, targets_B), F.cross_entropy(OUTPUTS, targets_B, reduction="none")
    )
    assert opinions.right(answers_BC, targets_B).tolist() == [0, 1]
    confidence, entropy = opinions.certainty(torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3]]))
    torch.testing.assert_close(confidence, torch.tensor([1, 1 / 3]))
    torch.testing.assert_close(entropy, torch.tensor([0.0, 1.0]))
    assert opinions.distance(torch.tensor([1.0, 0]), torch.tensor([0.0, 1])) == 1


def test_labels() -> None:
    answers_BC = OUTPUTS.sigmoid()
    targets_BC = torch.tensor([[1.0, 0, 0], [1, 0, 1]])
    opinions = Labels()
    expected_B = F.binary_cross_entropy_with_logits(OUTPUTS, targets_BC, reduction="none").mean(-1)
    torch.testing.assert_close(opinions.losses(answers_BC, targets_BC), expected_B)
    torch.testing.assert_close(opinions.right(answers_BC, targets_BC), torch.tensor([2 / 3, 1 / 3]))
    confidence, entropy = opinions.certainty(torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
    assert (confidence.tolist(), entropy.tolist()) == ([1, 0.5], [0, 1])


def test_quantities() -> None:
    opinions = Quantities(torch.tensor([2.0]))
    answers_BC, targets_BC = torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [0.0]])
    assert opinions.losses(answers_BC, targets_BC).tolist() == [1, 0]
    assert opinions.right(answers_BC, targets_BC).tolist() == [0, 1]
    assert opinions.distance(answers_BC, targets_BC).tolist() == pytest.approx([math.tanh(1), 0])
