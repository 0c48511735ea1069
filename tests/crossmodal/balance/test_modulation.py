"""OGM-GE against its paper, row by row. Legend: B rows, E modalities."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from crossmodal.balance import GradientModulation
from crossmodal.balance.modulation import factors, modulate, ratios
from tests.crossmodal.balance.uneven import (
    NAMES,
    a_batch,
    a_model,
    always_answers,
    known_alone,
    one_step,
    trained,
    unbalanced,
)


def scores(modalities: int, rows: int = 6) -> Tensor:
    return torch.rand(rows, modalities, generator=torch.Generator().manual_seed(modalities))


def test_two_modalities_are_the_papers() -> None:
    a_B, v_B = scores(2).unbind(1)
    ratio_v = float(v_B.sum() / a_B.sum())
    ratio_a = 1 / ratio_v
    k_v = 1 - math.tanh(0.3 * ratio_v) if ratio_v > 1 else 1.0
    k_a = 1 - math.tanh(0.3 * ratio_a) if ratio_a > 1 else 1.0
    assert k_v != k_a
    found_E = factors(ratios(scores(2), torch.ones(6, 2, dtype=torch.bool)), 0.3)
    assert found_E.tolist() == pytest.approx([k_a, k_v])


def test_of_three_each_is_compared_with_the_mean_of_the_others_that_a_row_has() -> None:
    present_BE = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 1]], dtype=torch.bool)
    expected = []
    for modality in range(3):
        own = others = 0.0
        for row, present in zip(scores(3).tolist(), present_BE.tolist(), strict=True):
            there = [score for number, score in enumerate(row) if present[number] and number != modality]
            if present[modality] and there:
                own += row[modality]
                others += sum(there) / len(there)
        expected.append(own / others)
    spoilt_BE = scores(3).masked_fill(~present_BE, torch.nan)  # what stands there counts for nothing
    assert ratios(spoilt_BE, present_BE).tolist() == pytest.approx(expected)


def test_what_no_row_has_beside_another_is_left_as_it_is() -> None:
    present_BE = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
    found_E = ratios(scores(3, rows=4), present_BE)
    assert found_E[2] == 1
    assert found_E[0] * found_E[1] == pytest.approx(1)
    assert ratios(scores(2, rows=1), torch.tensor([[True, False]])).tolist() == [1, 1]
    assert factors(torch.ones(3), 0.5).tolist() == [1, 1, 1]


def test_noise_has_the_deviation_that_the_gradient_had() -> None:
    parameters = [nn.Parameter(torch.zeros(100, 100)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(3))]
    torch.manual_seed(0)
    before = 5 + 2 * torch.randn(100, 100)
    parameters[0].grad, parameters[1].grad = before.clone(), torch.ones(1)
    modulate(parameters, torch.tensor(0.1), noise=True)
    assert parameters[0].grad is not None
    noise = parameters[0].grad - 0.1 * before
    assert float(noise.std()) == pytest.approx(2, rel=0.05)
    assert abs(float(noise.mean())) < 0.1
    assert parameters[1].grad == pytest.approx(0.1)
    assert parameters[2].grad is None


@pytest.mark.parametrize(("epoch", "is_on"), [(0, False), (1, True), (2, True), (3, False)])
def test_only_what_is_ahead_is_scaled_and_only_in_time(epoch: int, is_on: bool) -> None:
    batch = a_batch()
    batch.targets["answer"].zero_()
    found: list[list[Tensor]] = []
    for settings in ({"first_epoch": 99}, {"alpha": 0.2, "first_epoch": 1, "last_epoch": 2}):
        model, balancing = a_model(partial(GradientModulation, **settings))
        for name, logit in (("loud", 9.0), ("quiet", 0.0)):  # one is sure, and right; the other guesses
            always_answers(balancing, name, [logit, 0, 0, 0])
        _, scaled = one_step(model, balancing, batch, epoch)
        found.append([dict(model.named_parameters())[f"projections.{name}.linear.weight"].grad for name in NAMES])
    share = 1 - math.tanh(0.2 * 4 * float(torch.tensor([9.0, 0, 0, 0]).softmax(0)[0])) if is_on else 1.0
    torch.testing.assert_close(found[1][0], share * found[0][0])
    assert torch.equal(found[1][1], found[0][1])
    assert scaled == pytest.approx({"loud": share, "quiet": 1})


def test_its_networks_teach_the_modalities_nothing() -> None:
    model, balancing = a_model(partial(GradientModulation, first_epoch=9))
    one_step(model, balancing, a_batch(lacking=True))
    found = [one.grad for one in model.parameters() if one.grad is not None]
    plain, none = a_model()
    terms, factors = one_step(plain, none, a_batch(lacking=True))
    assert terms.keys() == {"answer"}
    assert factors == {}
    expected = [one.grad for one in plain.parameters() if one.grad is not None]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert all(one.grad is not None for one in balancing.parameters())


def test_the_loud_one_is_held_back_and_the_quiet_one_learns() -> None:
    plain, balanced = unbalanced(), trained(partial(GradientModulation, alpha=2.0))
    assert known_alone(balanced, "quiet") > known_alone(plain, "quiet") + 0.08
    assert known_alone(balanced, "loud") > 0.95


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"alpha": 0.0}, "alpha must be above 0, not 0.0"),
        ({"first_epoch": -1}, r"first_epoch \(-1\) must be at least 0"),
        ({"first_epoch": 5, "last_epoch": 4}, r"last_epoch \(4\) not earlier"),
    ],
)
def test_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GradientModulation(["a", "b"], **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="GradientModulation balances modalities, but there is only a"):
        GradientModulation(["a"])
