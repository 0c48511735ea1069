"""Legend: U inputs, C numeric columns, N columns, D width."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experts.table import MISSING_CODE, NO_CODE, TableExpert, TableTransform, category_code
from tests.experts.test_features import check_checkpoint, check_learns, check_travels, collated, trained_accuracy

Row = dict[str, float | str | None]
ROWS: list[Row] = [
    {"age": 30.0, "weight": 70.0, "sex": "f"},
    {"age": 50.0, "weight": None, "sex": "m"},
    {"age": None, "weight": math.nan, "sex": None},
    {"age": 40.0, "weight": 90.0, "sex": "f"},
]


def build(**arguments: Any) -> TableExpert:
    torch.manual_seed(0)
    return TableExpert(**{"numeric": ["age", "weight"], "categorical": ["sex"], **arguments})


def fitted(**arguments: Any) -> TableExpert:
    expert = build(**arguments)
    expert.learn_statistics([collated(expert, ROWS[:2]), collated(expert, ROWS[2:])])
    return expert.eval()


def encode(expert: TableExpert, *rows: Row) -> Tensor:
    tokens_UND: Tensor = expert(collated(expert, rows)).tokens_BND
    return tokens_UND


def test_one_token_a_column() -> None:
    tokens = fitted(width=8)(collated(fitted(), ROWS))
    assert tokens.tokens_BND.shape == (4, 3, 8)
    assert tokens.mask_BN.all()
    assert tokens.tokens_BND.isfinite().all()


def test_numbers_are_standardised_without_the_missing_ones() -> None:
    standardize = fitted().standardize
    assert torch.allclose(standardize.mean_D, torch.tensor([40.0, 80.0]))
    assert torch.allclose(standardize.std_D, torch.tensor([(200 / 3) ** 0.5, 10.0]))


def test_each_column_has_tokens_of_its_own() -> None:
    expert = fitted(depth=0)
    first, other = encode(expert, ROWS[0], {**ROWS[0], "weight": 71.0})
    assert torch.equal(first[[0, 2]], other[[0, 2]])
    assert not torch.allclose(first[1], other[1])
    mixed_first, mixed_other = encode(fitted(depth=1), ROWS[0], {**ROWS[0], "weight": 71.0})
    assert not torch.allclose(mixed_first[0], mixed_other[0], atol=1e-6)


def test_missing_is_no_number_and_no_category() -> None:
    expert = fitted(depth=0)
    mean: Row = {"age": 40.0, "weight": 80.0, "sex": ""}  # what missing cells are often filled with
    missing_ND, mean_ND = encode(expert, ROWS[2], mean)
    assert all(not torch.allclose(*pair, atol=1e-3) for pair in zip(missing_ND, mean_ND, strict=True))
    assert torch.equal(missing_ND[:2], expert.network.numeric.missing_CD)
    assert not torch.allclose(missing_ND[0], missing_ND[1])


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    "columns", [{}, {"numeric": None}, {"categorical": None}, {"numeric": []}, {"numeric": ["age"]}], ids=str
)
def test_rows_of_missing_cells_teach_nothing_wrong(columns: dict[str, Any], depth: int) -> None:
    expert = build(**columns, depth=depth)
    inputs = collated(expert, [ROWS[2]] * 3)
    expert.learn_statistics([inputs])
    tokens_UND = expert(inputs).tokens_BND
    tokens_UND.square().sum().backward()
    assert tokens_UND.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in expert.parameters())


def test_unseen_categories_are_one() -> None:
    tokens_UND = encode(fitted(), *({**ROWS[0], "sex": sex} for sex in ("x", "y", "f", "m", None)))
    assert torch.equal(tokens_UND[0], tokens_UND[1])
    told_apart = tokens_UND[[0, 2, 3, 4]].flatten(1)
    assert torch.pdist(told_apart).min() > 0.1
    # as untrained as the unknown is, it says nothing but the column
    assert torch.equal(
        encode(fitted(depth=0), {**ROWS[0], "sex": "x"})[0, 2], fitted(depth=0).network.categorical.bias_KD[0]
    )


def test_the_most_frequent_categories_are_kept() -> None:
    categories = ["a"] * 3 + ["b"] * 2 + ["c", "d", "e"]
    expert = build(numeric=None, max_categories=3)
    inputs = collated(expert, [{"sex": category} for category in categories])
    backwards = collated(expert, [{"sex": category} for category in reversed(categories)])
    expert.learn_statistics([inputs])
    kept = expert.network.categorical.codes_KV.clone()
    lowest = min(map(category_code, "cde"))  # of those that are equally frequent
    assert sorted(kept[0].tolist()) == sorted([category_code("a"), category_code("b"), lowest])
    expert.learn_statistics([backwards])
    assert torch.equal(expert.network.categorical.codes_KV, kept)
    # those that have no place train the row of the unknown ones
    expert(inputs).tokens_BND.square().sum().backward()
    gradient = expert.network.categorical.embedding.weight.grad
    assert gradient is not None
    assert gradient[1].any()


def test_same_category_in_two_columns_is_two() -> None:
    expert = build(numeric=None, categorical=["one", "two"], depth=0)
    rows: list[Row] = [{"one": "a", "two": "a"}, {"one": "b", "two": None}]
    expert.learn_statistics([collated(expert, rows)])
    one, two = encode(expert, rows[0])[0]
    assert not torch.allclose(one, two)


def test_codes_are_the_same_everywhere() -> None:
    assert category_code("f") == 3356884383628365532
    assert all(MISSING_CODE < category_code(text) < NO_CODE for text in ("", " ", "f", "é", "\ud800", "x" * 10_000))
    assert category_code("f") != category_code("f ")


@pytest.mark.parametrize("value", [np.float32(2), np.float64(2), np.int64(2), 2, True])
def test_numbers_of_any_type_are_taken(value: Any) -> None:
    assert TableTransform(["x"], [])({"x": value})["numeric"] == float(value)


@pytest.mark.parametrize("value", [None, math.nan, np.float32("nan")])
def test_missing_cells_of_any_type_are_taken(value: Any) -> None:
    inputs = TableTransform(["x"], ["y"])({"x": value, "y": value})
    assert inputs["numeric"].isnan()
    assert inputs["categorical"] == MISSING_CODE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": "thirty"}, "column 'age': expected a number, found 'thirty'"),
        ({"age": math.inf}, "column 'age': a number that is infinite"),
        ({"age": np.float32("-inf")}, "column 'age': a number that is infinite"),
        ({"age": 1e39}, r"column 'age': .* beyond the 3.4e\+38 of float32"),
        ({"age": 10**400}, r"column 'age': .* beyond the 3.4e\+38 of float32"),
        ({"age": [1.0]}, r"column 'age': expected a number, found \[1.0\]"),
        ({"sex": 1.0}, "column 'sex': expected a category as text, found 1.0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refuses_a_cell(changes: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build().transform({**ROWS[0], **changes})


def test_refuses_a_row_without_a_column() -> None:
    with pytest.raises(ValueError, match="there is no column 'weight'; the row has 'age', 'sex'"):
        build().transform({"age": 1.0, "sex": "f"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"numeric": None, "categorical": []}, "a table needs a column"),
        ({"numeric": ["age", "age"]}, "column 'age' is named twice"),
        ({"numeric": ["sex"]}, "column 'sex' is named twice"),
        ({"width": 30}, r"width \(30\) must be a multiple of num_heads \(4\)"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"max_categories": 0}, "max_categories must be at least 1"),
        ({"frequencies": 0}, "frequencies must be at least 1"),
        ({"depth": -1}, r"depth \(-1\) must be at least 0"),
        ({"sigma": 0.0}, r"sigma \(0.0\) above 0"),
    ],
    ids=str,
)
def test_refuses_a_setting(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_expert_takes_float32(dtype: torch.dtype) -> None:
    assert fitted().to(dtype)(collated(fitted(), ROWS)).tokens_BND.dtype == dtype


def test_wild_numbers_stay_finite() -> None:
    assert encode(fitted(), {"age": 3e38, "weight": -3e38, "sex": "f"}).isfinite().all()


def test_checkpoint_brings_statistics_and_categories() -> None:
    check_checkpoint(build(), TableExpert(["age", "weight"], ["sex"]), collated(fitted(), ROWS))


def test_travels() -> None:
    check_travels(fitted(), ROWS)


def test_every_parameter_learns() -> None:
    check_learns(fitted(), collated(fitted(), ROWS))


def test_describes_its_columns() -> None:
    assert build().transform.describe() != build(numeric=["weight", "age"]).transform.describe()


@pytest.mark.parametrize("depth", [0, 1])
def test_learns_which_side_of_a_threshold_by_category(depth: int) -> None:
    # neither column says anything by itself
    rows: list[Row] = [{"age": float(age), "sex": sex} for age, sex in product(range(20, 60), ("f", "m"))]
    labels = [int((row["age"] > 39.5) != (row["sex"] == "f")) for row in rows]  # type: ignore[operator]
    assert trained_accuracy(lambda: build(numeric=["age"], depth=depth), rows, labels, steps=150) > 0.95
