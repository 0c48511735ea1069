"""Legend: B rows, L workspace tokens, D width, C outputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from crossmodal.heads import ClassificationHead, Head, MultiLabelHead, RegressionHead

HEADS = [ClassificationHead, MultiLabelHead, RegressionHead]
OUTPUTS_BC = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.0, 0.25], [0.1, 0.2, 0.3], [-1.0, -2.0, -3.0]])
NAMES = ["a", "b", "c"]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in row)
    return [math.exp(value) / total for value in row]


@pytest.mark.parametrize("kind", HEADS)
def test_reads_the_mean_token(kind: type[Head]) -> None:
    torch.manual_seed(0)
    head = kind(8, 3)
    workspace_BLD = torch.randn(4, 5, 8)
    mean_BD = workspace_BLD.mean(1)
    centred_BD = mean_BD - mean_BD.mean(1, keepdim=True)
    normed_BD = centred_BD / (centred_BD.square().mean(1, keepdim=True) + 1e-5).sqrt()
    assert_close(head(workspace_BLD), normed_BD @ head.linear.weight.T + head.linear.bias, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_needs_an_output(kind: type[Head]) -> None:
    with pytest.raises(ValueError, match="at least one output"):
        kind(8, 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_classification_loss(smoothing: float) -> None:
    targets = [0, 2, 1, 1]
    expected = 0.0
    for row, target in zip(OUTPUTS_BC.tolist(), targets, strict=True):
        for number, probability in enumerate(softmax(row)):
            expected -= ((1 - smoothing) * (number == target) + smoothing / 3) * math.log(probability) / 4
    head = ClassificationHead(8, 3, label_smoothing=smoothing)
    assert_close(head.loss(OUTPUTS_BC, torch.tensor(targets)), torch.tensor(expected))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool])
def test_multilabel_loss(dtype: torch.dtype) -> None:
    targets_BC = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    terms = [
        -math.log(sigmoid(value) if target else 1 - sigmoid(value))
        for value, target in zip(OUTPUTS_BC.flatten().tolist(), targets_BC.flatten().tolist(), strict=True)
    ]
    loss = MultiLabelHead(8, 3).loss(OUTPUTS_BC, targets_BC.to(dtype))
    assert_close(loss, torch.tensor(sum(terms) / len(terms)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_regression_loss(dtype: torch.dtype) -> None:
    targets_BC = torch.tensor([[1, 0, 1], [0, -2, 0], [1, 1, 1], [0, 1, 0]])
    pairs = zip(OUTPUTS_BC.flatten().tolist(), targets_BC.flatten().tolist(), strict=True)
    loss = RegressionHead(8, 3).loss(OUTPUTS_BC, targets_BC.to(dtype))
    assert_close(loss, torch.tensor(sum((value - target) ** 2 for value, target in pairs) / 12))


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (ClassificationHead(8, 3), [softmax(row) for row in OUTPUTS_BC.tolist()]),
        (MultiLabelHead(8, 3), [[sigmoid(value) for value in row] for row in OUTPUTS_BC.tolist()]),
        (RegressionHead(8, 3), OUTPUTS_BC.tolist()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_activate(head: Head, expected: list[list[float]]) -> None:
    assert_close(head.activate(OUTPUTS_BC), torch.tensor(expected))


@pytest.mark.parametrize(
    ("head", "outputs_BC", "names", "expected"),
    [
        (ClassificationHead(8, 3), OUTPUTS_BC, NAMES, ["a", "c", "c", "a"]),
        (MultiLabelHead(8, 3), OUTPUTS_BC, NAMES, [["a", "c"], ["c"], ["a", "b", "c"], []]),
        (RegressionHead(8, 3), OUTPUTS_BC[:1], NAMES, [[2.0, -1.0, 0.5]]),
        (RegressionHead(8, 1), OUTPUTS_BC[:, :1], ["a"], [2.0, -3.0, pytest.approx(0.1), -1.0]),
        (RegressionHead(8, 1), OUTPUTS_BC[:1, :1], ["a"], [2.0]),
        (ClassificationHead(8, 3), OUTPUTS_BC[:0], NAMES, []),
    ],
)
def test_decide(head: Head, outputs_BC: Tensor, names: list[str], expected: list[object]) -> None:
    assert head.decide(outputs_BC, names) == expected


@pytest.mark.parametrize(
    ("head", "targets", "expected"),
    [
        (ClassificationHead(8, 3), torch.tensor([0, 2, 3, -1]), [True, True, False, False]),
        (MultiLabelHead(8, 2), torch.tensor([[0, 1], [1, 1], [2, 0], [0, -1]]), [True, True, False, False]),
        (MultiLabelHead(8, 2), torch.tensor([[False, True], [True, True]]), [True, True]),
        (RegressionHead(8, 2), torch.tensor([[-3.5, 1e9], [math.nan, 0], [0, math.inf]]), [True, False, False]),
        (RegressionHead(8, 1), torch.tensor([[5], [-7]]), [True, True]),
    ],
)
def test_valid(head: Head, targets: Tensor, expected: list[bool]) -> None:
    assert head.valid(targets).tolist() == expected


@pytest.mark.parametrize(
    ("head", "targets", "described"),
    [
        (ClassificationHead(8, 3), torch.zeros(4), r"int64 of shape \(rows,\), not float32 of shape \(4,\)"),
        (ClassificationHead(8, 3), torch.zeros(4, 3, dtype=torch.int64), r"\(rows,\), not int64 of shape \(4, 3\)"),
        (MultiLabelHead(8, 3), torch.zeros(4), r"shape \(rows, 3\), not float32 of shape \(4,\)"),
        (MultiLabelHead(8, 3), torch.zeros(4, 3), r"whole numbers or bool, not float32 of shape \(4, 3\)"),
        (RegressionHead(8, 1), torch.zeros(4), r"shape \(rows, 1\), not float32 of shape \(4,\)"),
    ],
)
def test_targets_of_another_shape_are_refused(head: Head, targets: Tensor, described: str) -> None:
    with pytest.raises(ValueError, match=described):
        head.valid(targets)


@pytest.mark.parametrize(
    ("head", "targets", "expected"),
    [
        (ClassificationHead(4, 3), torch.tensor([0, 0, 2]), [[3 / 6, 1 / 6, 2 / 6]]),
        (MultiLabelHead(4, 2), torch.tensor([[1, 0], [1, 0], [0, 0]]), [[3 / 5, 1 / 5]]),
        (RegressionHead(4, 2), torch.tensor([[1.0, -2.0], [3.0, -4.0]]), [[2.0, -3.0]]),
    ],
)
def test_the_prior_is_what_is_known_of_a_row_that_has_nothing(
    head: Head, targets: Tensor, expected: list[list[float]]
) -> None:
    head.learn_prior(targets)
    assert head.activate(head.prior_C.unsqueeze(0)).tolist()[0] == pytest.approx(expected[0])
    workspace_BLD = torch.randn(3, 2, 4)
    outputs_BC = head(workspace_BLD, torch.tensor([False, True, False]))
    assert torch.equal(outputs_BC[1], head.prior_C)
    assert torch.equal(outputs_BC[[0, 2]], head(workspace_BLD)[[0, 2]])
    assert "prior_C" in head.state_dict()


def test_weights_of_classes_in_the_loss() -> None:
    head, targets = ClassificationHead(4, 3), torch.tensor([0, 2, 1, 1])
    weights = torch.tensor([1.0, 2.0, 5.0])
    head.weigh(weights)
    rows = [-math.log(softmax(row)[int(target)]) for row, target in zip(OUTPUTS_BC.tolist(), targets, strict=True)]
    expected = sum(float(weights[target]) * row for target, row in zip(targets, rows, strict=True))
    assert_close(head.loss(OUTPUTS_BC, targets).item(), expected / float(weights[targets].sum()))
    # predicting needs none
    ClassificationHead(4, 3).load_state_dict(head.state_dict())


def test_weights_of_labels_in_the_loss() -> None:
    head, targets = MultiLabelHead(4, 3), torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    head.weigh(torch.tensor([1.0, 2.0, 5.0]))
    terms = [
        -weight * math.log(sigmoid(output)) if target else -math.log(1 - sigmoid(output))
        for row, wanted in zip(OUTPUTS_BC.tolist(), targets.tolist(), strict=True)
        for output, target, weight in zip(row, wanted, (1.0, 2.0, 5.0), strict=True)
    ]
    assert_close(head.loss(OUTPUTS_BC, targets).item(), sum(terms) / len(terms), atol=1e-5, rtol=1e-5)


def test_quantities_are_learned_in_units_of_their_deviation() -> None:
    head, plain = RegressionHead(4, 2), RegressionHead(4, 2)
    head.load_state_dict(plain.state_dict())
    head.learn_prior(torch.tensor([[100.0, 7.0], [300.0, 7.0]]))
    workspace_BLD = torch.randn(3, 2, 4)
    units_BC = plain(workspace_BLD)
    values_BC = head(workspace_BLD)
    assert_close(values_BC, units_BC * torch.tensor([100.0, 1.0]) + torch.tensor([200.0, 7.0]))
    targets = torch.tensor([[200.0, 7.0], [250.0, 8.0], [100.0, 6.0]])
    in_units = (targets - torch.tensor([200.0, 7.0])) / torch.tensor([100.0, 1.0])
    assert_close(head.loss(values_BC, targets), plain.loss(units_BC, in_units))


def test_quantities_have_no_weights() -> None:
    with pytest.raises(ValueError, match="RegressionHead takes no weights"):
        RegressionHead(4, 1).weigh(torch.ones(1))
