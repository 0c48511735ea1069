"""Predictions are whole and the same, however often the job that makes them is killed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, Trainer

from crossmodal import prediction_files, predictions
from crossmodal.alignment import Regression
from crossmodal.fusion import WorkspaceFusion
from crossmodal.heads import ClassificationHead, MultiLabelHead, RegressionHead
from crossmodal.module import CrossModalModule
from crossmodal.prediction_files import SUFFIXES, PredictionParts
from datamodules.faults import Quarantine
from datamodules.paired import Split
from datamodules.rows import PairedRows
from datamodules.synthetic import DotPictures, Dots
from experts.adapters import ProjectedExpert
from tests.conftest import Running, Zygote
from tests.crossmodal.test_cli import DOTS, FIT, succeed
from tests.crossmodal.test_module import build
from tests.crossmodal.test_resume import is_zombie

# a class of one's own: each batch takes a while and is kept at once, and pictures may be beyond reading
MY_DOTS = """
import os, time
from pytorch_lightning import Callback
import crossmodal.predictions
from datamodules.synthetic import DotPictures, Dots

crossmodal.predictions.FLUSH_SECONDS = 0.0


class Slowly(Callback):
    def on_predict_batch_start(self, *_):
        time.sleep(float(os.environ.get("SECONDS", 0)))


class Pictures(DotPictures):
    def load(self, position):
        if position >= int(os.environ.get("FIRST_BROKEN", 1000)):
            raise OSError("it is broken")
        return super().load(position)


class MyDots(Dots):
    def load(self, split):
        rows = super().load(split)
        if rows is not None:
            rows.sources["image"].__class__ = Pictures
        return rows
