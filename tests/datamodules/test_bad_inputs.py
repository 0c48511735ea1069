"""No bad input ends in a traceback, a hang, much memory, or a row that has what belongs to another."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from datamodules.columns import Column
from datamodules.faults import Fault, FaultyRowsError
from datamodules.manifest import Manifest
from datamodules.sources import UnreadableInputsError
from datamodules.targets import Target
from tests.conftest import Zygote
from tests.datamodules import odd_files as odd

NUMBERS = [1, 2, 3, 4]  # each row's inputs and targets are made of its number
BAD = 2
TYPES = {
    **dict.fromkeys(("png", "jpg", "gif", "tif", "eps"), "image"),
    **dict.fromkeys(("wav", "flac", "mp3", "ogg", "aiff"), "audio"),
    **dict.fromkeys(("npy", "npz", "pt", "bin"), "array"),
}
SUFFIXES = {"image": "png", "audio": "wav", "array": "npy"}


class AsItIs:
    """Hands raw inputs on."""

    def __call__(self, raw: Any) -> Any:
        return raw

    def collate(self, items: list[Any]) -> list[Any]:
        return list(items)

    @property
    def for_evaluation(self) -> AsItIs:
        return self


@pytest.fixture(autouse=True)
def _ends_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def hangs(*_: object) -> None:
        raise AssertionError("hangs")

    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    began = time.process_time()
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert time.process_time() - began < 5
    assert not Path("executed").exists()


def good_cell(kind: str, number: int) -> Any:
    """Return a cell, and write the file that it names."""
    file = Path(f"good-{number}.{SUFFIXES.get(kind, '')}")
    match kind:
        case "image":
            Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(file)
        case "audio":
            file.write_bytes(odd.sound(first=number / 10))
        case "array":
            np.save(file, np.full(3, number))
        case _:
            return str(number)
    return str(file)


def number_of(raw: Any) -> float:
    """Return the number that a good input was made of."""
    match raw:
        case Image.Image():
            return raw.convert("RGB").getpixel((0, 0))[0] / 40
        case (np.ndarray() as samples, int()):
            return round(float(samples[0, 0]) * 10, 3)
        case np.ndarray():
            return float(raw[0])
        case dict():
            return float(raw["x"])
        case list():
            return number_of(raw[0])
    return float(raw)


def write_rows(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a manifest by the ending of its name."""
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return file


def rows_with(kind: str, cell: Any) -> list[dict[str, Any]]:
    """Return rows of which one has this cell, and the others good ones."""
    return [{"id": f"row-{n}", "x": cell if n == BAD else good_cell(kind, n), "n": n} for n in NUMBERS]


def manifest(file: Path | str, spec: Column, on_error: str, **options: Any) -> Manifest:
    options.setdefault("targets", {"n": Target("number", column="n")})
    options.setdefault("id", "id")
    data = Manifest(
        modalities={"x": spec},
        train=str(file),
        on_error=on_error,  # type: ignore[arg-type]
        max_quarantined=1.0,
        batch_size=2,
        **options,
    )
    data.connect({"x": AsItIs()})
    return data


def inputs_by_id(data: Manifest) -> dict[str, tuple[Any, Any]]:
    """Read an epoch: each row's input, None where it has none, and its target."""
    found = {}
    for batch in data.train_dataloader():
        for row, name in enumerate(batch.ids):
            place = int(batch.index["x"][row])
            raw = None if place < 0 else batch.inputs["x"][place]
            found[name] = raw, batch.targets["n"][row].tolist()
    return found


def fault_of(file: Path, spec: Column, **options: Any) -> Fault:
    """Check both ways of dealing with one bad row, and return what is said of it."""
    with pytest.raises((FaultyRowsError, UnreadableInputsError)) as raised:
        inputs_by_id(manifest(file, spec, "stop", **options))
    faults = raised.value.faults
    (fault,) = faults.values() if isinstance(faults, dict) else faults
    assert str(fault) in str(raised.value)
    assert "Traceback" not in str(raised.value)
    assert "row-2" in fault.row
    assert fault.column in ("x", "n")
    data = manifest(file, spec, "quarantine", **options)
    others = inputs_by_id(data)
    assert sorted(others) == ["row-1", "row-3", "row-4"]
    for name, (raw, target) in others.items():
        assert f"row-{number_of(raw):g}" == name
        assert target == [number_of(raw)]
    assert data.quarantine is not None
    assert data.quarantine.count("train") == 1
    return fault


