"""The models of `compare_fusion.py`, trained once and kept, for scripts that look into one."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from compare_fusion import build, train
from token_rows import TokenRows

from crossmodal.console import tame_chatter
from crossmodal.module import CrossModalModule


def begin_quietly() -> None:
    """Use one thread, and leave it to the script to speak."""
    torch.set_num_threads(1)
    tame_chatter()
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)  # that nothing is to be stored


def trained_once(way: str, data: TokenRows, path: Path, *, epochs: int) -> CrossModalModule:
    """Return a model (seed 0), trained now, or before and kept in a file."""
    if path.exists():
        module = build(way, data, 0)
        module.load_state_dict(torch.load(path, weights_only=True))
    else:
        module = train(way, data, 0, epochs)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(module.state_dict(), path)
    return module.eval()