"""
# 64 rows in 16 batches; about every third row lacks a modality
OPTIONS = ("--config", DOTS, "--data.init_args.num_pictures", 64, "--data.init_args.batch_size", 4)
PREDICT = ("predict", *OPTIONS, "--data.init_args.absent", 0.3, "--ckpt_path", "last", "--name", "dots")
MINE = ("--data.class_path", "my_dots.MyDots", "--trainer.callbacks+", "my_dots.Slowly", "--output", "p.parquet")
COLUMNS = ["id", "prediction", "modalities", *(f"probability/{colour}" for colour in ("red", "green", "blue", "white"))]


@pytest.fixture(scope="module")
def fitted(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    succeed(crossmodal, *FIT, "--trainer.max_epochs", 1, cwd=folder)
    (folder / "my_dots.py").write_text(MY_DOTS)
    succeed(crossmodal, *PREDICT, *MINE, cwd=folder)
    return folder


@pytest.fixture
def own(fitted: Path, tmp_path: Path) -> Path:
    shutil.copytree(fitted, tmp_path, dirs_exist_ok=True)
    (tmp_path / "p.parquet").rename(tmp_path / "expected.parquet")
    return tmp_path


def parts(folder: Path, name: str = "p.parquet") -> list[Path]:
    return sorted((folder / f".{name}.parts").glob("*.parquet"))


def killed(crossmodal: Zygote, folder: Path, *more: object, num_parts: int = 5) -> int:
    """Predict until so many batches are kept; return how many were."""
    running = crossmodal.start(*PREDICT, *MINE, *more, cwd=folder, SECONDS="0.02")
    when(running, lambda: len(parts(folder)) >= num_parts)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait()[0] == -signal.SIGKILL
    assert 0 < len(parts(folder)) < 16
    return len(parts(folder))


def when(running: Running, happened: Any) -> None:
    deadline = time.monotonic() + 60
    while not happened() and not is_zombie(running.pid):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def is_whole(folder: Path) -> bool:
    """The file is the same to the last byte, and nothing else is left."""
    assert not list(folder.glob(".*.parts"))
    return (folder / "p.parquet").read_bytes() == (folder / "expected.parquet").read_bytes()


# The command


def test_modalities_are_those_that_a_row_has(fitted: Path) -> None:
    table = pq.read_table(fitted / "p.parquet")
    assert table.column_names == COLUMNS
    rows = Dots(num_pictures=64, absent=0.3).rows("test")
    assert rows is not None
    has = zip(rows.index["image"] >= 0, rows.index["question"] >= 0, strict=True)
    names = {(True, True): "image+question", (True, False): "image", (False, True): "question", (False, False): "none"}
    expected = [names[bool(image), bool(question)] for image, question in has]
    assert table["modalities"].to_pylist() == expected
    assert set(expected) == set(names.values())
    assert table["id"].to_pylist() == [f"test/{row}" for row in range(64)]


def test_csv_has_the_same_rows(crossmodal: Zygote, own: Path) -> None:
    printed = succeed(crossmodal, *PREDICT, "--output", "new/p.CSV", cwd=own)
    assert "64 predictions in new/p.CSV\n" in printed
    expected = pq.read_table(own / "expected.parquet")
    assert pa_csv.read_csv(own / "new" / "p.CSV").cast(expected.schema).equals(expected)
    assert os.listdir(own / "new") == ["p.CSV"]


def test_only_the_first_rows_are_read(crossmodal: Zygote, own: Path) -> None:
    shutil.rmtree(own / "runs" / "features")
    printed = succeed(crossmodal, *PREDICT, *MINE, "--limit", 10, cwd=own, FIRST_BROKEN="5")
    assert "10 predictions in p.parquet\n" in printed
    table = pq.read_table(own / "p.parquet")
    # other inputs were encoded together, so that last digits may differ
    assert table.select(["id", "modalities"]).equals(pq.read_table(own / "expected.parquet")[:10].select([0, 2]))
    status, printed = crossmodal.run(*PREDICT, *MINE, "--limit", 11, cwd=own, FIRST_BROKEN="5")
    assert status == 1
    assert "picture 5" in printed


def test_killed_it_goes_on(crossmodal: Zygote, own: Path) -> None:
    done = killed(crossmodal, own)
    assert not (own / "p.parquet").exists()
    more = killed(crossmodal, own, num_parts=done + 2)
    assert more >= done + 2
    free = ("--seed_everything", 3, "--model.encode_batch_size", 7, "--data.init_args.num_workers", 1)
    printed = succeed(crossmodal, *PREDICT, *MINE, *free, cwd=own)
    assert f"going on after {4 * more} of 64 rows\n" in printed
    assert "64 predictions in p.parquet\n" in printed
    assert is_whole(own)
    assert "going on" not in succeed(crossmodal, *PREDICT, *MINE, cwd=own)


@pytest.mark.parametrize(
    ("number", "suffix"),
    [(0, ".csv"), *(pytest.param(n, suffix, marks=pytest.mark.slow) for n in range(1, 5) for suffix in SUFFIXES)],
)
def test_killed_at_random_moments(crossmodal: Zygote, own: Path, number: int, suffix: str) -> None:
    draw = random.Random(number)
    command = (*PREDICT, *MINE, "--output", f"p{suffix}")
    began = time.monotonic()
    succeed(crossmodal, *command, cwd=own, SECONDS="0.01")
    seconds = time.monotonic() - began
    whole = (own / f"p{suffix}").rename(own / "whole").read_bytes()
    kills = 0
    while not (own / f"p{suffix}").exists() or list(own.glob(".*.parts")):
        running = crossmodal.start(*command, cwd=own, SECONDS="0.01")
        if kills < 3:
            time.sleep(seconds * draw.uniform(0.5, 1))
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)
        status, printed = running.wait()
        assert status == 0 or (status == -signal.SIGKILL and kills < 3), printed
        kills += 1
    assert (own / f"p{suffix}").read_bytes() == whole


def test_rows_of_another_checkpoint_are_not_kept(crossmodal: Zygote, own: Path) -> None:
    killed(crossmodal, own)
    path = own / "runs" / "dots" / "0" / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    saved["state_dict"]["model.heads.answer.linear.bias"] += torch.tensor([0.0, 10, 0, 0])
    torch.save(saved, path)
    printed = succeed(crossmodal, *PREDICT, *MINE, cwd=own)
    assert "predicting from the beginning: not the same checkpoint as in .p.parquet.parts\n" in printed
    assert "going on" not in printed
    (own / "expected.parquet").rename(own / "before.parquet")
    succeed(crossmodal, *PREDICT, *MINE, "--output", "expected.parquet", cwd=own)
    assert is_whole(own)
    assert (own / "p.parquet").read_bytes() != (own / "before.parquet").read_bytes()


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGTERM, 2)])
def test_interrupted_it_says_how_to_go_on(crossmodal: Zygote, own: Path, number: signal.Signals, workers: int) -> None:
    command = (*PREDICT, *MINE, "--data.init_args.num_workers", workers)
    running = crossmodal.start(*command, cwd=own, SECONDS="0.02")
    when(running, lambda: len(parts(own)) >= 3)
    os.killpg(running.pid, number)
    status, printed = running.wait()
    assert status == 128 + number, printed
    done = 4 * len(parts(own))
    assert f"{done} of 64 rows are predicted; the same command goes on after them\n" in printed
    assert "\ninterrupted" in printed
    assert "Traceback" not in printed
    assert f"going on after {done} of 64 rows\n" in succeed(crossmodal, *PREDICT, *MINE, cwd=own)
    assert is_whole(own)


def test_an_input_that_cannot_be_read_keeps_what_is_done(crossmodal: Zygote, own: Path) -> None:
    command = (*PREDICT, *MINE, "--model.feature_store", "null")
    (own / "p.parquet").write_text("of yesterday")
    status, printed = crossmodal.run(*command, cwd=own, FIRST_BROKEN="11")
    assert status == 1
    assert printed.count("crossmodal: error: ") == 1
    assert "picture 11" in printed
    assert "Traceback" not in printed
    assert "20 of 64 rows are predicted; the same command goes on after them\n" in printed
    assert (own / "p.parquet").read_text() == "of yesterday"
    assert "going on after 20 of 64 rows\n" in succeed(crossmodal, *command, cwd=own)
    succeed(crossmodal, *command, "--output", "expected.parquet", cwd=own)
    assert is_whole(own)


def test_two_at_once_are_one_too_many(crossmodal: Zygote, own: Path) -> None:
    held = PredictionParts(own / "p.parquet")
    status, printed = crossmodal.run(*PREDICT, *MINE, cwd=own)
    assert status == 1
    assert "error: another process writes p.parquet; wait for its end, or give another --output\n" in printed
    held._lock.close()
    succeed(crossmodal, *PREDICT, *MINE, cwd=own)
    assert is_whole(own)


# Without the command


class FailsAt(Callback):
    """Ends the job before a batch."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_predict_batch_start(self, _trainer: Any, _module: Any, _batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            raise KeyError(batch_idx)


