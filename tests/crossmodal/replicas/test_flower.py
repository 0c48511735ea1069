"""A SuperLink and SuperNodes on loopback, as real processes, some of which are killed.

They run in an environment that has Flower: that of scripts/flower_loopback.sh, or what CROSSMODAL_FLOWER names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, Zygote

sys.path.append(str(ROOT / "scripts"))
from flower_loopback import Loopback

PLACES = (os.environ.get("CROSSMODAL_FLOWER"), ROOT / ".venv-flower", sys.prefix)
FOLDERS = [Path(one) / "bin" for one in PLACES if one]
PROGRAMS = next((one for one in FOLDERS if (one / "flower-superlink").exists()), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAMS is None, reason="no Flower here: scripts/flower_loopback.sh makes .venv-flower"),
]
CONFIG = ROOT / "configs" / "replicas" / "fedavg_dots.yaml"
SMALL = (
    *("--config", str(CONFIG), "--data.init_args.num_pictures", "48", "--replicas.nodes", "3"),
    *("--replicas.compress", "crossmodal.replicas.compression.EightBits", "--trainer.max_epochs", "4"),
)
MINUTES = 240.0  # seconds in which all must have happened


class Printed:
    """What a process prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str) -> None:
        self.wait_until(lambda: text in self.text, f"no {text!r} in")

    def wait_until(self, is_so: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + MINUTES
        while not is_so():
            assert time.monotonic() < deadline, f"{otherwise}\n{self.text}"
            time.sleep(0.1)

    def end(self) -> str:
        self.wait_until(lambda: self.process.poll() is not None, "has not ended")
        return self.text


def figures(folder: Path) -> dict[str, float]:
    found = json.loads((folder / "runs" / "fedavg_dots" / "0" / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith("seconds/")}


def trained(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "runs" / "fedavg_dots" / "0" / "checkpoints" / "last.ckpt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def with_in_command(text: str) -> list[int]:
    """Return the processes that have a text in their command."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def nothing_is_left(folder: Path) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and with_in_command(str(folder)):
        time.sleep(0.2)
    return not with_in_command(str(folder))


@pytest.fixture(scope="module")
def local(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process trains."""
    folder = tmp_path_factory.mktemp("local")
    status, output = crossmodal.run("replicas", "fit", *SMALL, cwd=folder)
    assert status == 0, output
    return folder


@pytest.fixture
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.chdir(tmp_path)
    assert PROGRAMS is not None
    found = Loopback(tmp_path / "flower", SMALL, PROGRAMS)
    yield found
    found.stop_all()


def test_three_nodes_train_what_one_process_trains_and_nothing_is_left_running(local: Path, tmp_path: Path) -> None:
    assert PROGRAMS is not None
    script = [PROGRAMS / "python", ROOT / "scripts" / "flower_loopback.py", "--folder", tmp_path / "flower"]
    done = subprocess.run([*map(str, script), *SMALL], cwd=tmp_path, capture_output=True, text=True, timeout=MINUTES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert figures(tmp_path) == figures(local)
    one, other = trained(tmp_path), trained(local)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(one[name].float(), other[name].float(), rtol=0, atol=1e-5), name
    for node in range(3):
        assert len([*(tmp_path / "flower" / f"node_{node}" / "left").glob("*/3.safetensors")]) == 1
    assert nothing_is_left(tmp_path)


def test_ctrl_c_stops_all(tmp_path: Path) -> None:
    assert PROGRAMS is not None
    script = [PROGRAMS / "python", ROOT / "scripts" / "flower_loopback.py", "--folder", tmp_path / "flower"]
    command = [*map(str, script), *SMALL]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    printed = Printed(running)
    printed.wait_for("node 1 is there")
    assert with_in_command(str(tmp_path))
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    assert "Traceback" not in printed.text
    assert nothing_is_left(tmp_path)


def test_a_round_goes_on_without_a_node_that_is_killed_and_it_comes_back(loopback: Loopback, tmp_path: Path) -> None:
    loopback.arguments += ["--trainer.max_epochs", "12", "--replicas.partition", "crossmodal.replicas.dealing.Own"]
    given = loopback.arguments
    loopback.start_superlink()
    for node in range(3):  # each with other data
        loopback.arguments = [*given, "--data.init_args.num_pictures", str(24 + 12 * node)]
        loopback.start_node(node)
    loopback.arguments = given
    running = Printed(loopback.run(timeout=30, min_nodes=2))
    running.wait_for("round 2/12")
    loopback.stop("node_1", signal.SIGKILL)
    running.wait_for("goes on without node 1")
    loopback.arguments = [*given, "--data.init_args.num_pictures", "36"]
    loopback.start_node(1)
    running.wait_until(lambda: running.text.count("node 1 is there") == 2, "has not come back")
    output = running.end()
    assert "round 12/12" in output, output
    assert "figures: " in output, output
    path = tmp_path / "runs" / "fedavg_dots" / "0" / "metrics.csv"
    counted = [line for line in path.read_text().splitlines() if line]
    place = counted[0].split(",").index("train/nodes")
    nodes = [float(line.split(",")[place]) for line in counted[1:] if line.split(",")[place]]
    assert len(nodes) == 12
    assert nodes[0] == nodes[-1] == 3
    assert 2 in nodes
    loopback.stop_all()
    assert nothing_is_left(tmp_path)


def test_a_superlink_that_is_killed_goes_on_with_the_round_after_the_last(
    local: Path, loopback: Loopback, tmp_path: Path
) -> None:
    loopback.start_superlink()
    for node in range(3):
        loopback.start_node(node)
    running = Printed(loopback.run(timeout=60, min_nodes=3))
    running.wait_for("round 2/4")
    process = loopback.processes["superlink"]
    process.kill()  # alone; what it has started ends by itself
    process.wait()
    running.process.kill()
    time.sleep(5)
    assert not (tmp_path / "runs" / "fedavg_dots" / "0" / "metrics.json").exists()
    loopback.start_superlink()
    output = Printed(loopback.run(["--ckpt_path", "last"], timeout=120, min_nodes=3)).end()
    assert "round 1/4" not in output, output
    assert "round 4/4" in output, output
    assert figures(tmp_path) == figures(local)


def test_too_few_nodes_end_in_one_error(loopback: Loopback, tmp_path: Path) -> None:
    loopback.start_superlink()
    loopback.start_node(0)
    output = Printed(loopback.run(timeout=25, min_nodes=2)).end()
    assert "crossmodal: error: round 1: node 1 (not connected), node 2 (not connected); min-nodes is 2" in output, (
        output
    )
    assert "Traceback" not in output, output
    assert not [*tmp_path.glob("runs/fedavg_dots/*")]


def test_a_site_of_another_configuration_is_told_of(loopback: Loopback, tmp_path: Path) -> None:
    given = loopback.arguments
    loopback.start_superlink()
    for node, further in enumerate(([], ["--replicas.epochs", "1"], ["--replicas.nods", "3"])):
        loopback.arguments = [*given, *further]
        loopback.start_node(node)
    loopback.arguments = given
    output = Printed(loopback.run(timeout=45, min_nodes=2)).end()
    assert "node 1 takes no part: replicas.epochs is 1 there and 2 here" in output, output
    assert "node 2 takes no part: the command line: unknown key 'replicas.nods'; did you mean 'nodes'?" in output, (
        output
    )
    assert (
        "crossmodal: error: round 1: node 1 (replicas.epochs is 1 there and 2 here), node 2 (the command line: unknown"
        in output
    )
    assert "Traceback" not in output + "".join(path.read_text() for path in tmp_path.glob("flower/*.log"))
