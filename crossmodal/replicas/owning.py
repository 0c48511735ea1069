"""A node's process, and the one that it is for. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path


def is_alive(process: int) -> bool:
    """Return whether a process runs; one that has ended and was not asked for how does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def socket_of(folder: Path, owner: int) -> Path:
    """Return where a node's process is asked.

    Args:
        folder: Of the node.
        owner: The process that it is for: of one that is restarted another process is asked.
    """
    return folder / f"{owner}.socket"
