"""A run that is killed goes on exactly where it was."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from torch.testing import assert_close

from tests.conftest import ROOT, Zygote
from tests.crossmodal.test_selector_cli import experiment

DOTS = ROOT / "configs" / "dots.yaml"
# 8 steps an epoch, a checkpoint every 5: most checkpoints lie inside an epoch, some at its end
SMALL = ("--data.init_args.num_pictures", 64, "--data.init_args.batch_size", 16)
FIT = ("fit", "--config", DOTS, "--trainer.max_epochs", 6, "--model.modality_dropout", 0.2, *SMALL)


def figures(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "runs" / "dots" / "0" / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith("seconds/")}


@pytest.fixture(scope="module")
def undisturbed(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    status, output = crossmodal.run(*FIT, cwd=folder)
    assert status == 0, output
    return folder


def test_the_same_command_gives_the_same_figures(crossmodal: Zygote, undisturbed: Path, tmp_path: Path) -> None:
    status, output = crossmodal.run(*FIT, cwd=tmp_path)
    assert status == 0, output
    assert figures(tmp_path) == figures(undisturbed)
    status, output = crossmodal.run(*FIT, "--seed_everything", 1, "--name", "other", cwd=tmp_path)
    assert status == 0, output
    other = json.loads((tmp_path / "runs" / "other" / "0" / "metrics.json").read_text())
    assert other["val/loss"] != figures(undisturbed)["val/loss"]


def kill_when(crossmodal: Zygote, folder: Path, moment: object, *more: object) -> bool:
    """Start or continue the run, kill it at the moment; return whether it was killed before its end."""
    running = crossmodal.start(*FIT, *more, cwd=folder)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if moment():  # type: ignore[operator]
            break
        if is_zombie(running.pid):
            break
        time.sleep(0.0005)
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGKILL)
    status, _ = running.wait()
    return status == -signal.SIGKILL


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def goes_on_to_the_same_end(crossmodal: Zygote, folder: Path, undisturbed: Path) -> None:
    status, output = crossmodal.run(*FIT, "--ckpt_path", "last", cwd=folder)
    assert status == 0, output
    assert "Traceback" not in output
    assert figures(folder) == figures(undisturbed)
    assert [path.name for path in (folder / "runs" / "dots").iterdir()] == ["0"]
    assert not list((folder / "runs").rglob(".*.tmp"))
    # a checkpoint is written before its last step's row: whoever is killed between the two loses that row
    there, expected = steps(folder), steps(undisturbed)
    assert there == [row for row in expected if row in there]
    assert len(expected) - len(there) <= 1


def steps(folder: Path) -> list[str]:
    """The training losses that metrics.csv holds, in order."""
    lines = (folder / "runs" / "dots" / "0" / "metrics.csv").read_text().splitlines()
    header = lines[0].split(",")
    rows = [dict(zip(header, line.split(","), strict=True)) for line in lines[1:]]
    return [f"{row['step']} {row['train/loss']}" for row in rows if row["train/loss"]]


def test_killed_while_a_checkpoint_is_written(crossmodal: Zygote, undisturbed: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "runs" / "dots" / "0" / "checkpoints"

    def being_written() -> bool:
        return (checkpoints / "last.ckpt").exists() and any(checkpoints.glob(".last.ckpt.*.tmp"))

    assert kill_when(crossmodal, tmp_path, being_written)
    goes_on_to_the_same_end(crossmodal, tmp_path, undisturbed)


def test_killed_before_anything_was_written(crossmodal: Zygote, undisturbed: Path, tmp_path: Path) -> None:
    assert kill_when(crossmodal, tmp_path, lambda: (tmp_path / "runs" / "dots" / "0").exists())
    goes_on_to_the_same_end(crossmodal, tmp_path, undisturbed)


def test_a_meta_learner_and_its_selector_go_on_inside_an_epoch(crossmodal: Zygote, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for folder in (whole, halves):
        folder.mkdir()
        (folder / "mixture.yaml").write_text(yaml.safe_dump(experiment(first=["image", "question"], budget=0.6)))
    mixture = ("--config", "mixture.yaml")
    status, output = crossmodal.run(*FIT, *mixture, cwd=whole)
    assert status == 0, output
    assert kill_when(crossmodal, halves, last(halves).exists, *mixture)
    expected = torch.load(last(whole), weights_only=True)
    epoch = expected["global_step"] // 2
    assert torch.load(last(halves), weights_only=True)["global_step"] % epoch
    status, output = crossmodal.run(*FIT, *mixture, "--ckpt_path", "last", cwd=halves)
    assert status == 0, output
    found = torch.load(last(halves), weights_only=True)
    for part in ("global_step", "state_dict", "optimizer_states", "lr_schedulers"):
        assert_close(found[part], expected[part], rtol=0, atol=0, equal_nan=True)
    assert found["state_dict"]["model.mixture.selector.price"] != 0
    assert figures(halves) == figures(whole)


def test_a_longer_run_goes_on_learning(crossmodal: Zygote, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    longer = (*FIT[:3], "--trainer.max_epochs", 8, *FIT[5:], "--ckpt_path", "last")
    status, output = crossmodal.run(*longer, cwd=tmp_path)
    assert status == 0, output
    before, after = (torch.load(last(folder), weights_only=True) for folder in (undisturbed, tmp_path))
    assert after["global_step"] == 64  # the end, not the last of every 5 steps
    name = "model.heads.answer.linear.weight"
    assert not torch.equal(before["state_dict"][name], after["state_dict"][name])


def test_a_run_that_is_made_longer_has_no_figures_until_it_ends(
    crossmodal: Zygote, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    written = tmp_path / "runs/dots/0/metrics.json"
    longer = (*FIT[:3], "--trainer.max_epochs", 500, *FIT[5:], "--ckpt_path", "last")
    running = crossmodal.start(*longer, cwd=tmp_path)
    until = time.monotonic() + 60
    while written.exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not written.exists()


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("model.optimizer.init_args.lr", 0.1, "model.optimizer.init_args.lr was 0.003 and now is 0.1"),
        ("model.warmup", 0.5, "model.warmup was 0.05 and now is 0.5"),
        ("model.fusion.init_args.top_k", 1, "model.fusion.init_args.top_k was 4 and now is 1"),
        ("model.heads.answer.init_args.label_smoothing", 0.1, "label_smoothing was 0.0 and now is 0.1"),
        ("data.init_args.batch_size", 32, "data.init_args.batch_size was 16 and now is 32"),
        ("data.init_args.absent", 0.5, "data.init_args.absent was 0.05 and now is 0.5"),
        ("experts.image.init_args.crop_pct", 0.5, "experts.image.init_args.crop_pct was None and now is 0.5"),
        ("trainer.accumulate_grad_batches", 2, "trainer.accumulate_grad_batches was 1 and now is 2"),
        ("trainer.limit_train_batches", 2, "trainer.limit_train_batches was None and now is 2"),
        ("seed_everything", 3, "seed_everything was 0 and now is 3"),
    ],
)
def test_what_a_run_began_with_is_not_changed_in_silence(
    crossmodal: Zygote, undisturbed: Path, tmp_path: Path, key: str, value: object, told: str
) -> None:
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    config = tmp_path / "runs" / "dots" / "0" / "config.yaml"
    before = config.read_text()
    status, output = crossmodal.run(
        *FIT, "--trainer.max_epochs", 8, f"--{key}", value, "--ckpt_path", "last", cwd=tmp_path
    )
    assert status == 1
    assert output.count("crossmodal: error: ") == 1
    assert told in output
    assert "Traceback" not in output
    assert config.read_text() == before


def test_a_new_run_from_another_runs_checkpoint(crossmodal: Zygote, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    other = (*FIT, "--name", "other")
    status, output = crossmodal.run(*other, "--ckpt_path", "runs/dots/0/checkpoints/last.ckpt", cwd=tmp_path)
    assert status == 0, output
    begun = tmp_path / "runs" / "other" / "0" / "checkpoints" / "last.ckpt"
    assert torch.load(begun, weights_only=True)["global_step"] == 48
    status, output = crossmodal.run(*other, "--trainer.max_epochs", 7, "--ckpt_path", "last", cwd=tmp_path)
    assert status == 0, output
    assert "epoch 1/" not in output
    assert torch.load(begun, weights_only=True)["global_step"] == 56


def test_a_run_that_is_being_trained_is_left_alone(crossmodal: Zygote, undisturbed: Path, tmp_path: Path) -> None:
    running = crossmodal.start(*FIT, cwd=tmp_path)
    while not last(tmp_path).exists():
        assert not is_zombie(running.pid)
        time.sleep(0.002)
    os.kill(running.pid, signal.SIGSTOP)
    status, output = crossmodal.run(*FIT, "--ckpt_path", "last", cwd=tmp_path)
    os.kill(running.pid, signal.SIGCONT)
    assert status == 1
    assert "runs/dots/0 is being trained by another process" in output
    status, _ = running.wait()
    assert status == 0
    assert figures(tmp_path) == figures(undisturbed)


@pytest.mark.parametrize("limit", [3, 5])
def test_limited_epochs_resume_exactly(crossmodal: Zygote, tmp_path: Path, limit: int) -> None:
    fit = ("fit", "--config", DOTS, "--trainer.limit_train_batches", limit, "--trainer.logger", "false", *SMALL)
    status, output = crossmodal.run(*fit, "--trainer.max_steps", 6 * limit, "--name", "dots", cwd=tmp_path)
    assert status == 0, output
    whole = figures(tmp_path)
    halves = tmp_path / "halves"
    halves.mkdir()
    running = crossmodal.start(*fit, "--trainer.max_steps", 6 * limit, cwd=halves)
    while not (running.output.exists() and "epoch 3/" in running.output.read_text()) and not is_zombie(running.pid):
        time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGKILL)
    running.wait()
    status, output = crossmodal.run(*fit, "--trainer.max_steps", 6 * limit, "--ckpt_path", "last", cwd=halves)
    assert status == 0, output
    assert figures(halves) == whole


def last(folder: Path) -> Path:
    return folder / "runs" / "dots" / "0" / "checkpoints" / "last.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(9))
def test_killed_at_a_random_moment(crossmodal: Zygote, undisturbed: Path, tmp_path: Path, number: int) -> None:
    started = time.monotonic()
    crossmodal.run(*FIT, "--name", "measure", cwd=tmp_path)
    length = time.monotonic() - started
    moment = time.monotonic() + length * random.Random(number).uniform(0.1, 0.95)
    kill_when(crossmodal, tmp_path, lambda: time.monotonic() > moment)
    goes_on_to_the_same_end(crossmodal, tmp_path, undisturbed)
