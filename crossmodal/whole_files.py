"""Files that are there whole or not at all. Imports nothing heavy."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ABANDONED_SECONDS = 3600  # what is written so is written in seconds


def temporary_name(folder: Path) -> Path:
    """Return a name for a file that is being written, which tells whose it is."""
    return folder / f".{socket.gethostname()}+{os.getpid()}+{time.monotonic_ns()}.tmp"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all; null for what is not finite."""
    write_text(path, json.dumps(known(value), indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: what was there stays until all is written, also where the disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path.parent)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Delete what a killed process of this machine left half-written.

    Containers may share a machine's name but not its process numbers, so that what is young is left alone.
    """
    prefix = f".{socket.gethostname()}+"  # no host's name has a plus
    for path in folder.glob(f"{prefix}*.tmp"):
        pid = int(path.name.removeprefix(prefix).split("+")[0])
        try:
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                os.kill(pid, 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (PermissionError, FileNotFoundError):
            continue


def known(value: Any) -> Any:
    """Return figures, however deep they lie, as JSON can have them: None for what is not finite."""
    if isinstance(value, Mapping):
        return {name: known(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [known(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
