"""What is measured of a mixture."""

from __future__ import annotations

import pytest
import torch

from crossmodal.mixture_figures import MixtureFigures
from tests.crossmodal.mixtures import a_batch, a_model


def test_means_over_the_rows_that_have_the_expert() -> None:
    model, batch = a_model().eval(), a_batch(lacking=True)
    figures = MixtureFigures()
    halves = [torch.arange(64) < 20, torch.arange(64) >= 20]
    with torch.no_grad():
        for rows in (batch.select(half) for half in halves):
            answers = model.answer(model.encode(rows), rows)[1]
            assert answers is not None
            figures.measure(answers, dict(model.heads.items()), rows.targets, {"answer": ""})  # type: ignore[arg-type]
        whole = model.answer(model.encode(batch), batch)[1]
    assert whole is not None
    found = figures.figures()
    right_BM = whole.members["answer"].argmax(-1) == batch.targets["answer"][:, None]
    for number, name in enumerate(("sees", "guesses")):
        has_B = whole.present_BE[:, number]
        assert found[f"alone/{name}"] == pytest.approx(float(right_BM[has_B, number].float().mean()))
        assert found[f"share/{name}"] == pytest.approx(float(whole.shares_BE[has_B, number].mean()))
        assert found[f"weight/{name}"] == pytest.approx(float(whole.weights_BM[:, number].mean()))
        assert found[f"load/{name}"] == pytest.approx(float((whole.weights_BM.argmax(1) == number).float().mean()))
    entropy_B = -(whole.weights_BM * whole.weights_BM.clamp_min(1e-30).log()).sum(1)
    assert found["weight_entropy"] == pytest.approx(float(entropy_B.mean()), abs=1e-6)
    assert found["alone/fusion"] == pytest.approx(float(right_BM[:, 2].float().mean()))
    assert found["disagreement"] == pytest.approx(float(whole.disagreement["answer"].mean()))
    assert figures.figures() == {}


def test_without_targets_nobody_is_right() -> None:
    model, batch = a_model().eval(), a_batch()
    answers = model.answer(model.encode(batch), batch)[1]
    assert answers is not None
    figures = MixtureFigures()
    figures.measure(answers, dict(model.heads.items()), {}, {"answer": "answer/"})  # type: ignore[arg-type]
    assert set(figures.figures()) == {
        *(f"{figure}/{name}" for figure in ("weight", "load") for name in ("sees", "guesses", "fusion")),
        "weight_entropy",
        *(f"share/{name}" for name in ("sees", "guesses")),
        "answer/disagreement",
    }
