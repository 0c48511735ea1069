"""Columns of files: of their paths, or of their bytes. Imports nothing heavy."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
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
    there = [(number, cell) for number, cell in enumerate(cells) if all(map(files.exist, cell))]
    notes = [f"{len(there):,} of {len(cells):,} sampled cells name existing {kind} files"]
    found: dict[str, Any] = {"kind": kind, "is_file": True, "existing": len(there)}
    read = {"array": files.array, "audio": files.sound}.get(kind)
    opened = [(number, path) for number, cell in there for path in cell if read and "://" not in path][:MOST_HEADERS]
    headers: dict[tuple[int, str], Any] = {}
    wrong: dict[int, str] = {}
    for number, path in opened:
        try:
            headers[number, path] = read(path) if read else None
        except ValueError as error:
            wrong.setdefault(number, str(error))
    if headers:
        seen = _arrays(headers) if kind == "array" else _sounds(headers)
        wrong |= seen.pop("wrong", {})
        notes.append(seen.pop("note"))
        found |= seen
    if wrong:
        why = "" if headers else f": {next(iter(wrong.values()))}"
        notes.append(f"{len(wrong):,} of {len(opened):,} that were opened cannot be used{why}")
    return {**found, "note": "; ".join(notes), "wrong": wrong}


def _arrays(headers: Mapping[tuple[int, str], tuple[tuple[int, ...], str | None]]) -> dict[str, Any]:
    shapes = sorted({shape for shape, _ in headers.values()})
    found: dict[str, Any] = {"note": f"of shape {' or '.join(map(str, shapes[:3]))}"}
    width = agreed([shape[-1] if len(shape) in (1, 2) else None for shape, _ in headers.values()])
    if width is None:
        return found
    fits = {place: len(shape) in (1, 2) and shape[-1] == width for place, (shape, _) in headers.items()}
    found["wrong"] = {
        number: f"{path} has shape {headers[number, path][0]}, the others have vectors of {width:,} numbers"
        for (number, path), is_so in fits.items()
        if not is_so
    }
    key = next(headers[place][1] for place, is_so in fits.items() if is_so)
    return {**found, "dim": width, "key": key}


def _sounds(headers: Mapping[tuple[int, str], tuple[int, float]]) -> dict[str, Any]:
    rates, seconds = zip(*headers.values(), strict=True)
    note = f"some of them: {min(rates):,} Hz or more, up to {max(seconds):.1f} s"
    return {"note": note, "sound": (min(rates), max(seconds))}


def agreed(values: Sequence[Hashable]) -> Any:
    """Return the value that nearly all are, or None."""
    value, count = Counter(values).most_common(1)[0]
    return value if count >= (1 - SOME) * len(values) else None


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
