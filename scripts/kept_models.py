"""The models of `compare_fusion.py`, trained once and kept, for scripts that look into one."""

from __future__ import annotations

from pathlib import Path

import torch
from compare_fusion import build, train
from token_rows import TokenRows

from crossmodal.module import CrossModalModule


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
