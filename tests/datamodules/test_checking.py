from __future__ import annotations

import csv
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import Tensor

from crossmodal.heads import ClassificationHead, RegressionHead
from datamodules.checking.check import DataCheck, Head
from datamodules.checking.fault_log import LISTED_OF_EACH, FaultLog
from datamodules.checking.measures import identifies, measure
from datamodules.columns import Column
from datamodules.faults import Fault
from datamodules.manifest import Manifest
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import Texts
from datamodules.splits import Split
from datamodules.synthetic import Dots
from datamodules.targets import Target


class Plain:
    """Takes what it is given; refuses, and complains of, what it is told to."""

    def __init__(
        self, refuse: Callable[[Any], None] = lambda _: None, complain: Callable[[Any], Any] = lambda _: None
    ) -> None:
        self.refuse = refuse
        self.complaint = complain

    def __call__(self, raw: Any) -> Any:
        self.refuse(raw)
        return raw

    def collate(self, items: Sequence[Any]) -> Any:
        return list(items)

    @property
    def for_evaluation(self) -> Plain:
        return self


HEADER = ["name", "photo", "sound", "vector", "note", "kind", "price", "part"]
SPECS = {
    "photo": Column("image", column="photo"),
    "sound": Column("audio", column="sound", missing="allow"),
    "vector": Column("array", column="vector", missing="allow"),
    "note": Column("text", column="note", missing="allow"),
}
TARGETS = {
    "kind": Target("class", column="kind", classes=["cat", "dog", "owl", "yak"]),
    "price": Target("number", column="price", minimum=0),
}


def long_note(raw: str) -> tuple[str, str] | None:
    return ("text too long", f"{len(raw.split())} words, cut to 4") if len(raw.split()) > 4 else None


