"""Broken rows in a real `fit`: named and refused, or left out, counted and listed."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.conftest import ROOT, Zygote

BROKEN = (3, 8, 21)  # of the training rows 0 to 29


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty pictures, three of which are broken, and an experiment."""
    rows = []
    for number in range(40):
        noise = np.random.default_rng(number).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        rows.append(
            {
                "photo": f"{number}.png",
                "question": ("what?", "why?")[number % 2],
                "label": "ab"[number % 2],
                "split": "train" if number < 30 else "val" if number < 35 else "test",
            }
        )
    for number in BROKEN:
        (tmp_path / f"{number}.png").write_bytes(b"broken")
    with (tmp_path / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    config = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    config["data"] = {
        "class_path": "datamodules.manifest.Manifest",
        "init_args": {
            "train": "data.csv",
            "split": {"column": "split"},
            "modalities": {
                "image": {"type": "image", "column": "photo"},
                "question": {"type": "text", "column": "question"},
            },
            "targets": {"label": {"type": "class", "column": "label"}},
            "batch_size": 8,
        },
    }
    config["name"] = "broken"
    config["model"]["heads"] = {"label": config["model"]["heads"].pop("answer")}
    config["trainer"] |= {"max_epochs": 2, "logger": False}
    (tmp_path / "crossmodal.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


TRAINED = ("--experts.image.init_args.freeze", "false")
WORKERS = ("--data.init_args.num_workers", "2")
LENIENT = ("--data.init_args.on_error", "quarantine", "--data.init_args.max_quarantined", "0.1")


@pytest.mark.parametrize("options", [(), TRAINED, (*TRAINED, *WORKERS)], ids=["stored", "trained", "workers"])
def test_stops_with_one_message(crossmodal: Zygote, folder: Path, options: tuple[str, ...]) -> None:
    status, output = crossmodal.run("fit", *options, cwd=folder)  # crossmodal.yaml is taken where no file is given
    assert status == 1, output
    assert "Traceback" not in output
    (error,) = [line for line in output.splitlines() if line.startswith("crossmodal: error")]
    assert "cannot read data.csv:" in error
    assert "column 'photo'" in error
    assert "is no picture that Pillow knows" in error
    assert "data.init_args.on_error: quarantine leaves them out" in output


@pytest.mark.parametrize("options", [(), TRAINED, (*TRAINED, *WORKERS)], ids=["stored", "trained", "workers"])
def test_leaves_broken_rows_out(crossmodal: Zygote, folder: Path, options: tuple[str, ...]) -> None:
    status, output = crossmodal.run("fit", *LENIENT, *options, cwd=folder)
    assert status == 0, output
    assert "Traceback" not in output
    assert output.count("quarantined: data.csv:") == 1
    run = folder / "runs" / "broken" / "0"
    listed = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert {(row["row"], row["split"], row["column"], row["value"]) for row in listed} == {
        (f"data.csv:{number + 2}", "train", "photo", f"{number}.png") for number in BROKEN
    }
    assert len(listed) == len(BROKEN)
    assert json.loads((run / "metrics.json").read_text())["quarantined/train"] == 3


def test_another_type_of_column_is_noticed_where_all_tokens_are_stored(crossmodal: Zygote, folder: Path) -> None:
    other = ("--data.init_args.modalities.image.type", "audio")  # the bytes of the files are the same
    for broken in BROKEN:
        (folder / f"{broken}.png").write_bytes((folder / "0.png").read_bytes())
    status, output = crossmodal.run("fit", "--trainer.max_epochs", 1, cwd=folder)
    assert status == 0, output
    for options in ((), LENIENT):
        status, output = crossmodal.run("fit", *other, *options, cwd=folder)
        assert status == 1, output
        (error,) = [line for line in output.splitlines() if line.startswith("crossmodal: error")]
        assert "cannot read data.csv:2" in error
        assert "column 'photo'" in error
        assert "Traceback" not in output


def test_too_many_stop_the_run(crossmodal: Zygote, folder: Path) -> None:
    for options in ((), TRAINED):
        status, output = crossmodal.run("fit", *LENIENT[:3], "0.05", *options, cwd=folder)
        assert status == 1, output
        assert "of the 30 rows of the train split cannot be used, more than" in output
        assert "Traceback" not in output


def test_a_run_that_is_killed_goes_on_to_the_same_end(crossmodal: Zygote, folder: Path) -> None:
    fit = ("fit", *LENIENT, *TRAINED, "--trainer.max_epochs", 12)
    status, output = crossmodal.run(*fit, cwd=folder)
    assert status == 0, output
    last = folder / "runs" / "broken" / "1" / "checkpoints" / "last.ckpt"
    running = crossmodal.start(*fit, cwd=folder)
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait()[0] == -signal.SIGKILL
    status, output = crossmodal.run(*fit, "--ckpt_path", "last", cwd=folder)
    assert status == 0, output
    first, second = (json.loads((folder / "runs" / "broken" / run / "metrics.json").read_text()) for run in "01")
    for name in ("step", "val/loss", "test/loss", "quarantined/train"):
        assert first[name] == second[name]
    lists = [(folder / "runs" / "broken" / run / "quarantine.jsonl").read_text().splitlines() for run in "01"]
    assert sorted(lists[0]) == sorted(lists[1])


def test_mended_inputs_come_back(crossmodal: Zygote, folder: Path) -> None:
    status, output = crossmodal.run("fit", *LENIENT, cwd=folder)
    assert status == 0, output
    for number in BROKEN:
        Image.new("RGB", (32, 32)).save(folder / f"{number}.png")
    status, output = crossmodal.run("fit", *LENIENT, cwd=folder)
    assert status == 0, output
    assert "image: 1 inputs encoded" in output  # three pictures of the same content
    assert "quarantined" not in output


def test_nothing_that_can_be_encoded(crossmodal: Zygote, folder: Path) -> None:
    for number in range(40):
        (folder / f"{number}.png").write_bytes(b"broken")
    status, output = crossmodal.run("fit", *LENIENT, cwd=folder)
    assert status == 1, output
    assert "30 of the 30 rows of the train split cannot be used" in output
    assert "Traceback" not in output


def test_weights_of_classes_are_not_needed_to_predict(crossmodal: Zygote, folder: Path) -> None:
    balanced = (*LENIENT, "--data.init_args.targets.label.weights", "balanced")
    status, output = crossmodal.run("fit", *balanced, cwd=folder)
    assert status == 0, output
    for command in ("test", "predict"):
        status, output = crossmodal.run(command, *balanced, "--ckpt_path", "best", cwd=folder)
        assert status == 0, output


def test_predict_lists_what_it_leaves_out_beside_its_output(crossmodal: Zygote, folder: Path) -> None:
    status, output = crossmodal.run("fit", *LENIENT, cwd=folder)
    assert status == 0, output
    (folder / "new.csv").write_text("photo,question\n1.png,what?\n3.png,what?\ngone.png,why?\n2.png,why?\n")
    lenient = (*LENIENT[:3], "0.5", "--data.init_args.predict", "new.csv")
    for _ in range(2):
        status, output = crossmodal.run("predict", *lenient, "--ckpt_path", "best", "--output", "p.csv", cwd=folder)
        assert status == 0, output
        assert "2 predictions in p.csv; 2 rows are left out" in output
        listed = [json.loads(line)["row"] for line in (folder / "p.csv.quarantine.jsonl").read_text().splitlines()]
        assert sorted(listed) == ["new.csv:3", "new.csv:4"]
    (folder / "new.csv").write_text("photo,question\n1.png,what?\n8.png,what?\n2.png,why?\n")
    status, output = crossmodal.run("predict", *lenient, "--ckpt_path", "best", "--output", "p.csv", cwd=folder)
    assert status == 0, output
    listed = [json.loads(line)["row"] for line in (folder / "p.csv.quarantine.jsonl").read_text().splitlines()]
    assert listed == ["new.csv:3"]
