"""What is measured of each kind of rows. Legend: B rows, C outputs."""

from __future__ import annotations

import pytest
import torch

from crossmodal.heads import ClassificationHead, Head, RegressionHead
from crossmodal.kind_figures import KindFigures
from datamodules.batch import PairedBatch

HEADS: dict[str, Head] = {"answer": ClassificationHead(4, 3), "age": RegressionHead(4, 1)}


def a_batch(answers: list[int], ages: list[float], hard: list[bool], easy: list[bool]) -> PairedBatch:
    targets = {"answer": torch.tensor(answers), "age": torch.tensor(ages).unsqueeze(1)}
    kinds = {"hard": torch.tensor(hard), "easy": torch.tensor(easy)}
    return PairedBatch({}, {}, targets, [str(row) for row in range(len(answers))], kinds=kinds)


def test_each_kind_has_its_figures_over_all_batches() -> None:
    figures = KindFigures()
    first = a_batch([0, 1, 2], [1, 2, 3], [True, True, False], [False, False, True])
    second = a_batch([0, 1], [1, 2], [True, False], [True, False])  # a row may be of both, or of none
    said = torch.tensor([0, 2, 2, 1, 1])
    for batch, rows in ((first, slice(0, 3)), (second, slice(3, 5))):
        outputs = {"answer": torch.nn.functional.one_hot(said[rows], 3).float(), "age": batch.targets["age"] + 1}
        figures.measure(HEADS, outputs, batch, {"answer": "", "age": "age/"})
    found = figures.figures()
    assert found["accuracy/hard"] == pytest.approx(1 / 3)
    assert found["accuracy/easy"] == pytest.approx(1 / 2)
    assert found["age/mae/hard"] == pytest.approx(1)
    assert {name.rpartition("/")[0] for name in found} == {"accuracy", "f1", "age/mae", "age/rmse", "age/r2"}
    assert figures.figures() == {}


def test_a_kind_that_no_row_is_of_has_none() -> None:
    figures = KindFigures()
    batch = a_batch([0], [1], [True], [False])
    figures.measure(HEADS, {"answer": torch.eye(3)[:1]}, batch, {"answer": "", "age": ""})
    assert set(figures.figures()) == {"accuracy/hard", "f1/hard"}
