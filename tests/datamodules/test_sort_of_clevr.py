"""Questions about pictures are answered anew, one by one, from nothing but the pixels and the question's words."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.paired import Split
from datamodules.rows import PairedRows
from datamodules.sort_of_clevr import ANSWERS, COLOURS, SortOfCLEVR
from tests.transforms import Listed

SPLITS: tuple[Split, ...] = ("train", "val", "test")
FEW = {"train_images": 60, "test_images": 40}


def load(split: Split, **arguments: Any) -> PairedRows:
    rows = SortOfCLEVR(**{**FEW, **arguments}).load(split)
    assert rows is not None
    return rows


@pytest.fixture(scope="module")
def splits() -> dict[Split, PairedRows]:
    data = SortOfCLEVR(**FEW, questions="text")
    return {split: rows for split in SPLITS if (rows := data.load(split)) is not None}


def pixels(rows: PairedRows, position: int) -> np.ndarray:
    return np.asarray(rows.sources["image"].load(position))


def objects(picture: np.ndarray) -> dict[str, tuple[float, float, str]]:
    """Find by colour each object's middle, and its shape: only a square fills the box around it."""
    found = {}
    for name, colour in COLOURS.items():
        down, across = np.nonzero((picture == colour).all(-1))
        height, width = np.ptp(down) + 1, np.ptp(across) + 1
        assert (height, width) == (11, 11)
        shape = "square" if len(down) == height * width else "circle"
        found[name] = (across.min() + 5, down.min() + 5, shape)
    return found


def answer(question: str, there: dict[str, tuple[float, float, str]]) -> str:
    """Answer as a reader would, without the code under test."""
    there = dict(there)
    colour = next(word for word in question.replace("?", "").split() if word in there)
    x, y, shape = there.pop(colour)
    by_distance = sorted(there.values(), key=lambda other: math.dist((x, y), other[:2]))
    if "left" in question:
        return "yes" if x < 37.5 else "no"
    if "top" in question:
        return "yes" if y < 37.5 else "no"
    if "how many" in question:
        return str(1 + sum(other[2] == shape for other in by_distance))
    if "closest" in question:
        return by_distance[0][2]
    return by_distance[-1][2] if "furthest" in question else shape


@pytest.mark.parametrize("split", SPLITS)
def test_answers(splits: dict[Split, PairedRows], split: Split) -> None:
    rows = splits[split]
    there = {picture: objects(pixels(rows, picture)) for picture in rows.used("image").tolist()}
    for row in range(len(rows)):
        question = rows.sources["question"].load(rows.index["question"][row])
        expected = answer(question, there[int(rows.index["image"][row])])
        assert ANSWERS[rows.targets["answer"][row]] == expected, rows.ids[row]


def test_the_questions_are_the_same_as_vectors(splits: dict[Split, PairedRows]) -> None:
    words = [("shape of the {} object?", "left", "top"), ("closest", "furthest", "how many")]
    texts, vectors = (rows.sources["question"] for rows in (splits["test"], load("test")))
    assert len(texts) == len(vectors) == 36
    for position in range(36):
        vector = vectors.load(position)
        assert vector.dtype == np.float32
        assert [part.sum() for part in np.split(vector, [6, 8])] == [1, 1, 1]
        colour, kind, subtype = (int(part.argmax()) for part in np.split(vector, [6, 8]))
        name, text = list(COLOURS)[colour], texts.load(position)
        assert f" {name} " in text
        assert words[kind][subtype].format(name) in text
    assert {texts.content(position) for position in range(36)} == {texts.load(p).encode() for p in range(36)}


def test_ten_questions_of_each_kind_about_each_picture(splits: dict[Split, PairedRows]) -> None:
    for split, count in (("train", 54), ("val", 6), ("test", 40)):
        rows = splits[split]
        assert len(rows) == 20 * count
        assert len(rows.used("image")) == count
        assert rows.kinds.keys() == {"relational", "non_relational"}
        for row in range(len(rows)):
            prefix, picture, kind, number = rows.ids[row].split("/")
            assert prefix == ("test" if split == "test" else "train")
            assert int(picture) == rows.index["image"][row]
            assert 0 <= int(number) < 10
            assert [name for name, of_kind_R in rows.kinds.items() if of_kind_R[row]] == [kind]
            text = rows.sources["question"].load(rows.index["question"][row])
            is_related = any(word in text for word in ("closest", "furthest", "how many"))
            assert is_related == (kind == "relational")
        assert len(set(rows.ids)) == len(rows)


def test_no_picture_stands_in_two_splits(splits: dict[Split, PairedRows]) -> None:
    contents = [rows.sources["image"].content(position) for rows in splits.values() for position in rows.used("image")]
    assert len(set(contents)) == len(contents) == 100


def test_pictures_in_many_scenes() -> None:
    """No overlap: six whole objects, of which none covers another; no two equally close or far."""
    rows = load("test", test_images=100)
    for position in range(100):
        there = objects(pixels(rows, position))
        covered = sum(121 if shape == "square" else 97 for *_, shape in there.values())
        assert (pixels(rows, position) != 255).any(-1).sum() == covered
        for name, (x, y, _) in there.items():
            squared = sorted((x - u) ** 2 + (y - v) ** 2 for other, (u, v, _) in there.items() if other != name)
            assert squared[0] < squared[1]
            assert squared[-2] < squared[-1]
    shapes = np.bincount(rows.targets["answer"], minlength=10)
    assert (shapes > 0).all()


def test_the_same_bits_everywhere() -> None:
    digest = hashlib.sha256()
    for split in SPLITS:
        rows = load(split, seed=3)
        digest.update(rows.sources["image"].pixels.tobytes())  # type: ignore[attr-defined]
        digest.update(rows.index["question"].astype("<i8").tobytes() + rows.index["image"].astype("<i8").tobytes())
        digest.update(rows.targets["answer"].numpy().astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "e8a9d2154a29c579"


def test_seeds_differ() -> None:
    first, second = load("train", seed=0), load("train", seed=1)
    assert not np.array_equal(pixels(first, 0), pixels(second, 0))
    assert first.used("image").tolist() != second.used("image").tolist()
    assert not torch.equal(first.targets["answer"], second.targets["answer"])


def test_in_training_the_questions_about_a_picture_share_a_batch() -> None:
    data = SortOfCLEVR(**FEW, batch_size=100)
    data.connect({"image": Listed(), "question": Listed()})
    for epoch in range(2):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        batches = [{row.split("/")[1] for row in batch.ids} for batch in loader]
        assert [len(pictures) for pictures in batches] == [5] * 10 + [4]
        assert len(set().union(*batches)) == 54
    assert data.load("predict") is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_images": 1}, r"train_images \(1\)"),
        ({"test_images": 0}, r"test_images \(0\)"),
        ({"val_fraction": 0.0}, "val_fraction.*0.0"),
        ({"val_fraction": 1.0}, "val_fraction.*1.0"),
    ],
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SortOfCLEVR(**arguments)


def test_training_keeps_a_picture() -> None:
    counts = [len(load(split, train_images=2, val_fraction=0.99)) for split in ("train", "val")]
    assert counts == [20, 20]
