from __future__ import annotations

import numpy as np
import pytest
import torch

from datamodules.paired import Split
from datamodules.rows import PairedRows
from datamodules.synthetic import COLOURS, QUESTIONS, Dots


def load(split: Split = "train", **arguments: float) -> PairedRows:
    rows = Dots(**arguments).load(split)
    assert rows is not None
    return rows


def pixels(rows: PairedRows, position: int) -> np.ndarray:
    return np.asarray(rows.sources["image"].load(position))


def test_same_seed_gives_the_same_rows() -> None:
    first, second = load(seed=1, absent=0.3), load(seed=1, absent=0.3)
    assert torch.equal(first.targets["answer"], second.targets["answer"])
    assert {name: index.tolist() for name, index in first.index.items()} == {
        name: index.tolist() for name, index in second.index.items()
    }
    assert all(np.array_equal(pixels(first, position), pixels(second, position)) for position in range(64))


def test_seeds_and_splits_differ() -> None:
    targets = [load(split, seed=seed).targets["answer"][:64] for split in ("train", "val", "test") for seed in (0, 1)]
    assert len({tuple(target.tolist()) for target in targets}) == 6


def test_no_two_pictures_are_the_same_and_their_keys_know() -> None:
    first, second = load(seed=0).sources["image"], load(seed=1).sources["image"]
    positions = np.arange(len(first))
    keys = [*first.keys(positions), *second.keys(positions)]
    drawn = [source.load(int(position)).tobytes() for source in (first, second) for position in positions]
    assert len(set(first.keys(positions))) == len(set(drawn[: len(first)])) == 64
    assert len(set(keys)) == len(set(zip(keys, drawn, strict=True))) == len(set(drawn))


@pytest.mark.parametrize("absent", [0.0, 0.3, 0.9, 1.0])
def test_share_of_absent_rows(absent: float) -> None:
    rows = load(num_pictures=2000, absent=absent)
    lacks = {name: index < 0 for name, index in rows.index.items()}
    assert {name: lack.mean() for name, lack in lacks.items()} == pytest.approx(dict.fromkeys(lacks, absent), abs=0.03)
    both = (lacks["image"] & lacks["question"]).mean()
    assert both == pytest.approx(absent**2, abs=0.03)


@pytest.mark.parametrize("size", [16, 32, 61])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_pictures_show_the_answer(split: Split, size: int) -> None:
    rows = load(split, size=size)
    names = Dots().outputs["answer"]
    for image, question, target in zip(
        rows.index["image"], rows.index["question"], rows.targets["answer"].tolist(), strict=True
    ):
        text = rows.sources["question"].load(question)
        assert text in QUESTIONS
        picture = pixels(rows, image)
        assert picture.shape == (size, size, 3)
        shown = picture[size // 2, size // 4 if "left" in text else 3 * size // 4]
        assert tuple(shown) == COLOURS[names[target]]
    assert set(rows.targets["answer"].tolist()) == set(range(len(names)))


def test_split_sizes() -> None:
    assert [len(load(split, num_pictures=10)) for split in ("train", "val", "test")] == [20, 10, 10]
    assert [len(load(split, num_pictures=1)) for split in ("train", "val", "test")] == [2, 2, 2]
    assert Dots().load("predict") is None
