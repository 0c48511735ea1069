"""Runs `crossmodal` commands for comparisons, and tells what they took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Done:
    """A command that has ended.

    Args:
        told: What it printed.
        peak: Of its memory, in bytes.
    """

    told: str
    peak: int

    @property
    def run(self) -> Path:
        """The run that it told of."""
        return Path(next(line for line in self.told.splitlines() if line.startswith("run: ")).removeprefix("run: "))

    @property
    def figures(self) -> dict[str, Any]:
        """The run's figures."""
        figures: dict[str, Any] = json.loads((self.run / "metrics.json").read_text())
        return figures


def crossmodal(*arguments: object) -> Done:
    """Run a command.

    Raises:
        SystemExit: It failed.
    """
    command = [sys.executable, "-m", "crossmodal", *map(str, arguments)]
    print("$ crossmodal", *command[3:], flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return Done(told, usage.ru_maxrss * 1024)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
