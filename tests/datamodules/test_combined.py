"""Inputs that are made of those of several modalities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batch import ABSENT, PairedBatch
from datamodules.combined import CombinedSource, bases, with_combined
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import ImageFiles, Texts, UnreadableInputsError
from tests.transforms import Listed

LETTERS, COLOURS = ("a", "b", "c"), ("red", "blue")


class Together:
    """Takes several modalities together."""

    def __init__(self, **parts: Any) -> None:
        self.parts = parts

    def __call__(self, raw: Any) -> Any:
        return raw

    def collate(self, items: Sequence[Any]) -> Any:
        return list(items)

    @property
    def for_evaluation(self) -> Together:
        return self


class Counted(Texts):
    """Texts that remember which were read."""

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(texts)
        self.reads: list[int] = []

    def load(self, position: int) -> str:
        self.reads.append(position)
        return super().load(position)


def rows_of(letter: Sequence[int], colour: Sequence[int]) -> PairedRows:
    return PairedRows(
        sources={"letter": Counted(LETTERS), "colour": Counted(COLOURS)},
        index={"letter": np.array(letter), "colour": np.array(colour)},
        targets={},
        ids=NumberedIds("train", np.arange(len(letter))),
    )


FIRST = np.zeros(1, np.int64)
BOTH = Together(letter=Listed(), colour=Listed())
ROWS = rows_of([2, 0, -1, 0, 0, -1], [1, 0, 1, 0, -1, -1])


class Letters(PairedDataModule):
    @property
    def outputs(self) -> dict[str, list[str]]:
        return {}

    def load(self, split: Split) -> PairedRows | None:
        return rows_of([2, 0, -1, 0, 0, -1], [1, 0, 1, 0, -1, -1]) if split == "train" else None


def combined(rows: PairedRows, transform: Any = BOTH) -> tuple[CombinedSource, Any]:
    made = with_combined(rows, {"both": transform})
    source = made.sources["both"]
    assert isinstance(source, CombinedSource)
    return source, made.index["both"]


def test_each_combination_stands_once_and_a_row_with_none_of_the_parts_has_none() -> None:
    source, index_R = combined(ROWS)
    loaded = [None if at == ABSENT else source.load(at) for at in index_R]
    assert loaded == [
        {"letter": "c", "colour": "blue"},
        {"letter": "a", "colour": "red"},
        {"colour": "blue"},
        {"letter": "a", "colour": "red"},
        {"letter": "a"},
        None,
    ]
    assert len(source) == 4
    assert source.name(index_R[0]) == "letter 'c', colour 'blue'"
    assert with_combined(ROWS, {"letter": Listed()}) is ROWS


def test_a_batch_reads_each_part_once() -> None:
    rows = rows_of([0, 0, 0, 1, -1], [0, 1, 1, 0, 0])
    source, index_R = combined(rows)
    batch = source.reader(BOTH).read(np.unique(index_R))
    assert isinstance(batch, PairedBatch)
    assert batch.inputs == {"letter": ["a", "b"], "colour": ["red", "blue"]}
    letters, colours = source.sources["letter"], source.sources["colour"]
    assert isinstance(letters, Counted)
    assert isinstance(colours, Counted)
    assert (letters.reads, colours.reads) == ([0, 1], [0, 1])
    for place, position in enumerate(np.unique(index_R)):
        own = {part: batch.inputs[part][at] for part in batch.inputs if (at := int(batch.index[part][place])) >= 0}
        assert own == source.load(position)
    alone = source.reader(BOTH).read(np.flatnonzero(source.index["letter"] == ABSENT))
    assert alone.inputs == {"colour": ["red"]}
    assert alone.index["letter"].tolist() == [-1]


def test_keys_are_the_same_where_all_parts_are() -> None:
    source, index_R = combined(ROWS)
    keys = source.keys(np.arange(len(source)))
    assert len(set(keys.tolist())) == len({source.content(position) for position in range(len(source))}) == 4
    later, later_R = combined(rows_of([1, 2, -1], [-1, 1, 1]))
    assert later.keys(later_R[1:]).tolist() == keys[index_R[[0, 2]]].tolist()
    index = {"letter": FIRST, "colour": FIRST}
    one = CombinedSource({"letter": Texts(["x"]), "colour": Texts(["y"])}, index)
    other = CombinedSource({"letter": Texts(["y"]), "colour": Texts(["x"])}, index)
    assert one.keys(FIRST) != other.keys(FIRST)
    assert one.content(0) != other.content(0)


def test_what_cannot_be_read_is_of_every_combination_that_has_it(tmp_path: Path) -> None:
    sources = {"photo": ImageFiles([tmp_path / "gone.png"]), "letter": Texts(LETTERS)}
    source = CombinedSource(sources, {"photo": np.array([0, -1, 0]), "letter": np.array([0, 1, 2])})
    reader = source.reader(Together(photo=Listed(), letter=Listed()))
    for read in (reader.read, source.keys):
        with pytest.raises(UnreadableInputsError, match=r"gone\.png") as told:
            read(np.arange(3))
        assert {position: fault.kind for position, fault in told.value.faults.items()} == dict.fromkeys(
            (0, 2), "missing file"
        )
    assert reader.read(np.array([1])).inputs == {"letter": ["b"]}


def test_what_is_combined_can_be_combined() -> None:
    nested = Together(letter=BOTH, colour=Listed())  # a part may be called as one of its own parts
    source, index_R = combined(ROWS, nested)
    assert source.load(index_R[0]) == {"letter": {"letter": "c", "colour": "blue"}, "colour": "blue"}
    assert source.load(index_R[4]) == {"letter": {"letter": "a"}}
    assert index_R[5] == ABSENT
    batch = source.reader(nested).read(np.arange(len(source)))
    assert batch.inputs["colour"] == ["red", "blue"]
    assert batch.inputs["letter"].inputs == {"letter": ["a", "c"], "colour": ["red", "blue"]}
    assert len(source.keys(np.arange(len(source)))) == len(source)
    assert bases("all", nested).keys() == {"letter", "colour"}


def test_a_data_module_combines_what_an_expert_wants() -> None:
    data = Letters(batch_size=6)
    data.connect({"both": BOTH, "letter": Listed()})
    assert list(data.base_transforms) == ["letter", "colour"]
    data.drop_modalities({"both": 0.5, "letter": 0.5})
    loader = data.dataloader("train")
    assert loader is not None
    for epoch in range(3):
        (batch,) = list(loader)
        assert batch.inputs.keys() == batch.index.keys() == {"both", "letter"}, epoch
    moved = batch.to(torch.float32)
    assert isinstance(moved.inputs["both"], PairedBatch)


def test_a_modality_that_the_data_lack_is_named() -> None:
    data = Letters()
    with_more = Together(letter=Listed(), sound=Listed())
    data.connect({"both": with_more})
    with pytest.raises(
        ValueError, match=r"experts\.both takes sound: Letters has no such modality; it has colour, letter"
    ):
        data.rows("train")
    data.connect({"both": with_more}, optional=["both"])
    rows = data.rows("train")
    assert rows is not None
    assert (rows.index["both"] == ABSENT).tolist() == [False, False, True, False, False, True]


class OfLetters(Listed):
    modality = "letter"


def test_another_expert_reads_the_same_inputs() -> None:
    transforms = {"letter": Listed(), "again": OfLetters(), "both": Together(again=OfLetters(), colour=Listed())}
    made = with_combined(ROWS, transforms)
    assert made.sources["again"] is made.sources["letter"]
    assert made.index["again"] is made.index["letter"]
    both = made.sources["both"]
    assert isinstance(both, CombinedSource)
    assert both.load(made.index["both"][0]) == {"again": "c", "colour": "blue"}
    data = Letters(batch_size=6)
    data.connect({"again": OfLetters()})
    assert next(iter(data.train_dataloader())).inputs["again"] == ["a", "c"]


def test_another_expert_of_a_modality_that_there_is_not() -> None:
    data = Letters()
    transform = OfLetters()
    transform.modality = "sound"
    data.connect({"again": transform})
    with pytest.raises(ValueError, match=r"experts.again takes sound: Letters has no such modality; it has colour, l"):
        data.rows("train")
