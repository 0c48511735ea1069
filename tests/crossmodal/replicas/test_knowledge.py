from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossmodal.replicas.knowledge import Disentangler, adaptation, multi_kernel_mmd, reverse, vote


def test_adaptation_grows_from_nothing_as_the_paper_says() -> None:
    assert adaptation(0.0) == 0.0
    assert adaptation(0.5) == pytest.approx(2 / (1 + math.exp(-2.5)) - 1)
    assert adaptation(1.0) == pytest.approx(0.98661, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_reversed_gradient_is_negated_and_scaled_and_values_stay(alpha: float) -> None:
    values = torch.tensor([1.0, -2.0], requires_grad=True)
    reversed_ = reverse(values, alpha)
    assert torch.equal(reversed_, values)
    (reversed_ * torch.tensor([3.0, 5.0])).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, -alpha * torch.tensor([3.0, 5.0]))


def test_the_disentangler_learns_what_the_features_unlearn() -> None:
    torch.manual_seed(0)
    classifier = Disentangler(3, hidden=8)
    own, target = torch.randn(20, 3) + 1, torch.randn(20, 3)
    shift = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([*classifier.parameters()], lr=0.5)
    losses = []
    for _ in range(60):
        loss = classifier.loss(own + shift, target, 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(2 * math.log(2), abs=0.5)
    assert losses[-1] < 0.6 * losses[0]
    shift.grad = None
    loss = classifier.loss(own + shift, target, 1.0)
    loss.backward()
    assert shift.grad is not None
    with torch.no_grad():
        further = classifier.loss(own + shift - 0.1 * shift.grad, target, 1.0)
    assert further > loss  # a step of the features' optimizer makes it harder to tell


def direct_mmd(one: Tensor, other: Tensor) -> float:
    """By loops over pairs."""
    rows = [*one.double(), *other.double()]

    def distance(x: Tensor, y: Tensor) -> float:
        return float(sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True)))

    pairs = [distance(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j]
    middle = sum(pairs) / len(pairs)

    def kernel(x: Tensor, y: Tensor) -> float:
        return sum(math.exp(-distance(x, y) / (middle * 2.0**power)) for power in (-2, -1, 0, 1, 2))

    def mean(some: Tensor, others: Tensor) -> float:
        return sum(kernel(x, y) for x in some for y in others) / (len(some) * len(others))

    return mean(one, one) + mean(other, other) - 2 * mean(one, other)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 3), st.integers(0, 100))
def test_mmd_is_what_a_double_sum_gives(first: int, second: int, apart: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    one, other = torch.randn(first, 3, generator=draw), torch.randn(second, 3, generator=draw) + apart
    found = float(multi_kernel_mmd(one, other))
    assert found == pytest.approx(direct_mmd(one, other), abs=1e-5)
    assert found == pytest.approx(float(multi_kernel_mmd(other, one)), abs=1e-5)


def test_mmd_is_nothing_of_the_same_grows_with_distance_and_its_gradient_brings_near() -> None:
    one = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    assert float(multi_kernel_mmd(one, one)) == pytest.approx(0, abs=1e-6)
    assert float(multi_kernel_mmd(torch.ones(3, 2), torch.ones(5, 2))) == pytest.approx(0, abs=1e-6)
    distances = [float(multi_kernel_mmd(one, one + shift)) for shift in (0.2, 0.5, 1.0, 3.0)]
    assert distances == sorted(distances)
    shift = torch.full((4,), 1.0, requires_grad=True)
    multi_kernel_mmd(one + shift, one).backward()
    assert shift.grad is not None
    assert (shift.grad > 0).all()


def test_most_votes_win_and_then_who_is_surer() -> None:
    said = [[2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 9.0, 0.0]]
    labels, shares = vote([torch.tensor([logits]) for logits in said])
    assert labels.tolist() == [0]  # though the third is surer than both
    assert shares.tolist() == pytest.approx([2 / 3])
    for first, second, winner in ((1.0, 3.0, 2), (3.0, 1.0, 1)):
        outputs = [torch.tensor([[0.0, first, 0.0]]), torch.tensor([[0.0, 0.0, second]])]
        labels, shares = vote(outputs)
        assert (labels.tolist(), shares.tolist()) == ([winner], [0.5])
    # a class that nobody votes for does not win, however probable it is to all
    labels, _ = vote([torch.tensor([[1.0, 0.9, -9.0]]), torch.tensor([[-9.0, 0.9, 1.0]])])
    assert labels.tolist() != [1]
    with pytest.raises(ValueError, match="no replica that votes"):
        vote([])
