from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from crossmodal.replicas.server import Moments, adaptive_step, outer_step, proximal_term


@pytest.mark.parametrize("rule", ["adagrad", "adam", "yogi"])
def test_two_rounds_are_those_of_algorithm_2(rule: str) -> None:
    lr, (beta1, beta2), tau = 0.1, (0.9, 0.99), 1e-3
    x, m, v = 1.0, 0.0, tau**2
    state, moments = {"w": torch.tensor([1.0], dtype=torch.float64)}, Moments()
    for merged in (0.6, 0.9):
        delta = merged - x
        m = beta1 * m + (1 - beta1) * delta
        v = {
            "adagrad": v + delta**2,
            "adam": beta2 * v + (1 - beta2) * delta**2,
            "yogi": v - (1 - beta2) * delta**2 * math.copysign(1, v - delta**2),
        }[rule]
        x += lr * m / (math.sqrt(v) + tau)
        new = {"w": torch.tensor([merged], dtype=torch.float64)}
        state, moments = adaptive_step(state, new, moments, rule=rule)  # type: ignore[arg-type]
        assert state["w"].item() == pytest.approx(x, rel=1e-12)
    assert moments.second["w"].item() == pytest.approx(v, rel=1e-12)


def test_where_nothing_changes_nothing_is_done() -> None:
    state = {"w": torch.randn(3), "batches": torch.tensor(4)}
    found, moments = adaptive_step(state, state, Moments(), rule="adam")
    assert torch.equal(found["w"], state["w"])
    found, momentum = outer_step(state, {**state, "batches": torch.tensor(9)}, {})
    assert torch.equal(found["w"], state["w"])
    assert found["batches"].item() == 9  # a counter is no number to be optimized
    assert momentum.keys() == moments.first.keys() == {"w"}


def test_what_is_new_or_absent_this_round_is_kept() -> None:
    """A round may be without those nodes that have a modality."""
    state = {"image": torch.ones(2), "speech": torch.ones(2)}
    for found in (
        adaptive_step(state, {"image": torch.zeros(2)}, Moments(), rule="yogi")[0],
        outer_step(state, {"image": torch.zeros(2)}, {})[0],
    ):
        assert torch.equal(found["speech"], torch.ones(2))
        assert (found["image"] < 1).all()
    found, _ = outer_step(state, {"labs": torch.full((1,), 5.0)}, {})
    assert found["labs"].item() == 5


def test_the_outer_step_is_torchs_sgd_with_nesterovs_momentum() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.7, momentum=0.9, nesterov=True)
    state, momentum = {"w": weight.detach().clone()}, {}
    for _ in range(4):
        merged = {"w": state["w"] + 0.1 * torch.randn(4, dtype=torch.float64)}
        weight.grad = state["w"] - merged["w"]
        optimizer.step()
        state, momentum = outer_step(state, merged, momentum)
        torch.testing.assert_close(state["w"], weight.detach())


def test_the_proximal_terms_gradient_leads_back() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 1.0]))
    term = proximal_term({"w": weight, "own": nn.Parameter(torch.ones(1))}, {"w": torch.tensor([1.0, 1.0])}, mu=0.5)
    assert term.item() == 0.5 * 0.5 * 4
    term.backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [0.5 * 2, 0.0]
    with pytest.raises(ValueError, match="no entry in common"):
        proximal_term({"a": weight}, {"b": weight}, mu=1.0)