BROKEN_FILES: list[tuple[str, str, Callable[[], bytes], str, str]] = [
    ("truncated jpeg", "x.jpg", lambda: odd.picture("JPEG", size=(640, 480))[:3_000], "truncated", "truncated"),
    ("truncated png", "x.png", lambda: odd.picture(size=(640, 480))[:400], "truncated", "truncated"),
    ("damaged png", "x.png", odd.damaged_png, "undecodable", "broken"),
    ("png bomb", "x.png", lambda: odd.png(100_000, 100_000, b"x"), "too large", "89,478,485 pixels"),
    ("gif bomb", "x.gif", odd.gif_bomb, "too large", "89,478,485 pixels"),
    ("tiff bomb", "x.tif", odd.tiff_bomb, "too large", "89,478,485 pixels"),
    ("text as jpg", "x.jpg", lambda: b"hello, world", "undecodable", "no picture that Pillow knows"),
    ("html as png", "x.png", lambda: b"<!doctype html><html></html>", "undecodable", "no picture that Pillow knows"),
    ("empty file", "x.png", bytes, "empty file", "is empty"),
    ("postscript", "x.eps", lambda: odd.picture("EPS"), "undecodable", "a program"),
    ("float tiff", "x.tif", lambda: odd.picture("TIFF", "F"), "wrong type", "fractions"),
    ("wav header only", "x.wav", lambda: odd.sound()[:44], "zero-length audio", "no samples"),
    ("wav half", "x.wav", lambda: odd.sound()[:8_044], "truncated", "has 4,000 of 8,000 samples"),
    ("aiff half", "x.aiff", lambda: odd.sound("AIFF")[:8_000], "truncated", "samples"),
    ("wav of no frames", "x.wav", lambda: odd.sound(frames=0), "zero-length audio", "no samples"),
    ("wav of NaN", "x.wav", lambda: odd.sound(subtype="FLOAT", first=float("nan")), "NaN or Inf", "1 numbers"),
    ("text as wav", "x.wav", lambda: b"hello, world", "undecodable", "Format not recognised"),
    ("empty wav", "x.wav", bytes, "empty file", "is empty"),
    ("mp3 half", "x.mp3", lambda: odd.sound("MP3", "MPEG_LAYER_III")[:1_000], "truncated", "samples"),
    ("flac half", "x.flac", lambda: odd.sound("FLAC", first=0.1)[:100], "truncated", "ends early"),
    ("flac that does not tell", "x.flac", odd.streamed_flac, "undecodable", "does not say how many samples"),
    ("npy of NaN", "x.npy", lambda: odd.npy([1.0, np.nan]), "NaN or Inf", "1 numbers"),
    ("npy of Inf", "x.npy", lambda: odd.npy([np.inf, 1.0]), "NaN or Inf", "1 numbers"),
    ("npy beyond float32", "x.npy", lambda: odd.npy([1e300, 1.0]), "NaN or Inf", "1 numbers"),
    (
        "npy of objects",
        "x.npy",
        lambda: odd.npy(np.array([odd.Malicious()]), allow_pickle=True),
        "needs pickle",
        "may run code",
    ),
    ("npy that claims much", "x.npy", lambda: odd.npy_header(f"({10**12},)"), "too large", "512 MB"),
    ("npy that claims more than 64 bits", "x.npy", lambda: odd.npy_header(f"({10**30},)"), "too large", "512 MB"),
    ("npy that would grow", "x.npy", lambda: odd.npy_header(f"({3 * 10**8},)", "|i1"), "truncated", "EOF"),
    ("truncated npy", "x.npy", lambda: odd.npy(np.ones(100))[:300], "truncated", ""),
    ("3-D npy", "x.npy", lambda: odd.npy(np.ones((2, 3, 4))), "wrong shape", "(2, 3, 4)"),
    ("npy of one number", "x.npy", lambda: odd.npy(1.0), "wrong shape", "()"),
    ("npy of nothing", "x.npy", lambda: odd.npy(np.ones((0, 5))), "wrong shape", "(0, 5)"),
    ("complex npy", "x.npy", lambda: odd.npy([1j]), "wrong type", "complex128"),
    ("npy of strings", "x.npy", lambda: odd.npy(["a"]), "wrong type", "<U1"),
    ("text as npy", "x.npy", lambda: b"hello, world", "undecodable", "magic string"),
    ("npz of two", "x.npz", lambda: odd.npz(a=odd.npy([1]), b=odd.npy([2])), "wrong type", "a, b; give one as `key`"),
    ("npz of none", "x.npz", odd.npz, "wrong type", "no arrays"),
    ("npz that lies", "x.npz", odd.lying_npz, "undecodable", "CRC"),
    ("npz by bzip2", "x.npz", lambda: odd.npz(12, a=odd.npy([1])), "undecodable", "NumPy does not write"),
    ("corrupt npz", "x.npz", lambda: odd.npz(a=odd.npy([1]))[:-30], "truncated", "table of contents"),
    ("text as npz", "x.npz", lambda: b"hello", "undecodable", "not a zip file"),
    ("pt of an object", "x.pt", lambda: odd.pt(odd.Malicious()), "needs pickle", "may run code"),
    ("pickle as pt", "x.pt", odd.malicious_pickle, "needs pickle", "may run code"),
    ("pt of a list", "x.pt", lambda: odd.pt([1, 2]), "wrong type", "holds a list"),
    ("complex pt", "x.pt", lambda: odd.pt(torch.tensor([1j])), "wrong type", "complex"),
    ("pt of 10^12", "x.pt", lambda: odd.pt(torch.ones(1).expand(10**12)), "too large", "512 MB"),
    ("half a pt", "x.pt", lambda: odd.pt(torch.ones(9_000))[:20_000], "truncated", "table of contents"),
    ("text as pt", "x.pt", lambda: b"hello, world", "undecodable", "no file that torch.save wrote"),
    ("unknown ending", "x.bin", lambda: b"1", "wrong type", ".npy, .npz, .pt, .pth"),
]


