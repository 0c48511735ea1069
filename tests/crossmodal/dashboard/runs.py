"""Folders of runs, as `fit` leaves them, and as they should not be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from crossmodal.media import MediaLog


def write_run(path: Path, *, steps: int = 20, finished: bool = True, media: bool = False) -> Path:
    """Write a run's files, but for its checkpoints."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("name: x\nmodel:\n  fusion: {class_path: WorkspaceFusion}\nseed_everything: 1\n")
    lines = [f"0,{step},{1 / (1 + step)},{step / steps if step % 5 == 0 else ''}" for step in range(steps)]
    (path / "metrics.csv").write_text("\n".join(["epoch,step,train/loss,val/accuracy", *lines]) + "\n")
    if finished:
        (path / "metrics.json").write_text(json.dumps({"test/accuracy": 0.75}))
    if media:
        log = MediaLog(path)
        names = ["yes", "no"]
        log.add(
            "val/confusion", "matrix", step=5, epoch=0, rows=names, columns=names, values=[[3, 1], [0, 4]],
            row_title="target", column_title="prediction",
        )  # fmt: skip
        log.add("val/calibration", "curve", step=5, epoch=0, x=[0.5, 0.9], y=[0.4, 1.0], weight=[2, 2])
        sound = (np.sin(np.linspace(0, 3000, 8000)).astype(np.float32), 8000)
        inputs = {"image": log.keep(Image.new("RGB", (40, 40), "teal")), "speech": log.keep(sound)}
        said = {"task": "answer", "target": "yes", "prediction": "no", "right": False, "confidence": 0.9}
        row = {"id": "val/1", "inputs": inputs, **said, "experts": {"image": "yes"}, "disagreement": 0.25}
        log.add("val/examples", "examples", step=5, epoch=0, rows=[row])
    return path


def write_damaged(runs: Path) -> list[str]:
    """Write runs that are damaged, each in another way; return their names."""
    damages: dict[str, dict[str, bytes | None]] = {
        "yaml/0": {"config.yaml": b"name: [x\n  y"},
        "binary/0": {"config.yaml": b"\x89PNG\r\n\x1a\n\0\0\xff", "metrics.csv": bytes(range(256)) * 9},
        "no_config/0": {"config.yaml": None},
        "json/0": {"metrics.json": b'{"test/accuracy": 0.'},
        "older/0": {"metrics.csv": None},
        "empty/0": dict.fromkeys(("config.yaml", "metrics.csv", "metrics.json")),
    }
    for name, files in damages.items():
        path = write_run(runs / name)
        for file, content in files.items():
            if content is None:
                (path / file).unlink()
            else:
                (path / file).write_bytes(content)
    return list(damages)
