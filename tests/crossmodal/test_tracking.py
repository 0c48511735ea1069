"""wandb as a user has it: offline, without a network, over a kill; and `--track`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from crossmodal.run_folder import RunFolder
from crossmodal.run_logger import RunLogger
from crossmodal.tracking import Track, loggers
from tests.conftest import ROOT, Zygote


def found(tmp_path: Path, given: list[Any], track: Track | None = None) -> list[Any]:
    return loggers(given, RunFolder(tmp_path), name="dots", first_step=0, track=track, about={"seed": 1})


@pytest.mark.parametrize(
    ("track", "environment", "offline", "mode"),
    [
        (None, None, True, "offline"),
        (None, None, False, "online"),
        (None, "online", True, "online"),
        (None, "dryrun", False, "offline"),
        (None, "disabled", False, None),
        ("offline", "online", False, "offline"),
        ("online", "disabled", True, "online"),
        ("disabled", "online", False, None),
    ],
)
def test_the_option_wins_over_the_environment_and_that_over_the_logger(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    track: Track | None,
    environment: str | None,
    offline: bool,
    mode: str | None,
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    given = WandbLogger(project="x", offline=offline)
    if environment is not None:
        monkeypatch.setenv("WANDB_MODE", environment)
    first, *others = found(tmp_path, [given], track)
    assert isinstance(first, RunLogger)
    assert [one._wandb_init["mode"] for one in others] == ([] if mode is None else [mode])


@pytest.mark.parametrize(("own", "mode"), [("offline", "offline"), ("disabled", None), ("online", "online")])
def test_a_mode_of_the_logger_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, mode: str | None
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    _, *others = found(tmp_path, [WandbLogger(project="x", mode=own)])
    assert [one._wandb_init["mode"] for one in others] == ([] if mode is None else [mode])


def test_a_mode_that_there_is_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = WandbLogger(offline=True)
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ValueError, match="WANDB_MODE: expected online, offline, disabled, found 'sometimes'"):
        found(tmp_path, [given])


def test_a_run_has_one_id_and_what_it_was_trained_with(tmp_path: Path) -> None:
    ids = set()
    for _ in range(2):
        _, one = found(tmp_path, [WandbLogger(offline=True, group="g", tags=["t"], notes="n")])
        settings = one._wandb_init
        ids.add(settings["id"])
        assert settings["resume"] == "allow"
        assert (settings["group"], settings["tags"], settings["notes"]) == ("g", ["t"], "n")
        assert settings["config"] == {"seed": 1}
        assert settings["dir"] == str(tmp_path)
    assert len(ids) == 1
    (tmp_path / "wandb.json").write_text('{"i')
    assert found(tmp_path, [WandbLogger(offline=True)])[1]._wandb_init["id"] not in ids


def test_the_agent_of_a_sweep_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    (_, logger) = found(tmp_path, [WandbLogger(project="x", mode="offline")])
    assert "id" not in logger._wandb_init
    assert not list(tmp_path.rglob("wandb.json"))


def test_an_id_of_ones_own_and_other_loggers_stay(tmp_path: Path) -> None:
    other = CSVLogger(str(tmp_path))
    _, one, two = found(tmp_path, [WandbLogger(offline=True, id="mine"), other])
    assert one._wandb_init["id"] == "mine"
    assert two is other


@pytest.mark.parametrize(("track", "number"), [("offline", 2), ("disabled", 1), (None, 1)])
def test_an_experiment_without_wandb_has_it_if_it_is_asked_for(
    tmp_path: Path, track: Track | None, number: int
) -> None:
    assert len(found(tmp_path, [], track)) == number


def dots(folder: Path, **trainer: Any) -> None:
    experiment: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    experiment["trainer"] |= {"max_epochs": 2, "log_every_n_steps": 1, **trainer}
    experiment["data"]["init_args"] |= {"num_pictures": 64, "batch_size": 16}
    (folder / "dots.yaml").write_text(yaml.safe_dump(experiment))


def records(run: Path) -> list[dict[str, Any]]:
    """Read what wandb has written of a run, as a user does."""
    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def history(run: Path) -> list[dict[str, Any]]:
    return [record["history"]["item"] for record in records(run) if record["type"] == "history"]


def test_a_run_that_was_killed_leaves_a_record_that_can_be_read(crossmodal: Zygote, tmp_path: Path) -> None:
    dots(tmp_path, max_epochs=100)
    running = crossmodal.start("fit", "--config", "dots.yaml", cwd=tmp_path)
    run = tmp_path / "runs/dots/0"
    until = time.monotonic() + 60
    while not (run / "metrics.csv").exists() or (run / "metrics.csv").read_text().count("\n") < 60:
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)  # wandb's own process, too
    running.wait()
    steps = [item["trainer/global_step"] for item in history(run) if "train/loss" in item]
    written = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    last = max(int(line[written[0].index("step")]) for line in written[1:])
    assert steps == sorted(set(steps))
    assert last - steps[-1] <= 20
    config = next(record["run"]["config"]["update"] for record in records(run) if record["type"] == "run")
    assert config["experts"]["image"]["class_path"] == "experts.image.ImageExpert"
    assert set(config["environment"]["versions"]) >= {"torch", "timm", "transformers", "crossmodal"}
    (first,) = run.glob("wandb/offline-run-*")
    status, output = crossmodal.run(
        "fit", "--config", "dots.yaml", "--ckpt_path", "last", "--trainer.max_epochs", 3, cwd=tmp_path
    )
    assert status == 0, output
    identity = json.loads((run / "wandb.json").read_text())["id"]
    both = sorted(run.glob("wandb/offline-run-*"))
    assert first in both
    assert len(both) == 2
    assert all(path.name.endswith(f"-{identity}") for path in both)


NETWORK = """
import subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
done = subprocess.run(sys.argv[1:])
names, values = (line.split() for line in open("/proc/net/snmp") if line.startswith("Ip:"))
six = dict(line.split() for line in open("/proc/net/snmp6"))
print("tried to leave:", int(dict(zip(names, values))["OutNoRoutes"]) + int(six["Ip6OutNoRoutes"]))
sys.exit(done.returncode)
"""


def apart(*command: object, cwd: Path) -> str:
    """Run a command where there is no network, in a namespace of its own that counts what its processes try."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not (name.startswith("WANDB") or name.lower().endswith("_proxy"))
    }
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "0"}
    full = ["unshare", "-rn", sys.executable, "-c", NETWORK, *map(str, command)]
    done = subprocess.run(full, cwd=cwd, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("unshare") and shutil.which("ip")), reason="namespaces are Linux's")