def photo(folder: Path, number: int) -> str:
    name = f"{number}.png"
    pixels = np.random.default_rng(number).integers(0, 255, (8, 6 + number % 3, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return name


def write(folder: Path, rows: list[list[Any]]) -> Path:
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return folder / "rows.csv"


def clean(folder: Path, count: int = 12) -> list[list[Any]]:
    """Rows of cats and dogs, each with a photo of its own; two thirds train."""
    parts = ("train", "train", "val")
    return [
        [f"row{n}", photo(folder, n), "", "", "a short note", ("cat", "dog")[n % 2], n, parts[n % 3]]
        for n in range(count)
    ]


def checked(folder: Path, rows: list[list[Any]], *, workers: int = 0, plain: Plain | None = None) -> DataCheck:
    classes = ["cat", "dog"] if not any(row[5:6] in (["owl"], ["yak"]) for row in rows) else None
    data = Manifest(
        train=str(write(folder, rows)),
        modalities=SPECS,
        targets={**TARGETS, "kind": Target("class", column="kind", classes=classes or ["cat", "dog", "owl", "yak"])},
        split=Split(column="part"),
        id="name",
    )
    data.connect({name: Plain(complain=long_note) if name == "note" else plain or Plain() for name in SPECS})
    heads: dict[str, Head] = {"kind": ClassificationHead(8, 4), "price": RegressionHead(8, 1)}
    check = DataCheck(data, heads)
    check.read(num_workers=workers)
    return check


def found(check: DataCheck) -> dict[str, list[tuple[str, str]]]:
    return {kind: [(named(one.row), one.column) for one in of.faults] for kind, of in check.log.kinds.items()}


def named(place: str) -> str:
    """From `rows.csv:7 (row5)` to row5; where no id names a row, its place does."""
    place, _, name = place.partition(" (")
    return name.removesuffix(")") or place


def test_clean_rows_have_no_faults(tmp_path: Path) -> None:
    check = checked(tmp_path, clean(tmp_path))
    assert found(check) == {}
    assert check.num_inputs == 12 + 2  # a photo for each row, and the note that all of a split share
    assert check.log.num_faulty_rows() == 0
    assert check.class_counts()["kind"] == {"cat": {"train": 4, "val": 2}, "dog": {"train": 4, "val": 2}}
    assert "price" not in check.class_counts()
    assert check.presence("train") == {("photo", "note"): 8}
    assert check.sizes["photo"].summary()["width in pixels"] == {"count": 12, "min": 6, "median": 7, "max": 8}


def broken(folder: Path) -> tuple[list[list[Any]], dict[str, list[tuple[str, str]]]]:
    """One row or more of each kind of fault, and what has to be told of them."""
    rows = clean(folder, 36)
    (folder / "folder").mkdir()
    (folder / "text.png").write_text("no picture at all")
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:60])
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    soundfile.write(folder / "silent.wav", np.zeros((0, 1)), 8000)
    np.save(folder / "nan.npy", np.array([1.0, np.nan]))
    np.save(folder / "deep.npy", np.zeros((2, 2, 2)))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    rows[1][1] = ""
    rows[3][1] = rows[4][1] = "gone.png"
    rows[6][1] = "text.png"
    rows[7][1] = "empty.png"
    rows[8][1] = "folder"  # of the validation split
    rows[9][1] = "cut.png"
    rows[10][2] = "silent.wav"
    rows[12][3] = "nan.npy"
    rows[13][3] = "deep.npy"
    rows[15][3] = "objects.npy"
    rows[16][3] = "[1, 2, x]"
    rows[18][4] = "a note of more than four words"
    rows[19][5] = "gnu"
    rows[21][5] = ""
    rows[22][6] = "dear"
    rows[24][6] = "-1"
    rows[25][6] = "inf"
    rows[27][7] = "holdout"
    rows[28][0] = "row30"
    rows[5][1] = "copy.png"  # of the validation split; row 0 trains
    rows[11][5] = "owl"  # of the validation split
    rows.append(["row99", "0.png"])
    line = {number: f"rows.csv:{number + 2}" for number in range(37)}
    return rows, {
        "missing cell": [("row1", "photo")],
        "missing file": [("row3", "photo"), ("row4", "photo")],
        "undecodable": [("row6", "photo")],
        "empty file": [("row7", "photo")],
        "folder": [("row8", "photo")],
        "truncated": [("row9", "photo")],
        "zero-length audio": [("row10", "sound")],
        "NaN or Inf": [("row25", "price"), ("row12", "vector")],
        "wrong shape": [("row13", "vector")],
        "needs pickle": [("row15", "vector")],
        "wrong type": [("row22", "price"), ("row16", "vector")],
        "text too long": [("row18", "note")],
        "unknown class": [("row19", "kind")],
        "missing target": [("row21", "kind")],
        "target out of range": [("row24", "price")],
        "unknown split": [(line[27], "part")],
        "duplicate id": [("row30", "name")],
        "in two splits": [("row5", "photo")],
        "class never seen in training": [("row11", "kind"), ("", "kind")],
        "ragged line": [(line[36], "")],
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_each_fault_is_told_with_its_row(workers: int, tmp_path: Path) -> None:
    rows, expected = broken(tmp_path)
    check = checked(tmp_path, rows, workers=workers)
    assert found(check) == expected
    rows_of = {kind: len([row for row, _ in of if row]) for kind, of in expected.items()}
    assert {kind: of.rows for kind, of in check.log.kinds.items()} == rows_of
    goes_on = {kind for kind, of in check.log.kinds.items() if not of.stops}
    assert goes_on == {"text too long", "duplicate id", "in two splits", "class never seen in training"}
    assert {kind: of.of_no_row for kind, of in check.log.kinds.items() if of.of_no_row} == {
        "class never seen in training": 1
    }
    assert check.num_read == check.num_inputs > 32
    assert check.log.num_faulty_rows() == sum(rows_of.values())
    assert check.log.kinds["missing file"].inputs == 1  # two rows name it
    assert check.log.by_frequency()[0][1].rows == 2


def test_a_fault_says_where_and_why(tmp_path: Path) -> None:
    rows, _ = broken(tmp_path)
    kinds = checked(tmp_path, rows).log.kinds
    folder, twin, ident = (kinds[kind].faults[0] for kind in ("folder", "in two splits", "duplicate id"))
    assert folder == Fault("folder", "is a folder, not a file", "rows.csv:10 (row8)", "photo", "folder", "val")
    assert twin.cause == "the train split has the same content in row rows.csv:2 (row0)"
    assert (twin.value, twin.split) == ("copy.png", "val")
    assert ident.cause == "is also the id of rows.csv:30"
    assert kinds["class never seen in training"].faults[1].value == "yak"
    assert kinds["ragged line"].faults[0].split == "train"


def test_what_is_not_usable_is_not_counted(tmp_path: Path) -> None:
    rows = clean(tmp_path)
    for number in (0, 2, 4):  # cats: two that train, one that does not
        rows[number][1] = "gone.png"
    check = checked(tmp_path, rows)
    assert check.usable("train").tolist() == [1, 2, 4, 5, 6, 7]
    assert check.class_counts()["kind"]["cat"] == {"train": 2, "val": 1}
    assert [sample.row for sample in check.samples("val", 9)] == ["row5", "row8", "row11"]


def test_an_input_that_rows_share_is_read_once_and_told_of_each(tmp_path: Path) -> None:
    rows = clean(tmp_path)
    (tmp_path / "bad.png").write_text("no")
    for number in (0, 1, 3):
        rows[number][1] = "bad.png"
    check = checked(tmp_path, rows)
    assert check.log.kinds["undecodable"].inputs == 1
    assert found(check) == {"undecodable": [("row0", "photo"), ("row1", "photo"), ("row3", "photo")]}


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_ones_own_code_are_told_of_each_row(workers: int, tmp_path: Path) -> None:
    def refuse(raw: Any) -> None:
        if isinstance(raw, Image.Image) and raw.width == 7:
            raise ZeroDivisionError("by nothing")
        if isinstance(raw, Image.Image) and raw.width == 8:
            raise ValueError("too wide")

    check = checked(tmp_path, clean(tmp_path, 6), workers=workers, plain=Plain(refuse))
    assert found(check) == {
        "unexpected error": [("row1", "photo"), ("row4", "photo")],
        "not usable": [("row2", "photo"), ("row5", "photo")],
    }
    assert check.log.kinds["unexpected error"].faults[0].cause == "ZeroDivisionError: by nothing"


def test_a_worker_that_is_killed_is_told_in_one_message(tmp_path: Path) -> None:
    here = os.getpid()

    def die(_: Any) -> None:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(ValueError, match="memory runs out; give fewer with --workers"):
        checked(tmp_path, clean(tmp_path), workers=1, plain=Plain(die))


def test_a_split_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    rows = clean(tmp_path)
    rows[0][1] = "gone.png"
    (tmp_path / "other.csv").write_text("photo\n1.png\n")
    data = Manifest(
        train=str(write(tmp_path, rows)), val=str(tmp_path / "other.csv"), modalities=SPECS, targets=TARGETS
    )
    data.connect({"photo": Plain()})
    check = DataCheck(data, {})
    assert {kind: of.rows for kind, of in check.log.kinds.items()} == {"missing file": 1, "unusable split": 0}
    assert "other.csv" in check.log.kinds["unusable split"].faults[0].cause


def test_any_data_source_can_be_checked() -> None:
    class Questions(Dots):
        def load(self, split: Any) -> PairedRows | None:
            if split not in ("train", "val"):
                return None
            return PairedRows(
                sources={"question": Texts(["what?", "where is it now, then?"])},
                index={"question": np.array([0, 1, -1])},
                targets={"answer": torch.tensor([0, 7, 2])},
                ids=NumberedIds(split, np.arange(3)),
            )

    data = Questions()
    data.connect({"question": Plain(complain=long_note)})
    check = DataCheck(data, {"answer": ClassificationHead(4, 4)})
    check.read()
    kinds = found(check)
    assert kinds.pop("wrong target") == [("train/1", "answer"), ("val/1", "answer")]
    assert kinds.pop("text too long") == [("train/1", "question"), ("val/1", "question")]
    assert kinds == {"class never seen in training": [("", "answer"), ("", "answer")]}  # no leak: texts recur
    data.connect({"smell": Plain()})
    with pytest.raises(ValueError, match=r"experts.smell: the data has no such modality; it has question"):
        DataCheck(data, {})


def test_targets_of_another_shape_are_wrong_in_every_row() -> None:
    data = Dots(num_pictures=4)
    data.connect({})
    check = DataCheck(data, {"answer": RegressionHead(4, 1)})
    wrong = check.log.kinds["wrong target"]
    assert (wrong.rows, wrong.faults[0].row) == (8 + 4 + 4, "train/0")
    assert "targets must have shape (rows, 1)" in wrong.faults[0].cause


def test_the_log_counts_all_and_keeps_the_first() -> None:
    log = FaultLog(listed=30)
    log.begin("train", 1000)
    told: Counter[str] = Counter()

    def fault(kind: str) -> Callable[[int], Fault]:
        def of(row: int) -> Fault:
            told[kind] += 1
            return Fault(kind, "is so", f"row{row}")

        return of

    log.add("often", "train", np.arange(1000), fault("often"))
    log.add("often", "train", np.arange(10), fault("often"))
    log.add("seldom", "train", np.arange(500, 600), fault("seldom"))
    assert [(kind, of.rows, len(of.faults)) for kind, of in log.by_frequency()] == [
        ("often", 1000, 30),
        ("seldom", 100, LISTED_OF_EACH),
    ]
    assert told == {"often": 30, "seldom": LISTED_OF_EACH}  # others are not even made
    assert log.num_faulty_rows() == 1000


def test_sizes_of_raw_inputs() -> None:
    sound = (np.zeros((4000, 2), np.float32), 8000)
    array = np.zeros((5, 7), np.float32)
    assert measure(Image.new("L", (3, 4))) == {"width in pixels": 3, "height in pixels": 4}
    assert measure("two  words") == {"words": 2}
    assert measure(sound) == {"seconds": 0.5, "sample rate in Hz": 8000}
    assert measure(array) == {"vectors": 5, "numbers a vector": 7}
    assert measure(array[0]) == {"vectors": 1, "numbers a vector": 7}
    assert measure({"age": 3.0, "sex": None}) == {"cells that are empty": 1}
    assert measure(["a b", "c d e f"]) == {"items": 2, "words": 3}
    assert measure(object()) == {}
    same = [Image.new("L", (3, 4)), sound, array, [sound], "text", {"age": 3.0}, ["text"], array[0], Tensor()]
    assert list(map(identifies, same)) == [True] * 4 + [False] * 5
