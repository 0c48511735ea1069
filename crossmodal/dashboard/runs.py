"""Runs as a dashboard finds them: each folder's state, figures and faults. Nothing here imports torch."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmodal.arguments import flattened, read_yaml
from crossmodal.errors import UsageError
from crossmodal.sweep.search import CLAIM

LEFT_OUT = {"features", "media", "checkpoints", "wandb", "gates"}
DEPTH = 5  # of folders in folders
FRESH = 60.0  # seconds, where locks cannot be asked


@dataclass
class FoundRun:
    """What a run's folder says.

    Args:
        path: The folder.
        name: As it is below the folder of all runs.
        changed: When a file of it last did, in seconds since 1970.
        status: `training`, `finished`, `stopped` (it was killed, or interrupted) or `damaged`.
        config: The configuration, flat; empty where it cannot be read.
        figures: Of `metrics.json`.
        faults: What is wrong with its files.
    """

    path: Path
    name: str
    changed: float
    status: str
    config: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its name, and that it is damaged."""
        return f"{self.name} (damaged)" if self.status == "damaged" else self.name


def run_folders(runs: Path) -> list[tuple[float, Path]]:
    """Return when each run's folder changed, and the folder, the newest first.

    A run is a folder whose name is a number; a sweep's trial is one as soon as it has begun.
    """
    found = [(_changed(path), path) for path in _folders(runs, DEPTH) if path.name.isdecimal() and _has_begun(path)]
    return sorted(found, reverse=True)


def _folders(folder: Path, depth: int) -> Iterator[Path]:
    try:
        inside = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and entry.name not in LEFT_OUT)
    except OSError:  # such as one that may not be read: it is listed itself, if it is a run
        return
    for path in map(Path, inside):
        yield path
        if depth > 1 and not path.name.isdecimal():
            yield from _folders(path, depth - 1)


def _has_begun(path: Path) -> bool:
    return not (path / CLAIM).exists() or any((path / name).exists() for name in ("config.yaml", "metrics.csv"))


def _changed(path: Path) -> float:
    times = [0.0]
    for name in ("metrics.csv", "metrics.json", "config.yaml", "media.jsonl"):
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def look_at(path: Path, runs: Path) -> FoundRun:
    """Return what a run's folder says; whatever is wrong with it is a fault, not an error."""
    faults: list[str] = []
    is_live = is_locked(path / ".lock")
    is_beginning = is_live and not os.path.lexists(path / "config.yaml")  # it is written in a moment
    config = {} if is_beginning else _config(path, faults)
    figures = _figures(path, faults)
    if not (faults or is_live or os.path.isfile(path / "metrics.csv")):
        faults.append("no metrics.csv: it took no step, or is no run")
    status = "training" if is_live else "damaged" if faults else "finished" if figures else "stopped"
    return FoundRun(path, str(path.relative_to(runs)), _changed(path), status, config, figures, faults)


def _config(path: Path, faults: list[str]) -> dict[str, Any]:
    try:
        return dict(flattened(read_yaml(path / "config.yaml")))
    except (UsageError, OSError, RecursionError) as error:
        faults.append(_in_a_line(error))
        return {}


def _figures(path: Path, faults: list[str]) -> dict[str, Any]:
    file = path / "metrics.json"
    try:
        if not file.is_file():
            return {}
        figures = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(figures, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{file} cannot be read: {_in_a_line(error)}")
        return {}
    return figures


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def is_locked(path: Path) -> bool:
    """Return whether a process trains here. To ask takes no lock, so that none that begins is kept out."""
    try:
        if not sys.platform.startswith("linux"):
            return time.time() - _changed(path.parent) < FRESH
        with path.open("rb") as file:
            asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            told: bytes = fcntl.fcntl(file, fcntl.F_GETLK, asked)
            return int(struct.unpack("hhqqi", told)[0]) != fcntl.F_UNLCK
    except OSError:
        return False
