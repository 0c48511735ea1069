from __future__ import annotations

from typing import Any, cast

import torch

from crossmodal.report.answers import MOST_CLASSES, _confusion
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


def test_of_very_many_classes_the_most_mistaken_are_shown() -> None:
    """All against all would be 10 billion counts."""
    classes = 100_000
    targets = torch.arange(0, classes, 500)
    predicted = targets.clone()
    predicted[:5] = targets[5:10]
    plot = confusion(targets, predicted, classes=classes)
    assert len(plot.rows) == MOST_CLASSES
    shown = {row[0] for row in plot.rows}
    assert {f"class {number}" for number in targets[:10].tolist()} <= shown
    counts = {(one["row"], one["column"]): one["value"] for one in plot.spec["data"]["values"]}
    assert counts["class 0", "class 2500"] == 1
    assert counts["class 0", "class 0"] == 0
    assert counts["class 5000", "class 5000"] == 1
    assert sum(counts.values()) == MOST_CLASSES  # of each class one row, all of whose answers are shown, too