def test_nothing_leaves_the_machine(tmp_path: Path) -> None:
    tries = ["create_connection(('192.0.2.1', 443), 1)", "socket(type=SOCK_DGRAM).sendto(b'?', ('192.0.2.1', 53))"]
    servers = re.findall(r"^nameserver\s+(\S+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)
    if servers and not any(one.startswith("127.") for one in servers):
        tries.append("getaddrinfo('host.example', 443)")
    for one in tries:  # each would be noticed
        reach = f"from socket import *\ntry:\n {one}\nexcept OSError:\n pass"
        assert "tried to leave: 0" not in apart(sys.executable, "-c", reach, cwd=tmp_path), one
    dots(tmp_path)
    for track in ("offline", "disabled"):
        fit = ("-m", "crossmodal", "fit", "--config", "dots.yaml", "--track", track)
        assert "tried to leave: 0" in apart(sys.executable, *fit, cwd=tmp_path)
    assert list(tmp_path.glob("runs/dots/0/wandb/offline-run-*/run-*.wandb"))
    assert not (tmp_path / "runs/dots/1/wandb").exists()


def test_gradients_and_checkpoints_on_request(crossmodal: Zygote, tmp_path: Path) -> None:
    dots(tmp_path)
    experiment = yaml.safe_load((tmp_path / "dots.yaml").read_text())
    experiment["trainer"]["callbacks"] += [
        {"class_path": "crossmodal.tracking.Watch", "init_args": {"every": 2}},
        {"class_path": "crossmodal.tracking.LogCheckpoints"},
    ]
    (tmp_path / "dots.yaml").write_text(yaml.safe_dump(experiment))
    status, output = crossmodal.run("fit", "--config", "dots.yaml", cwd=tmp_path)
    assert status == 0, output
    run = tmp_path / "runs/dots/0"
    assert any(key.startswith("gradients/") for item in history(run) for key in item)
    artifacts = [record["artifact"] for record in records(run) if record["type"] == "artifact"]
    (model,) = (artifact for artifact in artifacts if artifact["type"] == "model")
    assert {entry["path"] for entry in model["manifest"]["contents"]} == {"best.ckpt", "last.ckpt"}
    summary: dict[str, Any] = {}
    for record in records(run):
        if record["type"] == "summary":
            summary |= record["summary"]["update"]
    figures = json.loads((run / "metrics.json").read_text())
    assert summary["best/val/accuracy"] == figures["val/accuracy"]
    assert summary["test/accuracy"] == figures["test/accuracy"]


def test_the_folder_of_an_expert_is_an_artifact(crossmodal: Zygote, tmp_path: Path) -> None:
    dots(tmp_path)
    experiment = yaml.safe_load((tmp_path / "dots.yaml").read_text())
    experiment["experts"] = {"image": {"class_path": "experts.image.ImageExpert", "init_args": {
        "model": "test_efficientnet", "pretrained": False, "image_size": 32, "freeze": False}}}  # fmt: skip
    experiment["data"]["init_args"]["absent"] = 0.0
    experiment["trainer"]["callbacks"] = [{"class_path": "crossmodal.tracking.LogCheckpoints"}]
    (tmp_path / "dots.yaml").write_text(yaml.safe_dump(experiment))
    status, output = crossmodal.run("expert", "fit", "--config", "dots.yaml", cwd=tmp_path)
    assert status == 0, output
    (run,) = tmp_path.glob("runs/**/0")
    artifacts = {one["artifact"]["type"]: one["artifact"] for one in records(run) if one["type"] == "artifact"}
    paths = {entry["path"] for entry in artifacts["expert"]["manifest"]["contents"]}
    assert {"expert.yaml", "model.safetensors"} <= paths