@pytest.mark.parametrize(
    ("name", "make", "kind", "cause"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN_FILES]
)
def test_broken_files(name: str, make: Callable[[], bytes], kind: str, cause: str) -> None:
    Path(name).write_bytes(make())
    type_ = TYPES[name[2:]]
    file = write_rows(Path("data.jsonl"), rows_with(type_, name))
    fault = fault_of(file, Column(type_, column="x"))  # type: ignore[arg-type]
    assert fault.kind == kind
    assert cause in fault.cause
    assert fault.value == name
    assert len(fault.cause) < 200
    assert "\n" not in fault.cause


def bad_place(name: str) -> str:
    """Make something that is no file to be read, and return its path."""
    path = Path("place.png")
    match name:
        case "folder":
            path.mkdir()
        case "link to itself":
            path.symlink_to(path.name)
        case "pipe":
            os.mkfifo(path)
        case "device":
            return "/dev/zero"
        case "no permission":
            path.write_bytes(odd.picture())
            path.chmod(0)
        case "null character":
            return "a\0b.png"
        case "long path":
            return "a" * 5_000
        case "file as a folder":
            return "data.jsonl/x.png"
    return str(path)


@pytest.mark.parametrize(
    ("name", "kind", "cause"),
    [
        ("folder", "folder", "is a folder"),
        ("link to itself", "unreadable file", "Too many levels of symbolic links"),
        ("pipe", "no file", "no regular file"),
        ("device", "no file", "no regular file"),
        ("no permission", "no permission", "may not be read"),
        ("null character", "unreadable file", "null"),
        ("long path", "unreadable file", "too long"),
        ("file as a folder", "missing file", "no such file"),
        ("nothing", "missing file", "no such file"),
    ],
)
def test_places_without_a_file(name: str, kind: str, cause: str) -> None:
    if name == "no permission" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    file = write_rows(Path("data.jsonl"), rows_with("image", bad_place(name)))
    fault = fault_of(file, Column("image", column="x"))
    assert fault.kind == kind
    assert cause in fault.cause
    if kind == "missing file":
        rows = inputs_by_id(manifest(file, Column("image", column="x", missing="allow"), "stop"))
        assert rows["row-2"] == (None, [2.0])


