"""Runs `crossmodal` commands for comparisons, and tells what they took."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
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


class Kept:
    """What was measured, a line each in a file, so that a script that was killed goes on.

    Args:
        path: Of the file, which may not be there yet; a line that was cut by a kill is taken away.
    """

    def __init__(self, path: Path) -> None:
        whole, _, cut = (path.read_text() if path.exists() else "").rpartition("\n")
        if cut:
            path.write_text(f"{whole}\n" if whole else "")
        self._path = path
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def get(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """Return the line that has all of this, if there is one."""
        return next((line for line in self.lines if wanted.items() <= line.items()), None)

    def add(self, line: dict[str, Any]) -> dict[str, Any]:
        """Keep a line; return it."""
        self.lines.append(line)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return line


def spread(shares: Sequence[float]) -> str:
    """Return their mean and deviation, in percent."""
    if not shares:
        return "-"
    deviation = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * statistics.mean(shares):.1f}{deviation}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))
