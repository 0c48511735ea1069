"""Trains an experiment over Flower on this machine: a SuperLink and SuperNodes on loopback, each a process of its own.

    bash scripts/flower_loopback.sh [--config FILE] [--nodes 3] [--rounds N] [--timeout 600] [--min-nodes 1]
        [--folder runs/flower] [--KEY VALUE ...]

What else is given is as for `crossmodal replicas fit`. Each node deals itself its part of the training split. All is
stopped again in the end, also on Ctrl-C; `--ckpt_path last` goes on. See docs/replicas.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from crossmodal.errors import without_checkpoint

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "replicas" / "fedavg_dots.yaml"
APP = ROOT / "configs" / "flower"
CONNECTION = "loopback"
START_SECONDS = 60.0
SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",  # seconds after which a message is seen, 1 by default
    "OMP_NUM_THREADS": "1",  # there are many processes
}


class Loopback:
    """A SuperLink and SuperNodes.

    Args:
        folder: For logs, and what nodes keep.
        arguments: Of `crossmodal replicas fit`, that all take.
        programs: The folder of Flower's programs.
    """

    def __init__(self, folder: Path, arguments: Sequence[str], programs: Path = Path(sys.executable).parent) -> None:
        self.folder = folder.absolute()
        self.arguments = [*arguments]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._programs = programs
        self._port = free_port()
        home = Path(self._environment("run")["FLWR_HOME"])
        home.mkdir(parents=True, exist_ok=True)
        self._database = self.folder / "superlink.db"
        for old in self.folder.glob("superlink.db*"):
            old.unlink()
        address = f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{self._port}"\ninsecure = true\n'
        (home / "config.toml").write_text(address)

    def start_superlink(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            SystemExit: It does not.
        """
        options = ("--insecure", "--disable-runtime-dependency-installation", "--port", str(self._port))
        # with a database it knows its nodes again when it is started again
        self._start("superlink", "flower-superlink", *options, "--database", str(self._database))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.processes["superlink"].poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(0.1)
        raise SystemExit(f"flower_loopback: the SuperLink does not start; see {self.folder / 'superlink.log'}")

    def start_node(self, node: int) -> None:
        """Start a SuperNode."""
        told = {
            "node": node,
            "arguments": shlex.join(self.arguments),
            "folder": str(self.folder / f"node_{node}"),
        }
        options = ("--insecure", "--superlink", f"127.0.0.1:{self._port}", "--port", str(free_port()))
        self._start(f"node_{node}", "flower-supernode", *options, "--node-config", toml(told))

    def run(self, further: Sequence[str] = (), *, timeout: float, min_nodes: int) -> subprocess.Popen[str]:
        """Begin a run; return the process that prints what it prints, and ends when it does.

        Args:
            further: Arguments of the server alone.
            timeout: Seconds, in a round.
            min_nodes: That must be there.
        """
        told = {"arguments": shlex.join([*self.arguments, *further]), "timeout": timeout, "min-nodes": min_nodes}
        return subprocess.Popen(
            [self._programs / "flwr", "run", APP, CONNECTION, "--stream", "--run-config", toml(told)],
            env=self._environment("run"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """Stop `superlink`, or `node_0` and so on, with all that it has started; after a while by force."""
        process = self.processes.pop(name)
        for sent in (number, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)

    def stop_all(self) -> None:
        """Stop the nodes, then the SuperLink."""
        for name in sorted(self.processes):
            self.stop(name)

    def _environment(self, name: str) -> dict[str, str]:
        path = f"{self._programs}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **SETTINGS, "PATH": path, "FLWR_HOME": str(self.folder / "flwr" / name)}

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(
                [str(self._programs / command[0]), *command[1:]],
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C comes to this script alone, which stops all in order
            )


def toml(values: dict[str, object]) -> str:
    """Return values as Flower's options take them."""
    return " ".join(f"{key}={json.dumps(value)}" for key, value in values.items())


def free_port() -> int:
    """Return a port of loopback that nobody listens at now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def train(loopback: Loopback, nodes: int, further: Sequence[str], *, timeout: float, min_nodes: int) -> int:
    """Start all, train, and stop all; return the exit status."""
    has_figures = False
    running = None
    try:
        loopback.start_superlink()
        for node in range(nodes):
            loopback.start_node(node)
        running = loopback.run(further, timeout=timeout, min_nodes=min_nodes)
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            has_figures = has_figures or line.startswith("figures: ")
    finally:
        if running is not None:
            running.kill()
            running.wait()
        loopback.stop_all()
    if not has_figures:
        print(f"flower_loopback: no figures; logs are in {loopback.folder}", file=sys.stderr)
    return 0 if has_figures else 1


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="by default as the configuration says")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds, in a round")
    parser.add_argument("--min-nodes", type=int, default=1, help="that must be there")
    parser.add_argument("--folder", type=Path, default=Path("runs/flower"))
    options, further = parser.parse_known_args()
    if not (Path(sys.executable).parent / "flower-superlink").exists():
        print("flower_loopback: Flower is not in this environment; use scripts/flower_loopback.sh", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _end)
    rounds = [] if options.rounds is None else ["--trainer.max_epochs", str(options.rounds)]
    further, checkpoint = without_checkpoint(further)
    arguments = ["--config", str(options.config.absolute()), "--replicas.nodes", str(options.nodes), *rounds, *further]
    goes_on = [] if checkpoint is None else ["--ckpt_path", checkpoint]
    loopback = Loopback(options.folder, arguments)
    try:
        return train(loopback, options.nodes, goes_on, timeout=options.timeout, min_nodes=options.min_nodes)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