@pytest.mark.parametrize(
    "path", ["../secret.png", "ABSOLUTE", "leads-out.png", "a/../../secret.png", "file://ABSOLUTE"]
)
def test_paths_that_lead_out_of_the_root(tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(odd.picture())
    (tmp_path / "root" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "root")
    Path("leads-out.png").symlink_to(secret)
    file = write_rows(Path("data.jsonl"), rows_with("image", path.replace("ABSOLUTE", str(secret))))
    fault = fault_of(file, Column("image", column="x"), root=".")
    assert fault.kind == "outside root"
    assert "leads out of" in fault.cause


TABLE = Column("table", numeric=["x"])
ARRAY = Column("array", column="x")
TEXTS = Column("sequence", of="text", column="x", separator=";")
VECTORS = Column("sequence", of="array", column="x")
BAD_CELLS: list[tuple[str, str, Column, Any, str, str]] = [
    ("ragged list", "jsonl", ARRAY, [[1, 2], [3]], "wrong shape", "different lengths"),
    ("list with text", "jsonl", ARRAY, [1, "2"], "wrong type", "str where numbers"),
    ("list with null", "jsonl", ARRAY, [1, None], "wrong type", "null where numbers"),
    ("list with one long text", "jsonl", ARRAY, ["a" * 10**6, *["b"] * 10**5], "wrong type", "str where numbers"),
    ("list with NaN", "jsonl", ARRAY, [1, float("nan")], "NaN or Inf", "1 numbers"),
    ("list with a huge number", "jsonl", ARRAY, [1.5, 10**400], "wrong type", "object"),
    ("deep list", "csv", ARRAY, "[" * 5_000 + "]" * 5_000, "wrong type", "no list of numbers"),
    ("nested list", "csv", ARRAY, "[" * 80 + "1" + "]" * 80, "wrong shape", "lists in lists in lists"),
    ("empty list", "csv", ARRAY, "[]", "wrong shape", "(0,)"),
    ("unclosed list", "csv", ARRAY, "[1, 2", "wrong type", "no list of numbers"),
    ("text for a number", "csv", TABLE, "tall", "wrong type", "x: expected a number, found tall"),
    ("infinite number", "csv", TABLE, "1e999", "NaN or Inf", "x: is infinite"),
    ("sequence of nothing", "csv", TEXTS, " ; ", "missing cell", "is empty"),
    ("list of nothing", "jsonl", TEXTS, ["", " "], "missing cell", "is empty"),
    ("deep sequence", "csv", TEXTS, "[" * 100_000, "wrong type", "nested too deeply"),
    ("sequence in a sequence", "csv", TEXTS, "[" * 800 + "]" * 800, "wrong type", "expected text, found list"),
    ("sequence with NaN", "csv", VECTORS, "[[NaN, NaN], [1, 2]]", "NaN or Inf", "2 numbers"),
    ("bytes that are no text", "parquet", Column("text", column="x"), b"\xff", "wrong type", "not UTF-8"),
    ("empty cell", "csv", Column("text", column="x"), "", "missing cell", "is empty"),
    ("spaces", "csv", Column("text", column="x"), " \t ", "missing cell", "is empty"),
    ("empty path", "csv", Column("image", column="x"), "", "missing cell", "is empty"),
]


@pytest.mark.parametrize(
    ("ending", "spec", "cell", "kind", "cause"), [pytest.param(*case[1:], id=case[0]) for case in BAD_CELLS]
)
def test_bad_cells(ending: str, spec: Column, cell: Any, kind: str, cause: str) -> None:
    rows = rows_with(spec.type, cell)
    for row in rows:
        if spec is VECTORS and row["id"] != f"row-{BAD}":
            row["x"] = f"[[{row['x']}, 0]]"
        if ending == "parquet" and isinstance(row["x"], str):
            row["x"] = row["x"].encode()
    fault = fault_of(write_rows(Path(f"data.{ending}"), rows), spec)
    assert fault.kind == kind
    assert cause in fault.cause
    assert len(str(fault)) < 400


NUMBER = Target("number", column="n", minimum=0, maximum=100)
CLASS = Target("class", column="n", classes=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("target", "cell", "kind", "cause"),
    [
        pytest.param(NUMBER, "two", "wrong type", "expected a number", id="text"),
        pytest.param(NUMBER, "nan", "NaN or Inf", "not finite", id="NaN"),
        pytest.param(NUMBER, "1e39", "NaN or Inf", "not finite", id="beyond float32"),
        pytest.param(NUMBER, "-1", "target out of range", "below 0", id="below"),
        pytest.param(NUMBER, "101", "target out of range", "above 100", id="above"),
        pytest.param(NUMBER, "", "missing target", "no number", id="no number"),
        pytest.param(CLASS, "", "missing target", "no class", id="no class"),
        pytest.param(CLASS, "two", "unknown class", "none of the classes 1, 2, 3, 4", id="unknown class"),
    ],
)
def test_bad_targets(target: Target, cell: str, kind: str, cause: str) -> None:
    rows = [{**row, "n": cell if row["n"] == BAD else row["n"]} for row in rows_with("text", "2")]
    file = write_rows(Path("data.csv"), rows)
    if target is NUMBER:
        fault = fault_of(file, Column("text", column="x"), targets={"n": target})
    else:
        data = manifest(file, Column("text", column="x"), "quarantine", targets={"n": target})
        assert {name: (number_of(raw), place) for name, (raw, place) in inputs_by_id(data).items()} == {
            f"row-{n}": (n, n - 1) for n in NUMBERS if n != BAD
        }
        with pytest.raises(FaultyRowsError) as raised:
            inputs_by_id(manifest(file, Column("text", column="x"), "stop", targets={"n": target}))
        (fault,) = raised.value.faults
    assert fault.kind == kind
    assert cause in fault.cause
    assert fault.column == "n"


def test_a_class_that_only_validation_has() -> None:
    rows = rows_with("text", "2")
    write_rows(Path("train.csv"), rows)
    write_rows(Path("val.csv"), [*rows, {"id": "new", "x": "5", "n": "5"}])
    data = manifest("train.csv", Column("text", column="x"), "stop", val="val.csv", targets={"n": CLASS})
    with pytest.raises(FaultyRowsError, match=r"val.csv:6 \(new\), column 'n': 5: is none of the classes 1, 2, 3, 4"):
        data.val_dataloader()


TEXT = Column("text", column="x")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "empty.csv: is empty"),
        ("empty.jsonl", b"", "empty.jsonl: is empty"),
        ("empty.parquet", b"", "empty.parquet: is no Parquet file"),
        ("header.csv", b"id,x,n\n", "header.csv: has a header but no rows"),
        ("latin1.csv", "id,x,n\nrow-1,1,1\nrow-2,caf\xe9,2\n".encode("latin-1"), "latin1.csv:3: not UTF-8"),
        ("utf16.csv", "id,x,n\nrow-1,1,1\n".encode("utf-16"), "utf16.csv:1: not UTF-8"),
        ("twice.csv", b"id,x,x,n\nrow-1,1,1,1\n", "2 columns are named 'x'"),
        ("none.csv", b"id,y,n\nrow-1,1,1\n", "there is no column 'x'"),
        ("quote.csv", b'id,x,n\nrow-1,"1,1\nrow-2,2,2\n', "quote.csv:2: a quote opens in this row and is never closed"),
        ("null.csv", b"id,x,n\nrow-1,\0,1\n", "null.csv:2: a NUL byte"),
        ("picture.csv", odd.picture(), "picture.csv:1: "),
        ("text.parquet", b"id,x,n\nrow-1,1,1\n" * 10, "text.parquet: is no Parquet file"),
        ("table.xlsx", b"PK", "the name of a file of rows ends in .csv"),
        ("absent.csv", None, "absent.csv: cannot be read: No such file"),
        ("all-ragged.csv", b"id,x,n\nrow-1\n", "all-ragged.csv: no row can be used"),
    ],
)
@pytest.mark.parametrize("on_error", ["stop", "quarantine"])
def test_manifests_that_cannot_be_used(name: str, content: bytes | None, message: str, on_error: str) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        inputs_by_id(manifest(name, TEXT, on_error))
    assert "\n" not in str(raised.value)


