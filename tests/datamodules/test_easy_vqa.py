from __future__ import annotations

from pathlib import Path

import easy_vqa
import numpy as np
import pytest

from datamodules.easy_vqa import EasyVQA
from datamodules.paired import Split
from datamodules.rows import PairedRows
from datamodules.sources import ImageFiles, Texts

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def load(split: Split, **arguments: float) -> PairedRows:
    rows = EasyVQA(**arguments).load(split)
    assert rows is not None
    return rows


@pytest.fixture(scope="module")
def splits() -> dict[Split, PairedRows]:
    return {split: load(split) for split in SPLITS}


def images(rows: PairedRows) -> list[Path]:
    source = rows.sources["image"]
    assert isinstance(source, ImageFiles)
    return [source.paths[position] for position in rows.used("image")]


def questions(rows: PairedRows) -> set[str]:
    source = rows.sources["question"]
    assert isinstance(source, Texts)
    return {source.texts[position] for position in rows.used("question")}


def test_counts(splits: dict[Split, PairedRows]) -> None:
    assert len(splits["train"]) + len(splits["val"]) == 38_575
    assert len(splits["test"]) == 9_673
    assert {split: len(images(rows)) for split, rows in splits.items()} == {"train": 3600, "val": 400, "test": 1000}
    assert len(set().union(*map(questions, splits.values()))) == 107
    assert EasyVQA().outputs == {"answer": easy_vqa.get_answers()}
    assert len(easy_vqa.get_answers()) == 13
    assert EasyVQA().load("predict") is None


def test_no_picture_stands_in_two_splits(splits: dict[Split, PairedRows]) -> None:
    contents = [path.read_bytes() for rows in splits.values() for path in images(rows)]
    assert len(contents) == len(set(contents)) == 5000


def test_each_row_stands_in_one_split(splits: dict[Split, PairedRows]) -> None:
    ids = [row for rows in splits.values() for row in rows.ids]
    assert len(ids) == len(set(ids)) == 38_575 + 9_673


def test_seed_decides_the_split() -> None:
    assert list(load("val", seed=3).ids) == list(load("val", seed=3).ids)
    assert images(load("val", seed=3)) != images(load("val", seed=4))
    assert list(load("test", seed=3).ids) == list(load("test", seed=4).ids)


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_what_the_package_says(splits: dict[Split, PairedRows], split: Split) -> None:
    rows = splits[split]
    texts, answers, image_ids = easy_vqa.get_test_questions() if split == "test" else easy_vqa.get_train_questions()
    paths = easy_vqa.get_test_image_paths() if split == "test" else easy_vqa.get_train_image_paths()
    for row in np.linspace(0, len(rows) - 1, 50, dtype=np.int64):
        number = int(rows.ids[row].split("/")[1])
        assert rows.sources["question"].load(rows.index["question"][row]) == texts[number]
        assert rows.sources["image"].name(rows.index["image"][row]) == paths[image_ids[number]]
        assert EasyVQA().outputs["answer"][rows.targets["answer"][row]] == answers[number]


@pytest.mark.parametrize(("val_fraction", "count"), [(0.5, 2000), (0.25, 1000), (1e-9, 1)])
def test_val_fraction_is_the_share_of_pictures(val_fraction: float, count: int) -> None:
    assert len(images(load("val", val_fraction=val_fraction))) == count


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_refuses_a_val_fraction(val_fraction: float) -> None:
    with pytest.raises(ValueError, match=f"val_fraction.*{val_fraction}"):
        EasyVQA(val_fraction=val_fraction)


def test_training_keeps_a_picture() -> None:
    assert len(images(load("train", val_fraction=1 - 1e-9))) == 1
