from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from datamodules.faults import Fault
from datamodules.tables import Table
from datamodules.targets import Target, class_weights, outputs_of, targets_of


def table(**columns: Any) -> Table:
    return Table("rows.csv", pa.table(columns), np.arange(2, 2 + len(next(iter(columns.values())))))


def read(target: Target, **columns: Any) -> tuple[list[str], list[Any], dict[int, Fault]]:
    data = table(**columns)
    rows = np.arange(len(data))
    outputs = outputs_of(data, target, rows)
    found = targets_of(data, target, rows, outputs)
    return outputs, found.values.tolist(), found.faults


@pytest.mark.parametrize(
    ("cells", "outputs", "values"),
    [
        (["cat", "dog", "cat"], ["cat", "dog"], [0, 1, 0]),
        ([10, 2, 10], ["2", "10"], [1, 0, 1]),
        ([1.0, 0.0], ["0", "1"], [1, 0]),  # what a data frame makes of numbers beside an empty cell
        ([True, False], ["False", "True"], [1, 0]),
        (["10", "9", "b", "a"], ["9", "10", "a", "b"], [1, 0, 3, 2]),
        ([" cat", "cat ", "dog"], ["cat", "dog"], [0, 0, 1]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y"], [0, 1, 0]),
    ],
)
def test_classes_are_named_as_they_are_written(cells: Any, outputs: list[str], values: list[int]) -> None:
    assert read(Target("class", "kind"), kind=cells) == (outputs, values, {})


def test_given_classes_keep_their_order_and_others_are_faults() -> None:
    target = Target("class", "kind", classes=["dog", 1])
    outputs, values, faults = read(target, kind=["dog", "1", "cat", None, " ", "dog"])
    assert outputs == ["dog", "1"]
    assert [values[row] for row in (0, 1, 5)] == [0, 1, 0]
    assert {row: (fault.kind, fault.row, fault.value) for row, fault in faults.items()} == {
        2: ("unknown class", "rows.csv:4", "cat"),
        3: ("missing target", "rows.csv:5", ""),
        4: ("missing target", "rows.csv:6", ""),
    }


def test_classes_are_those_of_the_training_rows() -> None:
    data = table(kind=["a", "b", "c"])
    assert outputs_of(data, Target("class", "kind"), np.array([0, 2])) == ["a", "c"]
    with pytest.raises(ValueError, match=r"rows.csv, column 'kind': has the one class 'a'"):
        outputs_of(data, Target("class", "kind"), np.array([0]))
    with pytest.raises(ValueError, match=r"rows.csv, column 'kind': has no class"):
        outputs_of(table(kind=[None, ""]), Target("class", "kind"), np.arange(2))


@pytest.mark.parametrize(
    "cells",
    [
        ["red; big", "", "big;red;big", None],
        ['["red", "big"]', "[]", '["big", "red"]', None],
        [["red", "big"], [], ["big", "red"], None],
    ],
)
def test_labels(cells: Any) -> None:
    assert read(Target("labels", "tags"), tags=cells) == (["big", "red"], [[1, 1], [0, 0], [1, 1], [0, 0]], {})


def test_labels_in_columns_of_their_own() -> None:
    outputs, values, faults = read(
        Target("labels", columns=["big", "red"]), big=["1", "0", None, "true"], red=[1.0, 0.0, 1.0, 2.0]
    )
    assert outputs == ["big", "red"]
    assert values[:3] == [[1, 1], [0, 0], [0, 1]]
    assert str(faults[3]) == "rows.csv:5, column 'red': 2.0: expected 0 or 1"


def test_one_label_in_a_column_of_its_own() -> None:
    assert read(Target("labels", columns=["big"]), big=[1, 0, None]) == (["big"], [[1], [0], [0]], {})


def test_an_unknown_label_is_a_fault() -> None:
    _, _, faults = read(Target("labels", "tags", classes=["a", "b"]), tags=["a;c", "b"])
    assert str(faults[0]) == "rows.csv:2, column 'tags': c: is none of the classes a, b"
    assert list(faults) == [0]


@pytest.mark.parametrize("as_text", [False, True])
def test_numbers(as_text: bool) -> None:
    price = [1.5, -2.0, None, 3e3, 7.0]
    cells = [None if cell is None else str(cell) for cell in price] if as_text else price
    outputs, values, faults = read(Target("number", "price", minimum=-1, maximum=10), price=cells)
    assert outputs == ["price"]
    assert values[0] == [1.5]
    assert values[4] == [7.0]
    assert {row: (fault.kind, fault.cause) for row, fault in faults.items()} == {
        1: ("target out of range", "is below -1"),
        2: ("missing target", "has no number"),
        3: ("target out of range", "is above 10"),
    }


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("three", "wrong type"),
        ("NaN", "NaN or Inf"),
        ("1e99", "NaN or Inf"),
        ("-inf", "NaN or Inf"),
        ("1,5", "wrong type"),
    ],
)
def test_what_is_no_number(cell: str, kind: str) -> None:
    _, values, faults = read(Target("number", columns=["x", "y"]), x=["1", "2"], y=["3", cell])
    assert values[0] == [1, 3]
    assert (faults[1].kind, faults[1].column, faults[1].value) == (kind, "y", cell)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target("class"), "needs `column`"),
        (Target("class", "a", columns=["b"]), "needs `column`, or `columns`"),
        (Target("class", columns=["a"]), "one `column`"),
        (Target("number", "a", classes=["x"]), "not for numbers"),
        (Target("class", "a", minimum=0), "are for numbers"),
        (Target("class", "a", classes=[1, "1"]), "names one twice"),
        (Target("class", "a", classes=[True]), "put quotes round them"),
    ],
)
def test_targets_that_do_not_fit_together(target: Target, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        target.check()


def test_weights_of_classes() -> None:
    values = torch.tensor([0, 0, 0, 1])
    assert class_weights(Target("class", "a"), ["x", "y"], values) is None
    weights = class_weights(Target("class", "a", weights="balanced"), ["x", "y"], values)
    assert weights == pytest.approx([4 / 6, 2.0])
    assert class_weights(Target("class", "a", weights={"y": 3.0}), ["x", "y"], values) == [1.0, 3.0]
    labels = torch.tensor([[1, 0], [1, 0], [0, 0], [1, 1]])
    assert class_weights(Target("labels", "a", weights="balanced"), ["x", "y"], labels) == pytest.approx([1 / 3, 3.0])


@pytest.mark.parametrize(
    ("weights", "message"), [({"z": 1.0}, "'z' is no class; there are x, y"), ({"x": 0.0}, "above 0")]
)
def test_weights_that_are_wrong(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_weights(Target("class", "a", weights=weights), ["x", "y"], torch.tensor([0, 1]))
