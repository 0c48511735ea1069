from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.splits import Split, split_rows
from datamodules.tables import Table


def table(**columns: list[object]) -> Table:
    return Table("rows.parquet", pa.table(columns))


def test_without_a_rule_all_rows_are_for_training() -> None:
    rows, faults = split_rows(table(a=[1, 2, 3]), Split(), seed=0)
    assert {name: chosen.tolist() for name, chosen in rows.items()} == {"train": [0, 1, 2]}
    assert faults == []


def test_a_column_says_it_under_its_usual_names() -> None:
    said = ["train", "Valid", " test ", "dev", "training", "predict", "validation", "other", None, "test"]
    rows, faults = split_rows(table(split=said), Split(column="split"), seed=0)
    assert {name: chosen.tolist() for name, chosen in rows.items()} == {
        "train": [0, 4],
        "val": [1, 3, 6],
        "test": [2, 9],
        "predict": [5],
    }
    assert [str(fault) for fault in faults] == [
        "rows.parquet#7, column 'split': other: is none of train, val, test, predict",
        "rows.parquet#8, column 'split': nothing: is none of train, val, test, predict",
    ]


@settings(max_examples=60)
@given(
    num_rows=st.integers(20, 300),
    val=st.one_of(st.just(0.0), st.floats(0.15, 0.4)),
    test=st.one_of(st.just(0.0), st.floats(0.15, 0.4)),
    groups=st.sampled_from([0, 30, 60]),
    classes=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_every_row_is_in_one_split_and_every_group_whole(
    num_rows: int, val: float, test: float, groups: int, classes: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    group = draw.integers(0, groups, num_rows).tolist() if groups else list(range(num_rows))
    label = draw.integers(0, classes, num_rows).tolist()
    rule = Split(val=val, test=test, group_by="group" if groups else None, stratify="label")
    data = table(group=group, label=label)
    rows, _ = split_rows(data, rule, seed)
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(num_rows))
    of_group: dict[int, set[str]] = {}
    for name, chosen in rows.items():
        assert chosen.tolist() == sorted(chosen.tolist())
        for row in chosen:
            of_group.setdefault(group[row], set()).add(name)
    assert all(len(names) == 1 for names in of_group.values())
    again, _ = split_rows(data, rule, seed)
    assert all(np.array_equal(rows[name], again[name]) for name in rows)
    largest = max(Counter(group).values())
    for name, share in (("val", val), ("test", test)):
        # what rounding withholds is at most a group
        assert abs(len(rows.get(name, [])) - share * num_rows) <= largest + 1


def test_each_class_is_split_alike() -> None:
    label = ["a"] * 600 + ["b"] * 300 + ["c"] * 100
    rows, _ = split_rows(table(label=label), Split(val=0.2, test=0.1, stratify="label"), seed=3)
    counts = {name: Counter(label[row] for row in chosen) for name, chosen in rows.items()}
    assert counts["val"] == {"a": 120, "b": 60, "c": 20}
    assert counts["test"] == {"a": 60, "b": 30, "c": 10}


def test_rare_classes_are_spread_over_the_splits() -> None:
    label = [number // 2 for number in range(400)]  # two rows of each of 200 classes
    rows, _ = split_rows(table(label=label), Split(val=0.1, test=0.1, stratify="label"), seed=0)
    assert (len(rows["val"]), len(rows["test"])) == (40, 40)


def test_another_seed_gives_another_split() -> None:
    first, second = (split_rows(table(a=list(range(100))), Split(val=0.3), seed=seed)[0]["val"] for seed in (0, 1))
    assert len(first) == len(second) == 30
    assert not np.array_equal(first, second)


def test_rows_without_a_group_stand_alone() -> None:
    rows, _ = split_rows(table(patient=[None] * 100), Split(val=0.5, group_by="patient"), seed=0)
    assert len(rows["val"]) == 50


@pytest.mark.parametrize(("share", "left"), [(0.9, "train"), (0.1, "val")])
def test_one_group_cannot_be_split(share: float, left: str) -> None:
    with pytest.raises(ValueError, match=f"leaves no row for {left}: there are too few rows or groups"):
        split_rows(table(patient=[1] * 10), Split(val=share, group_by="patient"), seed=0)


@pytest.mark.parametrize("groups", [3, 4, 5])
def test_few_groups_are_enough(groups: int) -> None:
    patient = [number % groups for number in range(60)]
    rows, _ = split_rows(table(patient=patient), Split(val=0.1, test=0.1, group_by="patient"), seed=0)
    sizes = {name: len({patient[row] for row in chosen}) for name, chosen in rows.items()}
    assert sizes == {"train": groups - 2, "val": 1, "test": 1}


def test_one_large_group_does_not_take_a_share_for_itself() -> None:
    patient = [0] * 100 + list(range(1, 31))
    for seed in range(20):
        rows, _ = split_rows(table(patient=patient), Split(val=0.2, group_by="patient"), seed)
        assert len(rows["val"]) == 26


@pytest.mark.parametrize("empty", [None, " ", ""])
def test_rows_without_a_class_are_split_too(empty: str | None) -> None:
    label = ["a"] * 50 + ["b"] * 50 + [empty] * 100
    rows, _ = split_rows(table(label=label), Split(val=0.2, test=0.2, stratify="label"), seed=0)
    assert Counter(label[row] for row in rows["val"]) == {"a": 10, "b": 10, empty: 20}
    rows, _ = split_rows(table(label=pa.nulls(10, pa.string())), Split(val=0.2, stratify="label"), seed=0)
    assert len(rows["val"]) == 2


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Split(column="s", val=0.1), "either `column`, or the shares"),
        (Split(val=0.5, test=0.5), "together below 1"),
        (Split(val=-0.1), "together below 1"),
        (Split(group_by="g"), "need the shares"),
    ],
)
def test_rules_that_do_not_fit_together(rule: Split, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rule.check()
