from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from hypothesis import settings

# with more threads torch's small operations wait on each other as soon as another process is busy
os.environ.setdefault("OMP_NUM_THREADS", "1")
# a shell lets what it starts in the background ignore Ctrl-C, and so what that starts
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
# every run draws the same examples, however slow the machine
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")
OFFLINE = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "HTTPS_PROXY": "http://127.0.0.1:9", "COLUMNS": "200"}


@dataclass
class Running:
    """A started command."""

    zygote: Zygote
    pid: int
    output: Path

    def wait(self) -> tuple[int, str]:
        """Return the exit status (negative: killed by that signal) and what was printed."""
        status = int(self.zygote.ask({"do": "wait", "pid": self.pid}))
        return status, self.output.read_text()


class Zygote:
    """Starts `crossmodal` commands in processes of their own, without the seconds of importing."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "tests" / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **OFFLINE},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.count = 0

    def ask(self, request: dict[str, object]) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def start(self, *arguments: object, cwd: Path, **env: str) -> Running:
        self.count += 1
        output = cwd / f"output-{self.count}.txt"
        request = {
            "do": "start",
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd),
            "env": env,
            "output": str(output),
        }
        return Running(self, int(self.ask(request)), output)

    def run(self, *arguments: object, cwd: Path, **env: str) -> tuple[int, str]:
        return self.start(*arguments, cwd=cwd, **env).wait()


@pytest.fixture(scope="session")
def crossmodal() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.process.kill()
    zygote.process.wait()


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """One process that has torch imported forks all that a test starts to call a function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "hypothesis", "crossmodal.feature_store", "crossmodal.alignment"])
    return context


@pytest.fixture(scope="session", autouse=True)
def _offline() -> None:
    os.environ.update(OFFLINE)
