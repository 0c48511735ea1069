"""Columns of files: of their paths, or of their bytes. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol

Kind = Literal["image", "audio", "array", "text", "number", "category", "labels", "other", "empty"]

SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
    "audio": (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au"),
    "array": (".npy", ".npz", ".pt"),
}
BEGINNINGS: tuple[tuple[str, Kind], ...] = (  # of a file's bytes
    (r"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF....WEBP|II\*\0|MM\0\*", "image"),
    (r"RIFF....WAVE|fLaC|OggS|ID3|\xff[\xfb\xf3\xf2]", "audio"),
)
SOME = 0.1  # share of the cells
MOST_HEADERS = 20  # of files of arrays and of sound that are read


class Files(Protocol):
    """The files that cells name."""

    def exist(self, path: str) -> bool:
        """Whether there is one; an address counts as one, since nothing is fetched."""

    def array(self, path: str) -> tuple[tuple[int, ...], str | None]:
        """Return the shape of an array in a file, and its key where there are several.

        Raises:
            ValueError: There is none that can be read.
        """

    def sound(self, path: str) -> tuple[int, float]:
        """Return the rate in Hz and the length in seconds of a file of sound.

        Raises:
            ValueError: It cannot be read.
        """


def kind_of_files(paths: list[str]) -> Kind | None:
    """Return what paths name by their endings, or None."""
    ends = [re.sub(r"(://[^?#]*)[?#].*", r"\1", path).rstrip().lower() for path in paths]
    for kind, suffixes in SUFFIXES.items():
        # a path has no line in it; a few cells may be something else
        if sum(end.endswith(suffixes) and "\n" not in end for end in ends) >= max(1, (1 - SOME) * len(ends)):
            return kind
    return None


def files_in(kind: Kind, cells: Sequence[Sequence[str]], files: Files) -> dict[str, Any]:
    """Look at the files that cells name: arguments of a Column."""
    there = [cell for cell in cells if all(map(files.exist, cell))]
    note = f"{len(there):,} of {len(cells):,} sampled cells name existing {kind} files"
    found: dict[str, Any] = {"kind": kind, "is_file": True, "existing": len(there), "note": note}
    opened = [path for cell in there for path in cell if "://" not in path][:MOST_HEADERS]
    try:
        if kind == "array" and opened:
            return {**found, **_arrays([files.array(path) for path in opened], note)}
        if kind == "audio" and opened:
            rates, seconds = zip(*map(files.sound, opened), strict=True)
            found["note"] = f"{note}; some of them: {min(rates):,} Hz or more, up to {max(seconds):.1f} s"
            found["sound"] = (min(rates), max(seconds))
    except ValueError as error:
        found["note"] = f"{note}; {error}"
    return found


def _arrays(seen: Sequence[tuple[tuple[int, ...], str | None]], note: str) -> dict[str, Any]:
    shapes = sorted({shape for shape, _ in seen})
    found: dict[str, Any] = {"note": f"{note} of shape {' or '.join(map(str, shapes[:3]))}"}
    if len({shape[-1:] for shape in shapes}) == 1 and all(len(shape) in (1, 2) for shape in shapes):
        found |= {"dim": shapes[0][-1], "key": seen[0][1]}
    return found


def contents(cells: Sequence[Any]) -> dict[str, Any]:
    """Look at the bytes of files that stand in the table itself: arguments of a Column."""
    kinds = {_kind_of_content(cell) for cell in cells}
    if len(kinds) == 1 and (kind := kinds.pop()):
        return {"kind": kind, "note": f"{kind} files in the cells themselves"}
    return {"kind": "other", "note": "bytes of no image or audio file that is known"}


def _kind_of_content(cell: Any) -> Kind | None:
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if isinstance(content, bytes):
        beginning = content[:12].decode("latin-1")
        return next((kind for pattern, kind in BEGINNINGS if re.match(pattern, beginning, re.DOTALL)), None)
    return kind_of_files([path]) if isinstance(path, str) else None
