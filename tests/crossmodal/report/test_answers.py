from __future__ import annotations

from typing import Any, cast

import pytest
import torch

from crossmodal.heads import MultiLabelHead
from crossmodal.report.answers import _confusion, judged
from crossmodal.report.evaluation import Evaluation, TaskEvaluation


def confusion(targets: torch.Tensor, predicted: torch.Tensor, *, classes: int) -> Any:
    activated = torch.zeros(len(targets), classes).scatter(1, predicted[:, None], 1.0)
    names = [f"class {number}" for number in range(classes)]
    nothing: Any = None
    one = TaskEvaluation(cast(Any, None), names, activated, targets, nothing, nothing, [])
    return _confusion(Evaluation("test", [], {"task": one}, None, [], []), "task", one)


def test_it_counts_rows_by_target_and_answer() -> None:
    plot = confusion(torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0]), classes=3)
    assert [row[1:] for row in plot.rows] == [["1", "1", "0"], ["0", "1", "0"], ["1", "0", "2"]]
    shades = {(one["row"], one["column"]): one["shade"] for one in plot.spec["data"]["values"]}
    assert shades["class 0", "class 1"] == 0.5  # a share of the target's rows, whatever of them is shown


def test_of_labels_it_says_how_many_are_found_and_how_many_are_right() -> None:
    activated = torch.tensor([[0.9, 0.2, 0.6], [0.8, 0.1, 0.4], [0.1, 0.3, 0.2], [0.7, 0.2, 0.1]])
    targets = torch.tensor([[1.0, 0, 0], [1, 0, 1], [1, 0, 0], [0, 0, 1]])
    nothing: Any = None
    head = MultiLabelHead(4, 3)
    one = TaskEvaluation(head, ["a", "b", "c"], activated, targets, nothing, nothing, [])
    section = judged(Evaluation("test", [], {"tags": one}, None, [], []))
    shares, curve = section.plots
    assert {row[0]: row[1:] for row in shares.rows} == {"a": ["0.6667", "0.6667"], "b": ["", ""], "c": ["0", "0"]}
    assert curve.title == "Calibration"
    assert sum(float(row[1]) for row in curve.rows) / len(curve.rows) == pytest.approx(7 / 12, abs=0.1)
