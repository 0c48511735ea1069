"""What a run was trained with: versions, machine, code commit and command."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from crossmodal.errors import without_checkpoint

PACKAGES = ("crossmodal", "torch", "pytorch-lightning", "timm", "transformers", "torchaudio", "numpy")


def environment(*, begins: bool) -> dict[str, Any]:
    """Return it, as JSON.

    The command is the one that begins the run, without the checkpoint of its own that it went on from. The commit is
    that of the repository that the command runs in, if it is one, with `+` where files differ from it.

    Args:
        begins: The run, perhaps with the weights of another; else it goes on from a checkpoint of its own.
    """
    arguments = sys.argv[1:] if begins else without_checkpoint(sys.argv[1:])[0]
    found: dict[str, Any] = {
        "command": shlex.join(["crossmodal", *arguments]),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    commit = _git("rev-parse", "HEAD")
    return commit and commit + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):  # there is no git, or its disk is slow: the run matters more
        return None
    return done.stdout.strip() if done.returncode == 0 else None
