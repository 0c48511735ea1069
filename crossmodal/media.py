"""Pictures, sounds, tables and examples that a run leaves beside its figures: `media.jsonl`, and files in `media/`.

A line is a JSON object with `step`, `epoch`, `time` (seconds since 1970), `name`, as figures are named, and `kind`:

- `matrix`: `rows`, `columns`, `values`, `row_title`, `column_title`;
- `curve`: `x`, `y`, `weight`, `x_title`, `y_title`, `diagonal`;
- `examples`: `rows`, each with its inputs, what was said of it and what is right.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from crossmodal.whole_files import known, temporary_name

FILE, FOLDER = "media.jsonl", "media"
MOST_PIXELS = 512
MOST_CHARACTERS = 1000
MOST_SECONDS = 30


class MediaLog:
    """Writes a run's media. A run that goes on keeps its lines up to the step of its checkpoint.

    Args:
        folder: The run's.
        first_step: Lines of this step and later ones are written again, so they are dropped.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        self.folder = folder
        self._first_step = first_step
        self._is_open = False

    def add(self, name: str, kind: str, *, step: int, epoch: int, **content: Any) -> dict[str, Any]:
        """Write a line; return it."""
        if not self._is_open:
            self._keep_lines_before(self._first_step)
            self._is_open = True
        line = {"step": step, "epoch": epoch, "time": time.time(), "name": name, "kind": kind, **content}
        with (self.folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(known(line)) + "\n")
        return line

    def keep(self, raw: Any) -> dict[str, Any]:
        """Keep a raw input; return what says where, or what it is."""
        match raw:
            case None:
                return {"kind": "absent"}
            case Image.Image():
                small = raw.convert("RGB")
                small.thumbnail((MOST_PIXELS, MOST_PIXELS))
                stream = io.BytesIO()
                small.save(stream, "PNG")
                return {"kind": "image", "file": self._write(stream.getvalue(), ".png")}
            case str():
                return {"kind": "text", "text": raw[:MOST_CHARACTERS]}
            case (np.ndarray() as samples_TC, int() | np.integer() as rate):
                stream = io.BytesIO()
                first_TC = samples_TC[: MOST_SECONDS * int(rate)]
                soundfile.write(stream, first_TC, int(rate), format="WAV", subtype="PCM_16")
                seconds = len(samples_TC) / rate
                return {
                    "kind": "audio",
                    "file": self._write(stream.getvalue(), ".wav"),
                    "rate": int(rate),
                    "seconds": seconds,
                }
            case dict():
                return {"kind": "table", "cells": {str(key): _plain(value) for key, value in raw.items()}}
            case np.ndarray():
                return {"kind": "other", "text": f"{' x '.join(map(str, raw.shape))} numbers"}
            case list() | tuple():
                return {"kind": "other", "text": f"a sequence of {len(raw)}"}
        return {"kind": "other", "text": type(raw).__name__}

    def _write(self, content: bytes, suffix: str) -> str:
        name = f"{FOLDER}/{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            temporary = temporary_name(path.parent)
            temporary.write_bytes(content)
            temporary.replace(path)
        return name

    def _keep_lines_before(self, step: int) -> None:
        path = self.folder / FILE
        if not path.exists():
            return
        kept = [json.dumps(line) + "\n" for line in read_media(self.folder) if line["step"] < step]
        temporary = temporary_name(path.parent)
        temporary.write_text("".join(kept), encoding="utf-8")
        temporary.replace(path)


def read_media(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run; what was cut off or is no line of ours is left out."""
    path = folder / FILE
    if not os.path.isfile(path):  # also where the folder may not be read
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int) and {"name", "kind"} <= line.keys():
                yield line


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