def test_a_ragged_line_costs_only_itself() -> None:
    Path("data.csv").write_text("id,x,n\nrow-1,1,1\nrow-2,2\nrow-3,3,3\nrow-4,4,4\n")
    with pytest.raises(FaultyRowsError, match=r"data.csv:3: row-2,2: 2 fields, the header has 3"):
        inputs_by_id(manifest("data.csv", TEXT, "stop"))
    others = inputs_by_id(manifest("data.csv", TEXT, "quarantine"))
    assert others == {f"row-{n}": (str(n), [float(n)]) for n in (1, 3, 4)}


@pytest.mark.parametrize("kind", ["image", "audio", "array"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_column_that_names_no_files(kind: str, ending: str) -> None:
    rows = [{"id": f"row-{n}", "x": n, "n": n} for n in NUMBERS]
    file = write_rows(Path(f"data.{ending}"), rows)
    with pytest.raises(ValueError, match=r"column 'x'.*(none of its 4 files exists|expected a path|has shape)"):
        inputs_by_id(manifest(file, Column(kind, column="x"), "stop"))  # type: ignore[arg-type]


def test_a_column_of_nulls() -> None:
    table = pa.table({"id": [f"row-{n}" for n in NUMBERS], "x": pa.nulls(4), "n": NUMBERS})
    pq.write_table(table, "data.parquet")
    # in a table a value may be missing
    assert inputs_by_id(manifest("data.parquet", TABLE, "stop"))["row-3"] == ({"x": None}, [3.0])
    for spec in (TEXT, Column("image", column="x"), VECTORS):
        with pytest.raises(FaultyRowsError, match=r"data.parquet#0 \(row-1\), column 'x': is empty .*and 3 more"):
            inputs_by_id(manifest("data.parquet", spec, "stop"))
        with pytest.raises(ValueError, match="the train split of Manifest has no rows"):
            inputs_by_id(manifest("data.parquet", spec, "quarantine"))
        spec = Column(**{**vars(spec), "missing": "allow"})
        assert inputs_by_id(manifest("data.parquet", spec, "stop"))["row-3"] == (None, [3.0])
    pq.write_table(table.set_column(2, "n", pa.nulls(4)), "data.parquet")
    with pytest.raises(FaultyRowsError, match=r"\(row-1\), column 'n': has no number"):
        inputs_by_id(manifest("data.parquet", Column("text", column="x", missing="allow"), "stop"))


def is_colour(image: Image.Image) -> bool:
    found = np.asarray(image.convert("RGB")).reshape(-1, 3)
    return bool((np.abs(found.astype(int) - odd.COLOUR) < 12).all())


def is_sound(rate: int = 16_000, channels: int = 1) -> Callable[[Any], bool]:
    def check(raw: Any) -> bool:
        samples, found = raw
        middle = samples[len(samples) // 2]
        return bool(found == rate and samples.shape[1] == channels and (np.abs(middle - 0.5) < 0.05).all())

    return check


def is_vector(raw: Any) -> bool:
    return bool(raw.dtype == np.float32 and raw.tolist() == [1, 2])


GOOD_FILES: list[tuple[str, str, Callable[[], bytes], Callable[[Any], bool]]] = [
    ("16 bits", "x.png", odd.gray16, lambda raw: raw.convert("RGB").getpixel((0, 0)) == (128, 128, 128)),
    ("cmyk", "x.jpg", lambda: odd.picture("JPEG", "CMYK", quality=95), is_colour),
    ("palette", "x.png", odd.transparent_palette, is_colour),
    ("rotated", "x.jpg", odd.rotated, lambda raw: raw.size == (32, 64) and raw.getpixel((16, 4)) > (200, 200, 200)),
    ("animated", "x.gif", odd.animated, is_colour),
    ("one pixel", "x.png", lambda: odd.picture(size=(1, 1)), is_colour),
    ("gray", "x.png", lambda: odd.picture(mode="L"), lambda raw: raw.size == (64, 48)),
    ("black and white", "x.png", lambda: odd.picture(mode="1"), lambda raw: raw.size == (64, 48)),
    ("jpeg named png", "x.png", lambda: odd.picture("JPEG"), is_colour),
    ("8 bits", "x.wav", lambda: odd.sound(subtype="PCM_U8"), is_sound()),
    ("24 bits", "x.wav", lambda: odd.sound(subtype="PCM_24"), is_sound()),
    ("float", "x.wav", lambda: odd.sound(subtype="FLOAT"), is_sound()),
    ("stereo", "x.wav", lambda: odd.sound(channels=2), is_sound(channels=2)),
    ("96 kHz", "x.wav", lambda: odd.sound(rate=96_000), is_sound(96_000)),
    ("streamed wav", "x.wav", lambda: odd.wav_of_size(0xFFFFFFFF), is_sound()),
    ("mp3", "x.mp3", lambda: odd.sound("MP3", "MPEG_LAYER_III"), is_sound()),
    ("flac", "x.flac", lambda: odd.sound("FLAC"), is_sound()),
    ("ogg", "x.ogg", lambda: odd.sound("OGG", "VORBIS"), is_sound()),
    ("npz of one", "x.npz", lambda: odd.npz(a=odd.npy([1, 2])), is_vector),
    ("npy of halves", "x.npy", lambda: odd.npy(np.array([1, 2], ">f2")), is_vector),
    ("pt", "x.pt", lambda: odd.pt(torch.tensor([1.0, 2.0], requires_grad=True)), is_vector),
    ("pt of bfloat16", "x.pt", lambda: odd.pt(torch.tensor([1, 2], dtype=torch.bfloat16)), is_vector),
    ("old pt", "x.pt", lambda: odd.pt(torch.tensor([1, 2]), _use_new_zipfile_serialization=False), is_vector),
    ("pt of one in a dictionary", "x.pt", lambda: odd.pt({0: torch.tensor([1, 2])}), is_vector),
    ("emoji \N{CAT}, comma", "\N{CAT}, x.png", odd.picture, is_colour),
]


@pytest.mark.parametrize(
    ("name", "make", "is_right"), [pytest.param(*case[1:], id=ascii(case[0])) for case in GOOD_FILES]
)
def test_odd_files_that_are_good(name: str, make: Callable[[], bytes], is_right: Callable[[Any], bool]) -> None:
    Path(name).write_bytes(make())
    type_ = TYPES[name.rpartition(".")[2]]
    file = write_rows(Path("data.csv"), rows_with(type_, name))
    rows = inputs_by_id(manifest(file, Column(type_, column="x"), "stop"))  # type: ignore[arg-type]
    raw, target = rows.pop("row-2")
    assert is_right(raw)
    assert target == [2]
    assert all(f"row-{number_of(raw):g}" == name for name, (raw, _) in rows.items())


@pytest.mark.parametrize("name", ["x.npz", "x.pt"])
def test_one_array_of_several_is_chosen(name: str) -> None:
    several = {"a": np.ones(2), "b": np.array([1, 2])}
    as_npz = odd.npz(**{key: odd.npy(value) for key, value in several.items()})
    as_pt = odd.pt({key: torch.from_numpy(value) for key, value in several.items()})
    Path(name).write_bytes(as_npz if name == "x.npz" else as_pt)
    file = write_rows(Path("data.csv"), [{"id": "row-1", "x": name, "n": 1}])
    raw, _ = inputs_by_id(manifest(file, Column("array", column="x", key="b"), "stop"))["row-1"]
    assert is_vector(raw)
    with pytest.raises(UnreadableInputsError, match="has the arrays a, b; not 'c'"):
        inputs_by_id(manifest(file, Column("array", column="x", key="c"), "stop"))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_odd_texts_that_are_good(ending: str) -> None:
    texts = ['say "hi", he said\nand left', "\N{CAT}\N{ZERO WIDTH JOINER}é", "a" * 100_000, "  spaces  ", "NULL", "0"]
    rows = [{"id": f"row-{n}", "x": text, "n": n} for n, text in enumerate(texts)]
    found = inputs_by_id(manifest(write_rows(Path(f"data.{ending}"), rows), TEXT, "stop"))
    assert found == {row["id"]: (row["x"], [row["n"]]) for row in rows}


@pytest.mark.parametrize("content", ["\ufeffid,x,n\r\nrow-1,a,1\r\nrow-2,b,2\r\n", "id;x;n\nrow-1;a;1\n\nrow-2;b;2"])
def test_odd_manifests_that_are_good(content: str) -> None:
    Path("data.csv").write_bytes(content.encode())
    assert inputs_by_id(manifest("data.csv", TEXT, "stop")) == {"row-1": ("a", [1]), "row-2": ("b", [2])}


def test_rows_of_one_name_keep_their_own() -> None:
    file = write_rows(Path("data.csv"), [{"id": "same", "x": f"[{n}, 0]" if n > 1 else "[x", "n": n} for n in NUMBERS])
    data = manifest(file, ARRAY, "quarantine")
    found = [(batch, row) for batch in data.train_dataloader() for row in range(len(batch.ids))]
    numbers = [
        (number_of(batch.inputs["x"][batch.index["x"][row]]), batch.targets["n"][row].item()) for batch, row in found
    ]
    assert sorted(numbers) == [(2, 2), (3, 3), (4, 4)]


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns"), pa.date32(), pa.duration("s")])
def test_times_as_text(kind: pa.DataType) -> None:
    days = pa.array([1, 2**31 - 1 if kind.bit_width == 32 else 2**40, None], kind)
    pq.write_table(pa.table({"id": ["a", "b", "c"], "x": days, "n": [1, 2, 3]}), "data.parquet")
    rows = inputs_by_id(manifest("data.parquet", Column("text", column="x", missing="allow"), "stop"))
    assert rows["c"] == (None, [3])
    assert rows["a"][0] != rows["b"][0]


@pytest.mark.parametrize("cell", ["-5", "-1e300", "1e-300", "12345678901234567890"])
def test_numbers_of_any_size(cell: str) -> None:
    file = write_rows(Path("data.csv"), rows_with("table", cell))
    assert inputs_by_id(manifest(file, TABLE, "stop"))["row-2"][0] == {"x": float(cell)}


@pytest.mark.parametrize("name", ["text as jpg", "wav half", "pt of an object", "npy that claims much"])
def test_faults_cross_processes(name: str) -> None:
    _, path, make, _, cause = next(case for case in BROKEN_FILES if case[0] == name)
    Path(path).write_bytes(make())
    type_ = TYPES[path[2:]]
    file = write_rows(Path("data.jsonl"), rows_with(type_, path))
    spec = Column(type_, column="x")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data.jsonl:2 \(row-2\), column 'x': ") as raised:
        inputs_by_id(manifest(file, spec, "stop", num_workers=2))
    assert cause in str(raised.value)
    # or this frame, which its traceback holds, keeps the workers below until garbage is collected, and torch then
    # waits five seconds for each
    del raised
    data = manifest(file, spec, "quarantine", num_workers=2)
    assert {name: number_of(raw) for name, (raw, _) in inputs_by_id(data).items()} == {
        f"row-{n}": n for n in NUMBERS if n != BAD
    }
    assert data.quarantine is not None
    assert data.quarantine.count("train") == 1


BOMBS = [
    "png bomb",
    "gif bomb",
    "tiff bomb",
    "npy that claims much",
    "npy that would grow",
    "pt of 10^12",
    "npz that lies",
]


def test_memory() -> None:
    """The worst files take little more than they are decoded to."""
    for name, path, make, *_ in BROKEN_FILES:
        if name in BOMBS:
            Path(f"{name}{Path(path).suffix}").write_bytes(make())
    Path("npz bomb.npz").write_bytes(odd.npz_bomb())
    Path("pt bomb.pt").write_bytes(odd.pt_bomb())
    Path("largest.png").write_bytes(odd.largest_png())
    script = """
import resource, time
from pathlib import Path
import torch, soundfile
from datamodules.decoding import as_vectors, decode_array, decode_image, read_file
from datamodules.faults import InputError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for file in sorted(Path(".").glob("*.*")):
    content = read_file(file)
    began = time.process_time()
    try:
        decode_image(content) if file.suffix in (".png", ".gif", ".tif") else decode_array(content, file.suffix)
        print("value", file)
    except InputError as error:
        print(error.kind, file, error)
    assert time.process_time() - began < 5
try:
    as_vectors(["a" * 10**6, *["b"] * 10**5])
except InputError as error:
    print(error.kind)
print((peak() - before) // 1024)
"""
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    *lines, grown = run.stdout.splitlines()
    assert [line for line in lines if line.startswith("value")] == ["value largest.png"]
    assert len(lines) == len(BOMBS) + 4
    assert int(grown) < 500


EXPERTS = {
    "audio": {"class_path": "experts.audio.SpectrogramExpert"},
    "array": {"class_path": "experts.features.FeatureExpert", "init_args": {"dim": 3}},
    "table": {"class_path": "experts.table.TableExpert", "init_args": {"numeric": ["x"], "categorical": []}},
}


@pytest.mark.parametrize(
    ("type_", "cell", "message"),
    [
        ("audio", "half.wav", "half.wav: has 4,000 of 8,000 samples"),
        ("array", "x.pt", "x.pt: holds Python objects, which are not loaded"),
        ("table", "tall", "x: expected a number, found tall"),
        ("table", "-1e300", "beyond the"),
    ],
)
def test_the_command_ends_in_one_message(
    tmp_path: Path, crossmodal: Zygote, type_: str, cell: str, message: str
) -> None:
    (tmp_path / "half.wav").write_bytes(odd.sound()[:8_044])
    (tmp_path / "x.pt").write_bytes(odd.pt(odd.Malicious()))
    write_rows(tmp_path / "data.csv", rows_with(type_, cell))
    modality = {"type": type_, "numeric": ["x"]} if type_ == "table" else {"type": type_, "column": "x"}
    data = {"train": "data.csv", "id": "id", "modalities": {"x": modality}}
    experiment = {
        "name": "bad",
        "experts": {"x": EXPERTS[type_]},
        "data": {
            "class_path": "datamodules.manifest.Manifest",
            "init_args": {**data, "targets": {"n": {"type": "number", "column": "n"}}},
        },
        "model": {
            "fusion": {"class_path": "crossmodal.fusion.WorkspaceFusion", "init_args": {"width": 16}},
            "heads": {"n": {"class_path": "crossmodal.heads.RegressionHead"}},
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu"},
    }
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(experiment))
    status, output = crossmodal.run("fit", "-c", "bad.yaml", cwd=tmp_path)
    assert status == 1, output
    assert "Traceback" not in output
    assert "data.csv:3, column 'x'" in output
    assert message in " ".join(output.split())
    assert output.count("data.csv:3") == 1
