"""`crossmodal replicas fit`, as a user has it."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest

from crossmodal.media import read_media
from tests.conftest import ROOT, Zygote

CONFIG = ROOT / "configs" / "replicas" / "fedavg_dots.yaml"
SMALL = ("--data.init_args.num_pictures", 48, "--replicas.nodes", 3, "--trainer.max_epochs", 5)
FIT = ("replicas", "fit", "--config", CONFIG, *SMALL)


def figures(folder: Path, number: int = 0) -> dict[str, float]:
    found = json.loads((folder / "runs" / "fedavg_dots" / str(number) / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith("seconds/")}


def losses(run: Path) -> list[str]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]


@pytest.fixture(scope="module")
def trained(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicas")
    status, output = crossmodal.run(*FIT, cwd=folder)
    assert status == 0, output
    assert "round 5/5" in output
    assert "/node_" not in output  # a wall
    return folder


def test_a_run_tells_of_rounds_and_nodes(trained: Path) -> None:
    run = trained / "runs" / "fedavg_dots" / "0"
    content = (run / "metrics.csv").read_text()
    for name in ("train/bytes_up", "train/bytes_down", "train/nodes", "train/loss/node_2", "val/accuracy/node_0"):
        assert name in content
    partition = [line for line in read_media(run) if line["name"] == "replicas/partition"]
    assert len(partition) == 1
    assert partition[0]["rows"] == ["node 0", "node 1", "node 2"]
    assert sum(map(sum, partition[0]["values"])) == 96  # two questions about each picture
    found = figures(trained)
    assert found["epoch"] == found["step"] == 5


def test_the_same_command_gives_the_same_and_fit_is_the_same_command(
    crossmodal: Zygote, trained: Path, tmp_path: Path
) -> None:
    status, output = crossmodal.run("fit", "--config", CONFIG, *SMALL, cwd=tmp_path)
    assert status == 0, output
    assert figures(tmp_path) == figures(trained)
    status, output = crossmodal.run("fit", "--config", CONFIG, *SMALL, "--replicas", "null", cwd=tmp_path)
    assert status == 0, output
    assert "epoch 5/5" in output
    assert figures(tmp_path, 1)["step"] == 30  # one model, with all rows


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(("--replicas.compress", "crossmodal.replicas.compression.EightBits"), marks=pytest.mark.slow),
        pytest.param(("--replicas.method", "crossmodal.replicas.gossip.Gossip"), marks=pytest.mark.slow),
        pytest.param(("--replicas.method", "crossmodal.replicas.split.SplitLearning"), marks=pytest.mark.slow),
        pytest.param(
            (
                *(
                    "--replicas.method",
                    "crossmodal.replicas.handing_on.HandOn",
                    "--replicas.method.begins_anew",
                    "true",
                ),
                *("--replicas.method.policy", "crossmodal.replicas.handing_on.Learned", "--replicas.method.rounds", 2),
            ),
            marks=pytest.mark.slow,
        ),
        ("--replicas.method", "crossmodal.replicas.segmented.Segmented", "--replicas.method.begins", 1),
    ],
)
def test_who_is_killed_goes_on_as_if_nothing_had_been(
    crossmodal: Zygote, tmp_path: Path, method: tuple[str, ...]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    status, output = crossmodal.run(*FIT, *method, cwd=whole)
    assert status == 0, output
    running = crossmodal.start(*FIT, *method, cwd=killed)
    run = killed / "runs" / "fedavg_dots" / "0"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (running.output.exists() and "round 3/5" in running.output.read_text()):
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait()[0] == -signal.SIGKILL
    assert not (run / "metrics.json").exists()
    status, output = crossmodal.run(*FIT, *method, "--ckpt_path", "last", cwd=killed)
    assert status == 0, output
    assert "round 1/5" not in output
    assert "round 5/5" in output
    assert figures(killed) == figures(whole)
    pictures = {line["name"] for line in read_media(run) if line["name"].startswith("replicas/")}
    assert pictures == {line["name"] for line in read_media(whole / "runs/fedavg_dots/0") if line["name"] in pictures}
    assert ("replicas/topology" in pictures) == ("crossmodal.replicas.gossip.Gossip" in method)
    assert ("replicas/segments" in pictures) == ("crossmodal.replicas.segmented.Segmented" in method)
    assert losses(run) == losses(whole / "runs" / "fedavg_dots" / "0")
    assert len(losses(run)) == 5


def test_a_trained_model_is_one_like_any(crossmodal: Zygote, trained: Path) -> None:
    status, output = crossmodal.run("test", "--config", CONFIG, *SMALL[:2], "--ckpt_path", "best", cwd=trained)
    assert status == 0, output
    found = json.loads((trained / "runs" / "fedavg_dots" / "0" / "test.json").read_text())
    assert found["test/accuracy"] == figures(trained)["test/accuracy"]
    status, output = crossmodal.run("report", "runs/fedavg_dots/0", cwd=trained)
    assert status == 0, output


@pytest.mark.parametrize(
    ("arguments", "message", "expected"),
    [
        (("--replicas.nods", 3), "unknown key 'replicas.nods'; did you mean 'nodes'?", 2),
        (("--replicas.nodes", "many"), "replicas.nodes: expected int, found str 'many'", 2),
        (("--replicas.method", "crossmodal.replicas.federated.Federatd"), "no class 'Federatd'", 2),
        (("--replicas.nodes", 0), "replicas.nodes: at least 1, not 0", 1),
        (("--replicas.by", "answr"), "replicas.by: the data has no task 'answr'; it has answer", 1),
        (("--replicas.lacks", "{7: [image]}"), "replicas.lacks: there is no node 7; they are 0 to 2", 1),
        (("--replicas.lacks", "{1: [sound]}"), "replicas.lacks: the data has no modality 'sound'", 1),
        (("--replicas.partition.alpha", 0), "alpha must be above 0, not 0", 1),
        (
            ("--replicas.partition", "crossmodal.replicas.dealing.Own"),
            "replicas.partition: Own is for nodes on other machines",
            1,
        ),
        (("--trainer.accumulate_grad_batches", 2), "replicas train without accumulate_grad_batches", 1),
        (("--replicas", "null"), "replicas: nothing says how replicas train", 1),
    ],
)
def test_mistakes_are_told_in_a_line(
    crossmodal: Zygote, tmp_path: Path, arguments: tuple[object, ...], message: str, expected: int
) -> None:
    status, output = crossmodal.run(*FIT, *arguments, cwd=tmp_path)
    assert message in output
    assert "Traceback" not in output
    assert status == expected
    assert not list(tmp_path.glob("runs/fedavg_dots/*"))


def test_others_say_that_they_train_one_model(crossmodal: Zygote, tmp_path: Path) -> None:
    status, output = crossmodal.run("expert", "fit", "--config", CONFIG, cwd=tmp_path)
    assert status == 2
    assert "replicas: `expert` trains one model; give --replicas null" in output
    status, output = crossmodal.run("replicas", "--help", cwd=tmp_path)
    assert status == 0
    assert output.startswith("usage: crossmodal replicas fit")
    status, output = crossmodal.run("replicas", "train", cwd=tmp_path)
    assert status == 2
    assert "no command 'replicas train'; there is `crossmodal replicas fit`" in output
