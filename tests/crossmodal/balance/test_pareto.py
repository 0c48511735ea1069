"""MMPareto against its paper, and by trying."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from crossmodal.balance import MMPareto, UnimodalLosses
from crossmodal.balance.pareto import combine
from tests.crossmodal.balance.uneven import (
    NAMES,
    a_batch,
    a_model,
    known_alone,
    one_step,
    terms_of,
    trained,
    unbalanced,
)


def literal(multimodal: Tensor, unimodal: Tensor, gamma: float) -> tuple[Tensor, float]:
    """The paper's algorithm 1; the least norm by trying all weights."""
    multimodal, unimodal, weight = multimodal.double(), unimodal.double(), 0.5
    if multimodal @ unimodal < 0:
        weights = torch.linspace(0, 1, 100_001, dtype=torch.float64).unsqueeze(1)
        weight = float(weights[(weights * multimodal + (1 - weights) * unimodal).norm(dim=1).argmin()])
    gradient = 2 * weight * multimodal + 2 * (1 - weight) * unimodal
    stretch = (multimodal + unimodal).norm() / gradient.norm()
    return gamma * (gradient * stretch if stretch > 1 else gradient), 2 * weight


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_papers(seed: int) -> None:
    multimodal, unimodal = torch.randn(2, 7, generator=torch.Generator().manual_seed(seed))
    if seed % 2:
        unimodal = 3 * (unimodal - 1.5 * multimodal)
        assert multimodal @ unimodal < 0
    (first, second), weight = combine(multimodal.split([3, 4]), unimodal.split([3, 4]), 1.5)
    expected, expected_weight = literal(multimodal, unimodal, 1.5)
    torch.testing.assert_close(torch.cat([first, second]).double(), expected, atol=1e-3, rtol=1e-3)
    assert float(weight) == pytest.approx(expected_weight, abs=1e-4)
    for gradient in (multimodal, unimodal):
        assert torch.cat([first, second]) @ gradient > 0 or multimodal @ unimodal >= 0


@pytest.mark.parametrize("unimodal", [[-2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
def test_where_nothing_descends_both_there_is_no_step_and_never_a_nan(unimodal: list[float]) -> None:
    (gradient,), _ = combine([torch.tensor([1.0, 0.0])], [torch.tensor(unimodal)], 1.0)
    assert gradient.tolist() == ([1, 0] if not any(unimodal) else [0, 0])
    (gradient,), _ = combine([torch.zeros(2)], [torch.zeros(2)], 1.0)
    assert gradient.tolist() == [0, 0]


@pytest.mark.parametrize("lacking", [False, True])
def test_the_gradients_of_a_model_are_combined(lacking: bool) -> None:
    batch = a_batch(lacking=lacking)
    parts: list[dict[str, list[Tensor]]] = []
    for which in ("answer", "own/"):  # each kind of loss by a backward pass of its own
        model, balancing = a_model(UnimodalLosses)
        terms = terms_of(model, balancing, batch)
        torch.stack([term for name, term in terms.items() if name.startswith(which)]).sum().backward()
        parts.append({name: gradients_of(model.projections[name]) for name in NAMES})
    model, balancing = a_model(MMPareto)
    _, weights = one_step(model, balancing, batch)
    for name in NAMES:
        flat = [torch.cat([one.flatten() for one in part[name]]) for part in parts]
        expected, weight = literal(*flat, 1.5)
        found = torch.cat([one.flatten() for one in gradients_of(model.projections[name])])
        torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=1e-3)
        assert weights[name] == pytest.approx(weight, abs=1e-3)


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [one.grad for one in module.parameters() if one.grad is not None]


def test_a_modality_that_no_row_has_is_left_out() -> None:
    model, balancing = a_model(MMPareto)
    terms, weights = one_step(model, balancing, a_batch().without("quiet"))
    assert terms.keys() == {"answer", "own/loud"}
    assert weights.keys() == {"loud"}
    assert not gradients_of(model.projections["quiet"])


def test_the_quiet_one_learns() -> None:
    assert known_alone(trained(MMPareto), "quiet") > known_alone(unbalanced(), "quiet") + 0.1


def test_refused() -> None:
    with pytest.raises(ValueError, match="gamma must be above 0, not -1"):
        MMPareto(["a", "b"], gamma=-1)
    method = MMPareto(["a", "b"])
    method.refuse(accumulates=False, precision="bf16-mixed", devices=1)
    with pytest.raises(ValueError, match=r"trainer.precision 16-mixed scales: use bf16-mixed or 32-true"):
        method.refuse(accumulates=False, precision="16-mixed", devices=1)