def run(
    folder: Path,
    module: CrossModalModule,
    name: str = "p.parquet",
    *,
    data: Dots | None = None,
    fails_at: int = -1,
    settings: str = "",
    limit: int | None = None,
    **options: Any,
) -> Path:
    """Predict 8 rows in 4 batches."""
    checkpoint = folder / "some.ckpt"
    data = data or Dots(num_pictures=8, batch_size=2, absent=0.2)
    data.connect({modality: expert.transform for modality, expert in module.experts.items()})
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(**{**quiet, **options}, callbacks=[FailsAt(fails_at)])
    trainer.strategy.connect(module)
    if not checkpoint.exists():
        trainer.save_checkpoint(checkpoint)
    with pytest.raises(KeyError) if fails_at >= 0 else contextlib.nullcontext():
        predictions.predict(trainer, module, data, folder / name, checkpoint, settings=settings, limit=limit)
    return folder / name


STORED = """{experts: {image: {init_args: {weights: x}}}, model: {feature_store: runs/features}, trainer: {devices: 1},
    data: {init_args: {on_error: stop, max_quarantined: 0.05}}}"""
QUARANTINE = STORED.replace("stop, max_quarantined: 0.05", "quarantine, max_quarantined: 0.2")


@pytest.mark.parametrize(
    ("before", "settings", "options", "other"),
    [
        (STORED, STORED.replace("devices: 1", "devices: auto"), {}, None),
        (STORED, STORED.replace("runs/features", "elsewhere"), {}, None),
        (STORED, QUARANTINE, {}, None),
        (QUARANTINE, STORED, {}, "data.init_args.on_error"),
        (STORED, STORED, {"limit": 7}, "rows"),
        (STORED, STORED, {"precision": "bf16-mixed"}, "trainer.precision"),
        (STORED, STORED, {"data": Dots(num_pictures=8, batch_size=3, absent=0.2)}, "batch_size"),
        (STORED, STORED, {"data": Dots(num_pictures=8, batch_size=2, absent=0.3)}, "rows"),
        (STORED, STORED.replace("runs/features", "null"), {}, "model.feature_store"),
        (STORED, STORED.replace("weights: x", "weights: y"), {}, "experts.image.init_args.weights"),
    ],
    ids=range(10),
)
def test_only_the_same_job_goes_on(
    tmp_path: Path,
    before: str,
    settings: str,
    options: dict[str, Any],
    other: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = build()
    run(tmp_path, module, settings=before, fails_at=2)
    found = run(tmp_path, module, settings=settings, **options).read_bytes()
    printed = capsys.readouterr().out
    assert ("going on after 4 of 8 rows\n" in printed) == (other is None)
    assert (f"predicting from the beginning: not the same {other} as in " in printed) == (other is not None)
    assert run(tmp_path, module, "expected.parquet", settings=settings, **options).read_bytes() == found


@pytest.mark.parametrize(("batches", "rows"), [(3, 6), (0.8, 6), (9, 8), (0.5, 4), (None, 7)])
def test_a_limit_holds_for_all_goes_together(tmp_path: Path, batches: float | None, rows: int) -> None:
    module = build()
    options = {"limit": 7} if batches is None else {"limit_predict_batches": batches}
    run(tmp_path, module, fails_at=1, **options)
    expected = pq.read_table(run(tmp_path, module, "whole.parquet"))[:rows]
    found = pq.read_table(run(tmp_path, module, **options))
    assert found.select(["id", "modalities"]).equals(expected.select(["id", "modalities"]))


class Pictures(DotPictures):
    """Some that cannot be read, among them both of a batch."""

    def load(self, position: int) -> Image.Image:
        if position in (1, 4, 5):
            raise OSError("it is broken")
        return super().load(position)


class Broken(Dots):
    """Dots that leave broken pictures out."""

    def __init__(self) -> None:
        super().__init__(num_pictures=16, batch_size=4)
        self.quarantine = Quarantine(limit=1)

    def load(self, split: Split) -> PairedRows | None:
        rows = super().load(split)
        if rows is None:
            return None
        pictures = rows.sources["image"]
        assert isinstance(pictures, DotPictures)
        return replace(rows, sources={**rows.sources, "image": Pictures(pictures.colours, size=self.size)})


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_rows_that_are_left_out_are_in_no_file(tmp_path: Path, fails_at: int) -> None:
    module = build()
    expected = run(tmp_path, module, "expected.parquet", data=Broken())
    assert pq.read_table(expected)["id"].to_pylist() == [f"test/{row}" for row in (0, 1, 4, 5, 6, 7, 12, 13, 14, 15)]
    run(tmp_path, module, data=Broken(), fails_at=fails_at)
    assert run(tmp_path, module, data=Broken()).read_bytes() == expected.read_bytes()


class ThreeTasks(Dots):
    """Dots with another two tasks, whose targets are none of ours here."""

    @property
    def outputs(self) -> dict[str, list[str]]:
        return {"answer": ["a, b", 'c"d'], "tags": ["x", "y", "z"], "size": ["width", "height"]}

    def load(self, split: Split) -> PairedRows | None:
        rows = super().load(split)
        return rows and PairedRows(sources=rows.sources, index=rows.index, targets={}, ids=rows.ids)


def three_tasks() -> CrossModalModule:
    heads = {"answer": ClassificationHead, "tags": MultiLabelHead, "size": RegressionHead}
    torch.manual_seed(1)
    return CrossModalModule(
        build().experts,
        ThreeTasks().outputs,
        fusion=lambda names: WorkspaceFusion(names, width=8),
        heads=heads,
        feature_store=None,
    )


def test_a_model_without_heads_predicts_nothing(tmp_path: Path) -> None:
    experts = build().experts
    experts["image"] = ProjectedExpert(experts["image"], width=experts["question"].width)
    alignment = partial(Regression, source="image", target="question")
    module = CrossModalModule(experts, Dots().outputs, alignments=[alignment], feature_store=None)
    with pytest.raises(ValueError, match=r"^model.heads: there is none, .* `crossmodal test` measures .* expert fit`"):
        run(tmp_path, module)
    assert os.listdir(tmp_path) == ["some.ckpt"]


def test_every_kind_of_task(tmp_path: Path) -> None:
    module = three_tasks()
    table = pq.read_table(run(tmp_path, module, data=ThreeTasks(num_pictures=8, batch_size=2)))
    assert table.column_names == [
        "id", "answer/prediction", "tags/prediction", "size/prediction", "modalities",
        "answer/probability/a, b", 'answer/probability/c"d', "tags/probability/x", "tags/probability/y",
        "tags/probability/z", "size/value/width", "size/value/height",
    ]  # fmt: skip
    flat = pa_csv.read_csv(run(tmp_path, module, "p.csv", data=ThreeTasks(num_pictures=8, batch_size=2)))
    assert flat.column_names == table.column_names
    joined = [";".join(tags) for tags in table["tags/prediction"].to_pylist()]
    assert flat["tags/prediction"].to_pylist() == joined
    sizes = [[float(number) for number in text.split(";")] for text in flat["size/prediction"].to_pylist()]
    assert sizes == table["size/prediction"].to_pylist()
    for name in table.column_names[5:]:
        assert np.array_equal(np.float32(flat[name]), table[name].to_numpy())


def test_the_file_cannot_be_put_in_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = build()
    expected = run(tmp_path, module, "expected.parquet").read_bytes()
    (tmp_path / "p.parquet" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        run(tmp_path, module)
    shutil.rmtree(tmp_path / "p.parquet")
    module.forward = None  # type: ignore[method-assign, assignment]  # nothing is left to predict
    assert run(tmp_path, module).read_bytes() == expected
    assert "going on after 8 of 8 rows" in capsys.readouterr().out


def test_nothing_to_predict(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, limit_predict_batches=0)
    with pytest.raises(ValueError, match="limit_predict_batches: 0 leaves nothing to predict"):
        predictions.predict(trainer, build(), Dots(), tmp_path / "p.csv", tmp_path / "some.ckpt")


# The files


def table_of(rows: range) -> pa.Table:
    columns = {
        "id": map(str, rows),
        "tags": [["a", "b"][: row % 3] for row in rows],
        "value": [row / 7 for row in rows],
    }
    types = (pa.string(), pa.list_(pa.string()), pa.float32())
    return pa.table({name: pa.array(cells, of) for (name, cells), of in zip(columns.items(), types, strict=True)})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_bytes_do_not_depend_on_the_parts(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_files, "GROUP_CELLS", 3 * 40)
    found = []
    for size in (100, 30, 7, 1):
        path = tmp_path / f"{size}{suffix}"
        files = PredictionParts(path)
        files.begin({})
        for start in range(0, 100, size):
            rows = range(start, min(100, start + size))
            middle = start + len(rows) // 2
            files.add([table_of(range(start, middle)), table_of(range(middle, rows.stop))], rows.stop)
        files.merge()
        found.append(path.read_bytes())
    assert found == [found[0]] * 4
    if suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            assert [file.metadata.row_group(group).num_rows for group in range(3)] == [40, 40, 20]
            assert file.read().to_pylist() == table_of(range(100)).to_pylist()
    assert sorted(os.listdir(tmp_path)) == sorted(f"{size}{suffix}" for size in (100, 30, 7, 1))


def test_batches_are_counted_and_rows(tmp_path: Path) -> None:
    files = PredictionParts(tmp_path / "p.csv")
    files.begin({"rows": 10})
    files.add([table_of(range(3))], 2)
    files.add([table_of(range(3, 4))], 4)
    files._lock.close()
    again = PredictionParts(tmp_path / "p.csv")
    assert again.job() == {"rows": 10}
    again.go_on()
    assert (again.batches, again.rows) == (4, 4)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    files = PredictionParts(tmp_path / "p.csv")
    files.begin({})
    files.add([table_of(range(3))], 1)
    (path,) = parts(tmp_path, "p.csv")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"\.p\.csv\.parts/00000000-00000001\.parquet is damaged .*remove its folder"):
        files.go_on()


@pytest.mark.parametrize("name", ["p", "p.json", "p.parquet.gz"])
def test_other_kinds_of_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"give a name that ends in \.parquet or \.csv"):
        PredictionParts(tmp_path / name)


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    files = PredictionParts(tmp_path / "p.csv")
    files.begin({})
    with pytest.raises(ValueError, match="not one row could be read"):
        files.merge()
