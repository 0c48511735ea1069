"""What a run logs by default, and that looking on changes nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crossmodal.media import read_media
from crossmodal.metrics_file import read_history
from tests.conftest import ROOT, Zygote
from tests.mixed import experiment as mixed_experiment
from tests.mixed import write_manifest


def dots(folder: Path, name: str, **trainer: Any) -> None:
    experiment: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    experiment["trainer"] |= {"max_epochs": 3, "logger": False, **trainer}
    experiment["data"]["init_args"] |= {"num_pictures": 64, "batch_size": 16, "absent": 0.0}
    experiment["model"]["meta_learner"] = {"class_path": "crossmodal.meta_learner.MetaLearner"}
    experiment["model"]["modality_dropout"] = 0.2
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**experiment, "name": name}))


@pytest.fixture(scope="module")
def folder(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("observed")
    dots(folder, "dots")
    for observe in ("true", "false"):
        status, output = crossmodal.run("fit", "--config", "dots.yaml", "--observe", observe, cwd=folder)
        assert status == 0, output
    return folder


def test_looking_on_changes_no_bit(folder: Path) -> None:
    last = [torch.load(folder / f"runs/dots/{run}/checkpoints/last.ckpt", weights_only=True) for run in (0, 1)]
    states = [one["state_dict"] for one in last]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with_it, without = (read_history(folder / f"runs/dots/{run}/metrics.csv") for run in (0, 1))
    own = without.keys() - {"train/waiting"}
    assert {name: with_it[name] for name in own} == {name: without[name] for name in own}
    assert not (folder / "runs/dots/1/media.jsonl").exists()


def test_what_is_logged(folder: Path) -> None:
    history = read_history(folder / "runs/dots/0/metrics.csv")
    wanted = {
        *("train/lr", "train/steps_per_second", "train/rows_per_second", "memory/process_mib"),
        *("train/gradient_norm", "train/gradient_norm/image", "train/gradient_norm/question"),
        *("val/calibration_error", "val/recall/red", "val/weight_entropy", "val/load/fusion"),
        *("val/accuracy/by/image", "val/accuracy/by/question", "val/accuracy/by/image+question"),
        *("val/rank/image", "val/rank/question", "val/rank/workspace"),
        *("features/encoded/image", "features/reused/question"),
    }
    assert wanted <= history.keys()
    assert len(history["val/calibration_error"]) == 3  # after each epoch
    assert len(history["val/rank/workspace"]) == 3  # after the first, the second, and the last
    steps = [step for step, _ in history["val/loss"]]  # the best checkpoint's, after training, adds no point
    assert [step for step, _ in history["val/calibration_error"]] == steps
    everything = history["train/gradient_norm"][0][1]
    parts = [history[f"train/gradient_norm/{name}"][0][1] for name in ("image", "question")]
    assert all(0 < part < everything for part in parts)
    recalls = [of[-1][1] for name, of in history.items() if name.startswith("val/recall/")]
    assert all(0 <= recall <= 1 for recall in recalls)


def test_media(folder: Path) -> None:
    run = folder / "runs/dots/0"
    lines = list(read_media(run))
    told = [line["name"] for line in lines]
    assert {name: told.count(name) for name in told} == {
        "val/calibration": 3,
        "val/confusion": 3,
        "val/workspace": 3,
        "val/examples": 3,
    }
    by_name = {line["name"]: line for line in lines}
    accuracy = read_history(run / "metrics.csv")["val/accuracy"][2][1]
    counts = torch.tensor(by_name["val/confusion"]["values"])
    assert float(counts.diag().sum() / counts.sum()) == pytest.approx(accuracy)
    assert sum(by_name["val/calibration"]["weight"]) == int(counts.sum())
    rows = by_name["val/examples"]["rows"]
    assert len(rows) == 8
    assert len({row["target"] for row in rows}) == 4
    for row in rows:
        assert (run / row["inputs"]["image"]["file"]).is_file()
        assert row["inputs"]["question"]["text"].startswith("what colour")
        assert row["right"] is (row["prediction"] == row["target"])
        assert set(row["experts"]) == {"image", "question", "fusion"}
        assert 0 <= row["disagreement"] <= 1
    first = next(line["rows"] for line in lines if line["name"] == "val/examples")
    assert [row["id"] for row in first] == [row["id"] for row in rows]  # the same, so that one sees them learned


def test_a_run_that_was_killed_goes_on_without_a_line_twice(crossmodal: Zygote, tmp_path: Path) -> None:
    dots(tmp_path, "killed", max_epochs=60)
    running = crossmodal.start("fit", "--config", "killed.yaml", cwd=tmp_path)
    path = tmp_path / "runs/killed/0/media.jsonl"
    until = time.monotonic() + 60
    while not (path.exists() and path.read_text().count("val/confusion") >= 3):
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait()[0] == -signal.SIGKILL
    before = read_history(tmp_path / "runs/killed/0/metrics.csv")
    assert len(before["val/loss"]) >= 2  # what was logged a second ago is in the file
    arguments = ("--ckpt_path", "last", "--trainer.max_epochs", 8)
    status, output = crossmodal.run("fit", "--config", "killed.yaml", *arguments, cwd=tmp_path)
    assert status == 0, output
    lines = list(read_media(tmp_path / "runs/killed/0"))
    told = [(line["name"], line["step"]) for line in lines]
    assert len(told) == len(set(told))
    assert sorted(told, key=lambda one: one[1]) == told
    history = read_history(tmp_path / "runs/killed/0/metrics.csv")
    steps = [step for step, _ in history["val/calibration_error"]]
    assert len(steps) == len(set(steps))


def test_quantities_sounds_and_several_tasks(crossmodal: Zygote, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, num_rows=80, missing=0.2)
    header, *lines = manifest.read_text().splitlines()
    tags = ["big;red", "red", "", "big"]
    lines = [f"{line},{row % 7},{tags[row % 4]}" for row, line in enumerate(lines)]
    manifest.write_text("\n".join([f"{header},size,tags", *lines]))
    experiment = mixed_experiment(manifest, "ConcatFusion", epochs=1)
    for name in ("image", "note"):
        del experiment["experts"][name], experiment["data"]["init_args"]["modalities"][name]
    experiment["data"]["init_args"]["targets"] |= {
        "size": {"type": "number", "column": "size"},
        "tags": {"type": "labels", "column": "tags"},
    }
    experiment["data"]["init_args"]["split"] = {"val": 0.3, "test": 0.2}
    experiment["model"]["heads"]["size"] = {"class_path": "crossmodal.heads.RegressionHead"}
    experiment["model"]["heads"]["tags"] = {"class_path": "crossmodal.heads.MultiLabelHead"}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({**experiment, "name": "mixed"}))
    status, output = crossmodal.run("fit", "--config", "mixed.yaml", cwd=tmp_path)
    assert status == 0, output
    history = read_history(tmp_path / "runs/mixed/0/metrics.csv")
    assert {"val/shape/calibration_error", "val/size/mae/by/speech", "val/rank/workspace"} <= history.keys()
    lines_by_name = {line["name"]: line for line in read_media(tmp_path / "runs/mixed/0")}
    assert {"val/shape/confusion", "val/shape/calibration", "val/examples"} <= lines_by_name.keys()
    assert "val/size/confusion" not in lines_by_name
    rows = lines_by_name["val/examples"]["rows"]
    assert {row["task"] for row in rows} == {"shape", "size", "tags"}
    assert {"val/tags/recall/big", "val/tags/recall/red", "val/tags/calibration_error"} <= history.keys()
    assert {"val/tags/calibration"} <= lines_by_name.keys()
    kinds = {kept["kind"] for row in rows for kept in row["inputs"].values()}
    assert {"audio", "table", "absent"} <= kinds
    assert all(row["right"] is None for row in rows if row["task"] == "size")
    json.dumps(rows, allow_nan=False)


def test_with_a_selector_and_without_a_validation_split(crossmodal: Zygote, tmp_path: Path) -> None:
    dots(tmp_path, "chosen", max_epochs=2)
    experiment = yaml.safe_load((tmp_path / "chosen.yaml").read_text())
    selector = {"class_path": "crossmodal.selector.Selector", "init_args": {"first": ["question"], "budget": 0.9}}
    experiment["model"]["selector"] = selector
    (tmp_path / "chosen.yaml").write_text(yaml.safe_dump(experiment))
    status, output = crossmodal.run("fit", "--config", "chosen.yaml", cwd=tmp_path)
    assert status == 0, output
    history = read_history(tmp_path / "runs/chosen/0/metrics.csv")
    assert {"val/accuracy/by/image", "val/accuracy/by/image+question", "val/rank/image"} <= history.keys()
    experiment["trainer"] |= {"limit_val_batches": 0, "callbacks": []}
    (tmp_path / "chosen.yaml").write_text(yaml.safe_dump({**experiment, "name": "unseen"}))
    status, output = crossmodal.run("fit", "--config", "chosen.yaml", cwd=tmp_path)
    assert status == 0, output
    history = read_history(tmp_path / "runs/unseen/0/metrics.csv")
    assert "train/gradient_norm" in history
    assert not [name for name in history if name.startswith("val/")]


def test_a_run_that_ends_early_is_looked_at_when_it_ends(crossmodal: Zygote, tmp_path: Path) -> None:
    stop = {"class_path": "pytorch_lightning.callbacks.EarlyStopping"}
    stop["init_args"] = {"monitor": "val/loss", "patience": 0, "min_delta": 1e9}  # type: ignore[assignment]
    for name, trainer in {"steps": {"max_steps": 24, "max_epochs": -1}, "early": {"max_epochs": 9}}.items():
        dots(tmp_path, name, **trainer)
        experiment = yaml.safe_load((tmp_path / f"{name}.yaml").read_text())
        if name == "early":
            stop["init_args"]["patience"] = 2  # type: ignore[index]
            experiment["trainer"]["callbacks"] = [stop]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(experiment))
        status, output = crossmodal.run("fit", "--config", f"{name}.yaml", cwd=tmp_path)
        assert status == 0, output
        history = read_history(tmp_path / f"runs/{name}/0/metrics.csv")
        assert len(history["val/loss"]) == 3, name
        looked = [step for step, _ in history["val/rank/workspace"]]
        assert looked == [step for step, _ in history["val/loss"]], name  # the first, the second, and the last


def test_rows_of_one_name_show_no_inputs(crossmodal: Zygote, tmp_path: Path) -> None:
    """Nobody knows which of them it is."""
    manifest = write_manifest(tmp_path, num_rows=60, missing=0.0)
    header, *lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{header},name", *(f"{line},{row // 2}" for row, line in enumerate(lines))]))
    experiment = mixed_experiment(manifest, "ConcatFusion", epochs=1)
    experiment["data"]["init_args"] |= {"id": "name", "split": {"val": 0.5}}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({**experiment, "name": "mixed"}))
    status, output = crossmodal.run("fit", "--config", "mixed.yaml", cwd=tmp_path)
    assert status == 0, output
    examples = [line["rows"] for line in read_media(tmp_path / "runs/mixed/0") if line["name"] == "val/examples"]
    rows = [row for of in examples for row in of]
    assert rows
    assert any(not row["inputs"] for row in rows)
