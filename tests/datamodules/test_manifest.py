"""Manifests as a user writes them: files in, batches out."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from PIL import Image

from datamodules.batch import ABSENT
from datamodules.columns import Column
from datamodules.manifest import Manifest
from datamodules.splits import Split
from datamodules.targets import Target
from tests.transforms import Listed

Rows = list[dict[str, Any]]
PHOTO = Column("image", "photo")
LABEL = {"label": Target("class", "label")}


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


def picture(path: Path, colour: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path)
    return path.name


def rows_with_photos(folder: Path, count: int = 6) -> Rows:
    return [
        {"photo": picture(folder / f"{number}.png", number), "text": f"row {number}", "label": "ab"[number % 2]}
        for number in range(count)
    ]


def connected(manifest: Manifest) -> Manifest:
    manifest.connect({name: Listed() for name in manifest.modalities})
    return manifest


def contents(manifest: Manifest, split: Any = "train") -> list[dict[str, Any]]:
    """Each row with what it holds, in the order of the file."""
    loader = connected(manifest).dataloader(split)
    assert loader is not None
    found = []
    for batch in loader:
        for row, name in enumerate(batch.ids):
            held: dict[str, Any] = {"id": name}
            for modality, index_B in batch.index.items():
                position = int(index_B[row])
                held[modality] = None if position == ABSENT else batch.inputs[modality][position]
            for task, values in batch.targets.items():
                held[task] = values[row].tolist()
            found.append(held)
    return sorted(found, key=lambda held: int("".join(filter(str.isdigit, held["id"]))))


@pytest.mark.parametrize("suffix", WRITERS)
def test_columns_become_modalities_and_targets(tmp_path: Path, suffix: str) -> None:
    path = WRITERS[suffix](tmp_path / f"data.{suffix}", rows_with_photos(tmp_path))
    manifest = Manifest(
        train=str(path), modalities={"image": PHOTO, "question": Column("text", "text")}, targets=LABEL, batch_size=4
    )
    assert manifest.outputs == {"label": ["a", "b"]}
    rows = contents(manifest)
    first = {"csv": "data.csv:2", "jsonl": "data.jsonl:1", "parquet": "data.parquet#0"}[suffix]
    assert rows[0]["id"] == first
    assert [row["image"].getpixel((0, 0))[0] for row in rows] == list(range(6))
    assert [row["question"] for row in rows] == [f"row {number}" for number in range(6)]
    assert [row["label"] for row in rows] == [0, 1, 0, 1, 0, 1]


def test_a_cell_that_rows_share_is_one_input(tmp_path: Path) -> None:
    rows = rows_with_photos(tmp_path, 2) * 3
    path = write_csv(tmp_path / "data.csv", rows)
    manifest = connected(Manifest(train=str(path), modalities={"image": PHOTO}, targets=LABEL))
    found = manifest.rows("train")
    assert found is not None
    assert found.index["image"].tolist() == [0, 1, 0, 1, 0, 1]
    assert len(found.sources["image"]) == 2


def test_an_experts_modality_only_is_looked_at(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", [{**row, "photo": "gone.png"} for row in rows_with_photos(tmp_path)])
    manifest = Manifest(train=str(path), modalities={"image": PHOTO, "text": Column("text", "text")}, targets=LABEL)
    manifest.connect({"text": Listed()})
    rows = manifest.rows("train")
    assert rows is not None
    assert list(rows.sources) == ["text"]


def test_absence(tmp_path: Path) -> None:
    rows = rows_with_photos(tmp_path)
    rows[1]["photo"] = ""
    rows[2]["photo"] = "gone.png"
    rows[3]["text"] = "  "
    path = write_csv(tmp_path / "data.csv", rows)
    modalities = {
        "image": Column("image", "photo", missing="allow"),
        "text": Column("text", "text", missing="allow"),
    }
    found = contents(Manifest(train=str(path), modalities=modalities, targets=LABEL))
    assert [row["image"] is None for row in found] == [False, True, True, False, False, False]
    assert [row["text"] is None for row in found] == [False, False, False, True, False, False]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"photo": ""}, "missing cell", r"data.csv:4, column 'photo': is empty \(`missing: allow`"),
        ({"photo": "gone.png"}, "missing file", r"data.csv:4, column 'photo': gone.png: no such file"),
        ({"label": ""}, "missing target", r"data.csv:4, column 'label': has no class"),
    ],
)
def test_a_row_that_cannot_be_used_stops_the_run_or_is_left_out(
    tmp_path: Path, change: dict[str, str], kind: str, message: str
) -> None:
    rows = rows_with_photos(tmp_path)
    rows[2].update(change)
    path = write_csv(tmp_path / "data.csv", rows)
    settings: dict[str, Any] = {"train": str(path), "modalities": {"image": PHOTO}, "targets": LABEL}
    with pytest.raises(ValueError, match=message):
        connected(Manifest(**settings)).rows("train")
    lenient = Manifest(**settings, on_error="quarantine", max_quarantined=0.2)
    found = contents(lenient)
    assert [row["image"].getpixel((0, 0))[0] for row in found] == [0, 1, 3, 4, 5]
    assert [row["label"] for row in found] == [0, 1, 1, 0, 1]
    lenient.quarantine.list_in(tmp_path / "quarantine.jsonl")  # type: ignore[union-attr]
    (listed,) = map(json.loads, (tmp_path / "quarantine.jsonl").read_text().splitlines())
    assert (listed["kind"], listed["row"], listed["split"]) == (kind, "data.csv:4", "train")
    with pytest.raises(ValueError, match=r"1 of the 6 rows .* more than data.init_args.max_quarantined \(0\)"):
        connected(Manifest(**settings, on_error="quarantine", max_quarantined=0)).rows("train")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_that_cannot_be_decoded_is_left_out_when_it_is_read(tmp_path: Path, num_workers: int) -> None:
    rows = rows_with_photos(tmp_path)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:-25])
    path = write_csv(tmp_path / "data.csv", [*rows, {**rows[3], "label": "a"}])
    settings: dict[str, Any] = {"train": str(path), "modalities": {"image": PHOTO}, "targets": LABEL, "batch_size": 2}
    with pytest.raises(ValueError, match=r"^cannot read data.csv:\d, column 'photo': 3.png: .*truncated"):
        contents(Manifest(**settings))
    lenient = Manifest(**settings, num_workers=num_workers, on_error="quarantine", max_quarantined=0.3)
    for _ in range(2):  # every epoch tries again, and counts no row twice
        found = contents(lenient)
        assert [row["image"].getpixel((0, 0))[0] for row in found] == [0, 1, 2, 4, 5]
        assert [row["label"] for row in found] == [0, 1, 0, 0, 1]
    assert lenient.quarantine.counts == {"quarantined/train": 2}  # type: ignore[union-attr]


def test_a_batch_of_which_nothing_is_left_is_empty(tmp_path: Path) -> None:
    rows = rows_with_photos(tmp_path, 3)
    (tmp_path / "2.png").write_bytes(b"no picture")
    path = write_csv(tmp_path / "data.csv", rows)
    lenient = connected(
        Manifest(
            test=str(path),
            modalities={"image": PHOTO},
            targets={"label": Target("class", "label", classes=["a", "b"])},
            batch_size=2,
            on_error="quarantine",
            max_quarantined=0.5,
        )
    )
    batches = list(lenient.test_dataloader())
    assert [len(batch) for batch in batches] == [2, 0]
    assert batches[1].targets["label"].dtype == torch.int64


def test_a_wrong_root_is_no_absence(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", rows_with_photos(tmp_path / "photos"))
    manifest = Manifest(train=str(path), modalities={"image": Column("image", "photo", missing="allow")}, targets=LABEL)
    with pytest.raises(ValueError, match=r"none of its 6 files exists in .*; the first is 0.png \(set `root`"):
        connected(manifest).rows("train")


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", rows_with_photos(tmp_path))
    manifest = Manifest(train=str(path), root=str(tmp_path / "no"), modalities={"image": PHOTO}, targets=LABEL)
    with pytest.raises(ValueError, match=r"^data.init_args.root: there is no folder .*/no$"):
        manifest.rows("train")


@pytest.mark.parametrize("share", [-0.1, 2.0])
def test_the_share_of_quarantined_rows_is_a_share(share: float) -> None:
    with pytest.raises(ValueError, match="max_quarantined is a share of the rows, 0 to 1"):
        Manifest(train="data.csv", modalities={"image": PHOTO}, targets=LABEL, max_quarantined=share)


def test_paths_begin_in_root_and_stay_there(tmp_path: Path) -> None:
    rows = rows_with_photos(tmp_path / "photos", 3)
    picture(tmp_path / "secret.png", 9)
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "list").mkdir()
    path = write_csv(tmp_path / "list" / "data.csv", rows)
    settings: dict[str, Any] = {"root": str(tmp_path / "photos"), "modalities": {"image": PHOTO}, "targets": LABEL}
    assert len(contents(Manifest(train=str(path), **settings))) == 3
    for way_out in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        rows[1]["photo"] = way_out
        path = write_csv(tmp_path / "list" / "out.csv", rows)
        with pytest.raises(ValueError, match=r"out.csv:3, column 'photo': .+: leads out of"):
            contents(Manifest(train=str(path), **settings))


def test_every_type_of_column(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((100, 2), np.float32), 8000)
    np.save(tmp_path / "a.npy", np.arange(3.0))
    for number in range(2):
        picture(tmp_path / f"{number}.png", number)
    row = {
        "wav": "a.wav",
        "file": "a.npy",
        "inline": [1.0, 2.0],
        "age": 41,
        "sex": "f",
        "left": "0.png",
        "right": "1.png",
        "views": ["1.png", "0.png", "1.png"],
        "label": 1,
    }
    path = write_jsonl(tmp_path / "data.jsonl", [row, {**row, "age": None, "sex": None, "left": None, "label": 0}])
    modalities = {
        "speech": Column("audio", "wav"),
        "array": Column("array", "file"),
        "inline": Column("array", "inline"),
        "labs": Column("table", numeric=["age"], categorical=["sex"], missing="allow"),
        "sides": Column("sequence", of="image", columns=["left", "right"]),
        "views": Column("sequence", of="image", column="views"),
    }
    first, second = contents(Manifest(train=str(path), modalities=modalities, targets=LABEL))
    samples, rate = first["speech"]
    assert (samples.shape, rate) == ((100, 2), 8000)
    assert first["array"].tolist() == [0, 1, 2]
    assert first["inline"].tolist() == [1, 2]
    assert first["labs"] == {"age": 41.0, "sex": "f"}
    assert [image.getpixel((0, 0))[0] for image in first["sides"]] == [0, 1]
    assert [image.getpixel((0, 0))[0] for image in first["views"]] == [1, 0, 1]
    assert second["labs"] is None
    assert [image.getpixel((0, 0))[0] for image in second["sides"]] == [1]


def test_splits_by_column_by_chance_and_by_file(tmp_path: Path) -> None:
    rows = [
        {**row, "split": name}
        for row, name in zip(
            rows_with_photos(tmp_path), ["train", "valid", "test", "test", "train", "train"], strict=True
        )
    ]
    path = str(write_csv(tmp_path / "data.csv", rows))
    settings: dict[str, Any] = {"modalities": {"image": PHOTO}, "targets": LABEL}

    def ids(manifest: Manifest) -> dict[str, list[str]]:
        splits = {name: connected(manifest).rows(name) for name in ("train", "val", "test", "predict")}  # type: ignore[arg-type]
        return {name: [split.ids[row] for row in range(len(split))] for name, split in splits.items() if split}

    by_column = ids(Manifest(train=path, split=Split(column="split"), **settings))
    assert by_column == {
        "train": ["data.csv:2", "data.csv:6", "data.csv:7"],
        "val": ["data.csv:3"],
        "test": ["data.csv:4", "data.csv:5"],
    }
    by_chance = ids(Manifest(train=path, split=Split(val=0.2, test=0.3), **settings))
    assert {name: len(chosen) for name, chosen in by_chance.items()} == {"train": 3, "val": 1, "test": 2}
    by_file = ids(Manifest(train=path, val=path, predict=path, **settings))
    assert {name: len(chosen) for name, chosen in by_file.items()} == {"train": 6, "val": 6, "predict": 6}


def test_predictions_need_no_targets_nor_columns_that_may_be_missing(tmp_path: Path) -> None:
    rows = rows_with_photos(tmp_path)
    train = str(write_csv(tmp_path / "train.csv", rows))
    new = str(write_csv(tmp_path / "new.csv", [{"text": row["text"]} for row in rows]))
    modalities = {"image": Column("image", "photo", missing="allow"), "text": Column("text", "text")}
    manifest = Manifest(train=train, predict=new, modalities=modalities, targets=LABEL)
    found = contents(manifest, "predict")
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert all(row["image"] is None for row in found)
    with pytest.raises(ValueError, match="there is no column 'photo'"):
        contents(Manifest(train=new, modalities=modalities, targets={"text": Target("class", "text")}))


def test_rows_are_named_by_a_column(tmp_path: Path) -> None:
    rows = [{"name": f"n{number}", **row} for number, row in enumerate(rows_with_photos(tmp_path))]
    rows[4]["name"] = ""
    path = str(write_csv(tmp_path / "data.csv", rows))
    manifest = connected(Manifest(train=path, modalities={"image": PHOTO}, targets=LABEL, id="name"))
    found = manifest.rows("train")
    assert found is not None
    assert list(found.ids) == ["n0", "n1", "n2", "n3", "data.csv:6", "n5"]


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number, kind in enumerate(("cat", "dog")):
            picture(tmp_path / split / kind / "0.png", number)
    manifest = Manifest(
        train=str(tmp_path),
        split=Split(column="split"),
        modalities={"image": Column("image", "file")},
        targets=LABEL,
    )
    for split in ("train", "val"):
        rows = {row["id"]: (row["image"].getpixel((0, 0))[0], row["label"]) for row in contents(manifest, split)}
        assert rows == {f"{split}/cat/0.png": (0, 0), f"{split}/dog/0.png": (1, 1)}


def test_weights_and_quantities_reach_the_model(tmp_path: Path) -> None:
    rows = [{**row, "price": number} for number, row in enumerate(rows_with_photos(tmp_path, 3))]
    targets = {"label": Target("class", "label", weights="balanced"), "price": Target("number", "price")}
    manifest = Manifest(train=str(write_csv(tmp_path / "data.csv", rows)), modalities={"image": PHOTO}, targets=targets)
    assert manifest.outputs == {"label": ["a", "b"], "price": ["price"]}
    assert manifest.class_weights["label"] == pytest.approx([0.75, 1.5])
    assert contents(manifest)[2]["price"] == [2.0]


def test_data_without_targets(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("text\na\nb\n")
    manifest = Manifest(train=str(tmp_path / "data.csv"), modalities={"text": Column("text", "text")}, targets={})
    rows = manifest.load("train")
    assert manifest.outputs == {}
    assert rows is not None
    assert len(rows) == 2
    assert rows.targets == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modalities": {}}, "data.init_args.modalities: name at least one"),
        ({"modalities": {"image": Column("image")}}, "data.init_args.modalities.image: image needs `column`"),
        ({"modalities": {"t": Column("table", "a")}}, "modalities.t: `column` is not for type table"),
        ({"modalities": {"s": Column("sequence", "a")}}, "a sequence needs `of`"),
        ({"modalities": {"i": Column("image", "a", key="k")}}, "`key` is not for type image"),
        ({"targets": {"label": Target("class")}}, "data.init_args.targets.label: a target needs `column`"),
        ({"train": None}, "give a manifest as `train`"),
        ({"train": None, "test": "x.csv", "split": Split(val=0.1)}, "split: is of `train`"),
        ({"val": "x.csv", "split": Split(val=0.1)}, "data.init_args.val: give a file, or a share"),
        ({"split": Split(val=2)}, "data.init_args.split: `val`"),
        ({"max_quarantined": 2.0, "on_error": "quarantine"}, "max_quarantined is a share"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Manifest(**{"train": "data.csv", "modalities": {"image": PHOTO}, "targets": LABEL, **settings})


def test_files_behind_a_url(tmp_path: Path) -> None:
    rows = rows_with_photos(tmp_path)
    for row in rows:
        row["photo"] = f"file://{tmp_path}/{row['photo']}"
    rows[1]["photo"] = f"file://{tmp_path}/gone.png"
    path = write_csv(tmp_path / "data.csv", rows)
    modalities = {"image": Column("image", "photo", missing="allow")}
    found = contents(Manifest(train=f"file://{path}", modalities=modalities, targets=LABEL))
    assert [row["image"] is None for row in found] == [False, True, False, False, False, False]
    rows[1]["photo"], rows[2]["photo"] = rows[0]["photo"], "nosuch://bucket/a.png"
    path = write_csv(tmp_path / "data.csv", rows)
    with pytest.raises(ValueError, match=r"nosuch://bucket/a.png.*[Pp]rotocol not known"):
        contents(Manifest(train=str(path), modalities={"image": PHOTO}, targets=LABEL))


def test_relative_paths_begin_where_the_manifest_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csv(tmp_path / "data.csv", rows_with_photos(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in (path.name, str(path), os.path.join(".", path.name)):
        assert len(contents(Manifest(train=name, modalities={"image": PHOTO}, targets=LABEL))) == 6
