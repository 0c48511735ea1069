from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from datamodules.tables import Table, open_table

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
# text that UTF-8 can hold; NUL is no text
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.text(
    ',;\t"\r\n ab', max_size=8
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def always_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.tables.table.IN_MEMORY_BYTES", 0)


def write(file: Path, content: str | bytes) -> Path:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def rows_of(table: Table) -> list[tuple[Any, ...]]:
    """All cells, read one by one; they must be those of a scan."""
    rows = [tuple(table.cell(column, row) for column in table.column_names) for row in range(len(table))]
    scanned = [tuple(row.values()) for batch in table.batches(table.column_names) for row in batch.to_pylist()]
    assert str(rows) == str(scanned)  # nan differs from itself
    return rows


def refusal(file: Path | str, columns: Sequence[str] | None = None) -> str:
    with pytest.raises(ValueError) as caught:
        open_table(file, columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_rows_are_named_by_the_line_on_which_they_begin(tmp_path: Path) -> None:
    content = '\ufeffphoto,text\r\n1.jpg,"two\r\nlines, ""quoted"" 🦊"\r\n\r\n2.jpg,\r\n   \r\n3.jpg,end'
    table, faults = open_table(write(tmp_path / "train.csv", content))
    assert not faults
    assert rows_of(table) == [("1.jpg", 'two\r\nlines, "quoted" 🦊'), ("2.jpg", None), ("3.jpg", "end")]
    assert [table.row_name(row) for row in range(3)] == ["train.csv:2", "train.csv:5", "train.csv:7"]
    assert table.row_numbers.tolist() == [2, 5, 7]
    assert table.row_numbers.dtype == np.int64
    assert (table.name, table.separator, table.column_names) == ("train.csv", ":", ["photo", "text"])
    assert table.type_of("photo") == pa.string()
    assert table.chunked("text").num_chunks == 1


def test_ragged_lines_are_left_out_and_told(tmp_path: Path) -> None:
    table, faults = open_table(write(tmp_path / "a.csv", "a,b,c\n1,2,3\n1,2\n1,2,3,4\nx\n4,5,6\n"), ["c", "a"])
    assert rows_of(table) == [("1", "3"), ("4", "6")]
    assert [(fault.kind, fault.row, fault.cause) for fault in faults] == [
        ("ragged line", "a.csv:3", "2 fields, the header has 3"),
        ("ragged line", "a.csv:4", "4 fields, the header has 3"),
        ("ragged line", "a.csv:5", "1 field, the header has 3"),
    ]
    assert str(faults[1]) == "a.csv:4: 1,2,3,4: 4 fields, the header has 3"


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.csv", "a;b\n1;2,5\n", ["a", "b"]),
        ("a.csv", "a;b,c\n1;2,5\n", ["a", "b,c"]),  # a comma, but the wanted columns are there by semicolons
        ("a.csv", "a\tb\n1\t2,5\n", None),
        ("a.tsv", "a\tb,c\n1\t2,5\n", None),
        ("a.CSV", "b,a\n2.5,1\n", ["a"]),
        ("a.csv", ",a,\n0,1,\n", None),  # as pandas writes an index
    ],
)
def test_what_stands_between_cells(tmp_path: Path, name: str, content: str, columns: list[str] | None) -> None:
    table, faults = open_table(write(tmp_path / name, content), columns)
    assert not faults
    assert table.cell("a", 0) == "1"


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("a.csv", b"", None, "a.csv: is empty"),
        ("a.csv", b"\n\n", None, "a.csv: is empty"),
        ("a.csv", b"\xef\xbb\xbf", None, "a.csv: is empty"),
        ("a.csv", b"a,b\n", None, "a.csv: has a header but no rows"),
        ("a.csv", b"a,b\n1\n", None, "a.csv: no row can be used; the first: a.csv:2: 1: 1 field, the header has 2"),
        ("a.csv", "a\nx\né\n".encode("latin-1"), None, "a.csv:3: not UTF-8; save it as UTF-8"),
        ("a.csv", "é\nx\n".encode("latin-1"), None, "a.csv:1: not UTF-8; save it as UTF-8"),
        ("a.csv", b"a\n" * 90_000 + b"\xff\n", None, "a.csv:90001: not UTF-8; save it as UTF-8"),
        ("a.csv", "a,b\n1,2\n".encode("utf-16"), None, "a.csv:1: not UTF-8; save it as UTF-8"),
        ("a.csv", b"a\nx\n\0\n", None, "a.csv:3: a NUL byte; the file is damaged or no text"),
        ("a.csv", b'a\nx\n"y\nz\n', None, "a.csv:3: a quote opens in this row and is never closed"),
        ("a.csv", b'a\n"x"y\n', None, "a.csv:2: ',' expected after '\"'; a quote inside a quoted cell is written \"\""),
        ("a.csv", b"a,b,a\n1,2,3\n", None, "a.csv: 2 columns are named 'a'; rename all but one"),
        ("a.csv", b",b\n1,2\n", [""], "a.csv: a column without a name cannot be read; name it in the first line"),
        ("a.csv", b",\n1,2\n", None, "a.csv: no column has a name"),
        (
            "a.csv",
            b"image,text\n1,2\n",
            ["text", "imgae"],
            "a.csv: there is no column 'imgae' (did you mean 'image'?); it has 'image', 'text'",
        ),
        ("a.jsonl", b"", None, "a.jsonl: is empty"),
        ("a.jsonl", b"", ["a"], "a.jsonl: is empty"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', None, "a.jsonl:2: not UTF-8; save it as UTF-8"),
        ("a.jsonl", b'{"a": 1}\n', ["b"], "a.jsonl: there is no column 'b'; it has 'a'"),
        (
            "a.jsonl",
            b"[1]\n",
            None,
            "a.jsonl: no row can be used; the first: a.jsonl:1: [1]: expected an object, found a list",
        ),
        ("a.parquet", b"", None, "a.parquet: is no Parquet file that can be read: Parquet file size is 0 bytes"),
        ("a.txt", b"a\n1\n", None, "a.txt: the name of a file of rows ends in .csv, .tsv, .jsonl, .ndjson, .parquet"),
        ("a.parquet.gz", b"", None, "a.parquet.gz: the name of a file of rows ends in .csv, .tsv, .jsonl, .ndjson,"),
        ("a.csv.gz", b"a,b\n1,2\n", None, "a.csv.gz: cannot be read: "),
        ("a.csv.gz", gzip.compress(b"a,b\n" + os.urandom(99).hex().encode())[:-40], None, "a.csv.gz: cannot be read: "),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: bytes, columns: list[str] | None, message: str) -> None:
    said = refusal(write(tmp_path / name, content), columns).removeprefix(f"{tmp_path}/")
    assert said.startswith(message)


def test_cells_may_be_long(tmp_path: Path) -> None:
    long = "x" * 200_000
    table, _ = open_table(write(tmp_path / "a.csv", f'a,b\n"{long}",1\n'))
    assert table.cell("a", 0) == long


def test_a_quote_that_is_not_closed_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.tables.text.MAX_CHARACTERS", 1000)
    before = csv.field_size_limit(1000)
    try:
        message = refusal(write(tmp_path / "a.csv", 'a\nb\n"' + "c\n" * 1000))
    finally:
        csv.field_size_limit(before)
    assert message == "a.csv:3: a cell of over 1,000 characters; is a quote not closed?"


def test_compressed_text(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "a.csv.bz2", "a.csv.zst"):
        with pa.output_stream(str(tmp_path / name), compression="detect") as stream:
            stream.write("a,b\n1,é\n".encode())
        table, _ = open_table(tmp_path / name)
        assert rows_of(table) == [("1", "é")]
        assert table.row_name(0) == f"{name}:2"


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        '\ufeff{"text": "a\\u0000é", "n": 0.1}',
        "",
        '{"n": NaN, "tags": ["x", "ü"], "text": null}\r',
        '{"text": "", "more": {"k": [1, true]}}',
    ]
    file = write(tmp_path / "a.jsonl", "\n".join(lines))
    table, faults = open_table(file)
    assert not faults
    assert table.column_names == ["text", "n", "tags", "more"]
    assert rows_of(table) == [
        ("a\0é", "0.1", None, None),
        (None, "NaN", '["x", "ü"]', None),
        (None, None, None, '{"k": [1, true]}'),
    ]
    assert table.row_numbers.tolist() == [1, 3, 4]
    assert rows_of(open_table(file, ["n"])[0]) == [("0.1",), ("NaN",), (None,)]


def test_lines_that_are_no_objects_are_told(tmp_path: Path) -> None:
    deep = "[" * 100_000
    wrong = [
        ('{"t": 1', "no JSON object: Expecting ',' delimiter at character 9"),
        ('{"t": "a", "t": "b"}', "the key 't' stands twice in one object"),
        ('{"t": {"k": 1, "k": 2}}', "the key 'k' stands twice in one object"),
        ("17", "expected an object, found a number"),
        ('{"t": "\\ud83e"}', "half of a pair of surrogates is no text"),
        (deep, "lists and objects are nested too deeply"),
        ('{"t": ' + "1" * 5000 + "}", "Exceeds the limit"),
    ]
    content = "".join(f"{line}\n" for line, _ in wrong) + '{"t": "good \\ud83e\\udd8a"}\n'
    table, faults = open_table(write(tmp_path / "a.ndjson", content))
    assert rows_of(table) == [("good 🦊",)]
    assert [fault.row for fault in faults] == [f"a.ndjson:{number}" for number in range(1, len(wrong) + 1)]
    assert {fault.kind for fault in faults} == {"no JSON"}
    for fault, (_, cause) in zip(faults, wrong, strict=True):
        assert fault.cause.startswith(cause)
        assert len(str(fault)) < 300


def test_nesting_of_any_depth_ends_in_a_row_or_a_fault(tmp_path: Path) -> None:
    nested = [f'{{"t": {"[" * depth}{"]" * depth}}}' for depth in range(700, 1100)]
    table, faults = open_table(write(tmp_path / "a.jsonl", "\n".join(nested)))
    assert len(table) + len(faults) == 400
    assert {fault.kind for fault in faults} <= {"no JSON"}
    assert table.cell("t", 0) == nested[0][len('{"t": ') : -1]


def test_a_column_of_texts_takes_no_other_value(tmp_path: Path) -> None:
    found = {"1": "a number", "true": "true or false", "{}": "an object", '["a", 1]': "a list", "[null]": "a list"}
    good = ['{"t": "x"}', '{"t": null}', "{}", '{"t": ["x", "y"]}', '{"t": []}']
    content = "\n".join([f'{{"t": {value}, "n": 1}}' for value in found] + good)
    table, faults = open_table(write(tmp_path / "a.jsonl", content), ["t", "n"], strings=["t"])
    assert [fault.cause for fault in faults] == [f"expected text, found {kind}" for kind in found.values()]
    assert [(fault.kind, fault.column, fault.value) for fault in faults] == [("wrong type", "t", v) for v in found]
    assert [cell for _, cell in rows_of(table)] == ["x", None, None, '["x", "y"]', "[]"]


def parquet(file: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), file, row_group_size=2)
    return file


@pytest.mark.parametrize("on_disk", [False, True])
def test_parquet_keeps_its_types(tmp_path: Path, on_disk: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if on_disk:
        monkeypatch.setattr("datamodules.tables.table.IN_MEMORY_BYTES", 0)
    columns = {
        "n": pa.array([1, None, 3]),
        "spectrum": pa.array([[0.5, 1.5], None, []], pa.list_(pa.float32())),
        "fixed": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int8(), 2)),
        "image": pa.array([{"bytes": b"\xff", "path": None}, None, {"bytes": None, "path": "a"}]),
        "a.b": pa.array([1.5, 2.5, math.inf]),
        "label": pa.array(["cat", "dog", None]).dictionary_encode(),
        "tags": pa.array([["x"], [], None], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    }
    table, faults = open_table(parquet(tmp_path / "train.parquet", **columns))
    assert not faults
    plain = {"label": pa.string(), "tags": pa.list_(pa.string())}
    for name, column in columns.items():
        assert table.type_of(name) == plain.get(name, column.type), name
        assert [table.cell(name, row) for row in range(3)] == column.to_pylist()
        assert table.chunked(name).to_pylist() == column.to_pylist()
    assert len(rows_of(table)) == 3
    assert table.row_name(2) == "train.parquet#2"
    assert table.row_numbers.tolist() == [0, 1, 2]
    chosen, _ = open_table(tmp_path / "train.parquet", {"a.b", "image"})
    assert chosen.column_names == ["image", "a.b"]
    assert next(iter(chosen.batches(["a.b"]))).schema.names == ["a.b"]
    assert next(iter(chosen.batches(["a.b", "image"]))).schema.names == ["a.b", "image"]


def test_parquet_that_cannot_be_used(tmp_path: Path) -> None:
    assert refusal(parquet(tmp_path / "none.parquet", a=pa.array([], pa.int64()))) == "none.parquet: has no rows"
    whole = parquet(tmp_path / "a.parquet", a=pa.array(["x", "y"] * 100)).read_bytes()
    assert refusal(tmp_path / "a.parquet", ["b"]) == "a.parquet: there is no column 'b'; it has 'a'"
    for length in (1, len(whole) // 2, len(whole) - 1):
        message = refusal(write(tmp_path / "cut.parquet", whole[:length]))
        assert message.startswith("cut.parquet: is no Parquet file that can be read: ")
    not_text = pa.array([b"\xff"]).view(pa.string())
    assert "Invalid UTF8" in refusal(parquet(tmp_path / "b.parquet", a=not_text))


def test_a_folder_is_a_table_of_its_files(tmp_path: Path) -> None:
    root = tmp_path / "photos.v2"
    for name in ("dog/2.jpg", "cat/deep/1.jpg", "cat/a.jpg", "top.jpg", ".hidden/x.jpg", "cat/.DS_Store"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "cat" / "loop").symlink_to(root)
    (root / "cat" / "self").symlink_to("self")
    (root / "cat" / "gone").symlink_to("nothing")
    os.mkfifo(root / "cat" / "pipe")
    write(Path(os.fsdecode(os.fsencode(root) + b"/dog/\xff.jpg")), "")
    table, faults = open_table(root)
    assert rows_of(table) == [
        ("cat/a.jpg", "cat"),
        ("cat/deep/1.jpg", "cat"),
        ("dog/2.jpg", "dog"),
        ("top.jpg", None),
    ]
    assert [(fault.kind, fault.row) for fault in faults] == [
        ("missing file", "photos.v2/cat/gone"),
        ("missing file", "photos.v2/cat/self"),
        ("file name", "'photos.v2/dog/\\udcff.jpg'"),
    ]
    assert (table.row_name(0), table.separator) == ("photos.v2#0", "#")
    assert open_table(root, ["label"])[0].column_names == ["label"]
    assert refusal(root, ["split"]).endswith("there is no column 'split'; it has 'file', 'label'")


def test_top_folders_that_are_named_after_splits(tmp_path: Path) -> None:
    for name in ("train/cat/1.jpg", "Validation/cat/2.jpg", "test/3.jpg", "readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "val").symlink_to(tmp_path / "train")  # twice the same files, but no loop
    table, _ = open_table(tmp_path)
    assert rows_of(table) == [
        ("Validation/cat/2.jpg", "cat", "val"),
        ("readme.txt", None, None),
        ("test/3.jpg", None, "test"),
        ("train/cat/1.jpg", "cat", "train"),
        ("val/cat/1.jpg", "cat", "val"),
    ]
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty") == "empty: has no files"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    assert refusal(tmp_path / "pipe.csv").endswith("pipe.csv: is no regular file")
    assert refusal(tmp_path / "device.csv").endswith("device.csv: is no regular file")
    assert refusal(tmp_path / "folder.csv").endswith("folder.csv: is a folder; name one of the files in it")
    assert refusal(tmp_path / "loop.csv").endswith("loop.csv: cannot be read: Too many levels of symbolic links")
    assert refusal(tmp_path / "no.csv") == f"{tmp_path}/no.csv: cannot be read: No such file or directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "a\n1\n").chmod(0)
    assert refusal(tmp_path / "a.csv") == f"{tmp_path}/a.csv: cannot be read: Permission denied"


def test_urls(tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/data/a.csv", b"a,b\n1,2\n")
    table, _ = open_table("memory://data/a.csv", ["b"], cache=tmp_path / "cache")
    assert rows_of(table) == [("2",)]
    assert table.row_name(0) == "a.csv:2"
    system.pipe("/data/b.parquet", parquet(tmp_path / "b.parquet", n=[1, 2]).read_bytes())
    assert rows_of(open_table("memory://data/b.parquet")[0]) == [(1,), (2,)]
    system.pipe("/data/c.jsonl.gz", gzip.compress(b'{"a": 1}'))
    assert rows_of(open_table("memory://data/c.jsonl.gz")[0]) == [("1",)]
    assert refusal("memory://data/no.csv").startswith("memory://data/no.csv: cannot be opened: FileNotFoundError")
    assert "oci://b/a.csv: reading oci:// needs a package that is not installed: " in refusal("oci://b/a.csv")
    assert refusal("nowhere://b/a.csv") == "nowhere://b/a.csv: no package that is installed reads nowhere://"


def manifest(folder: Path, count: int = 70_000) -> Path:
    lines = [f"{row},text {row}" if row % 50_000 else f"{row}" for row in range(count)]
    return write(folder / "train.csv", "id,text\n" + "\n".join(lines))


@pytest.mark.usefixtures("always_on_disk")
def test_a_table_on_the_disk_is_written_once(tmp_path: Path) -> None:
    file, cache = manifest(tmp_path), tmp_path / "cache"
    first, faults = open_table(file, ["text"], cache=cache)
    assert [fault.row for fault in faults] == ["train.csv:2", "train.csv:50002"]
    assert len(first) == 69_998
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    second, again = open_table(str(file), ["text"], cache=cache)
    assert again == faults
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == written
    assert isinstance(second.row_numbers, np.memmap)
    for table in (first, second, pickle.loads(pickle.dumps(second))):
        assert (table.cell("text", 69_997), table.row_name(69_997)) == ("text 69999", "train.csv:70001")
        assert sum(len(batch) for batch in table.batches(["text"])) == len(table)
        assert max(len(batch) for batch in table.batches(["text"])) == 65_536
    assert len(pickle.dumps(second)) < 1000
    # what changes the table makes another
    open_table(file, ["id"], cache=cache)
    os.utime(file, ns=(0, 0))
    open_table(file, ["text"], cache=cache)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.usefixtures("always_on_disk")
def test_a_damaged_table_is_written_anew(tmp_path: Path) -> None:
    file, cache = manifest(tmp_path, 100), tmp_path / "cache"
    open_table(file, cache=cache)
    for name, keep in (("table.arrow", 100), ("numbers.int64", 16), ("faults.jsonl", 5)):
        (kept,) = cache.iterdir()
        write(kept / name, (kept / name).read_bytes()[:keep])
        table, faults = open_table(file, cache=cache)
        assert (len(table), len(faults)) == (99, 1)
        assert table.cell("id", 98) == "99"


@pytest.mark.usefixtures("always_on_disk")
def test_nothing_is_left_of_a_table_that_cannot_be_finished(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    file = write(tmp_path / "a.csv", "a\n" + "x\n" * 70_000 + "\0\n")
    with pytest.raises(ValueError, match=r"a\.csv:70002: a NUL byte"):
        open_table(file, cache=cache)
    assert not list(cache.iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    good = manifest(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ValueError, match=r"cache: cannot be written: .*File too large"):
            open_table(good, cache=cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(cache.iterdir())


@pytest.mark.usefixtures("always_on_disk")
def test_a_cache_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.csv/x: cannot be written: Not a directory"):
        open_table(write(tmp_path / "a.csv", "a\n1\n"), cache=tmp_path / "a.csv" / "x")


def test_without_a_cache_nothing_stays_when_the_process_ends(tmp_path: Path) -> None:
    program = (
        "import os, sys; from datamodules.tables import table as module; module.IN_MEMORY_BYTES = 0\n"
        "table, _ = module.open_table(sys.argv[1])\n"
        "if os.fork() == 0: sys.exit()\n"
        "os.wait(); print(sum(len(batch) for batch in table.batches(['text'])), len(os.listdir(os.environ['TMPDIR'])))"
    )
    folder = tmp_path / "temporary"
    folder.mkdir()
    arguments = [sys.executable, "-c", program, str(manifest(tmp_path, 100))]
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "99 1\n"
    assert not list(folder.iterdir())


@pytest.mark.usefixtures("always_on_disk")
def test_batches_of_large_cells_hold_few_rows(tmp_path: Path) -> None:
    cells = ["x" * 2**20] * 24
    write(tmp_path / "a.csv", "a,b\n" + "".join(f"{cell},1\n" for cell in cells))
    pq.write_table(pa.table({"a": [str(number) + cell for number, cell in enumerate(cells)]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        table, _ = open_table(tmp_path / name)
        assert len(table) == 24
        assert max(batch.nbytes for batch in table.batches(["a"])) < 2**25


def test_a_small_table_travels_to_another_process(tmp_path: Path) -> None:
    table, _ = open_table(write(tmp_path / "a.csv", "a\n1\n\n2\n"))
    copy = pickle.loads(pickle.dumps(table))
    assert rows_of(copy) == [("1",), ("2",)]
    assert copy.row_name(1) == "a.csv:4"


@in_one_folder
@given(
    st.integers(1, 3).flatmap(lambda width: st.lists(st.lists(texts, min_size=width, max_size=width), max_size=6)),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_text_comes_back_from_csv(tmp_path: Path, rows: list[list[str]], ending: str) -> None:
    width = len(rows[0]) if rows else 1
    header = [f"column {number}" for number in range(width)]
    stream, begins = io.StringIO(), []
    # with \n at the ends of lines, the writer of Python 3.11 does not quote a cell for its \r
    writer = csv.writer(stream, lineterminator=ending, quoting=csv.QUOTE_ALL if ending == "\n" else csv.QUOTE_MINIMAL)
    writer.writerow(header)
    for row in rows:
        # a line ends with \r, \n or \r\n
        begins.append(len(stream.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")))
        writer.writerow(row)
    file = write(tmp_path / "a.csv", stream.getvalue())
    if not rows:
        assert refusal(file) == "a.csv: has a header but no rows"
        return
    table, faults = open_table(file, header)
    assert not faults
    assert rows_of(table) == [tuple(cell or None for cell in row) for row in rows]
    assert table.row_numbers.tolist() == begins


@in_one_folder
@given(st.lists(st.dictionaries(texts, values, max_size=4), min_size=1, max_size=5), st.booleans())
@example([{"a": math.nan, "b": [math.inf]}], False)
def test_any_value_comes_back_from_json_lines(tmp_path: Path, rows: list[dict[str, Any]], escape: bool) -> None:
    lines = [json.dumps(row, ensure_ascii=escape) for row in rows]
    file = write(tmp_path / "a.jsonl", "\n\n".join(lines) + "\n")
    columns = list(dict.fromkeys(key for row in rows for key in row if key))
    if not columns:
        assert refusal(file) == "a.jsonl: no column has a name"
        return
    table, faults = open_table(file)
    assert not faults
    assert table.column_names == columns
    assert table.row_numbers.tolist() == [1 + 2 * number for number in range(len(rows))]
    for number, row in enumerate(rows):
        for column in columns:
            value, cell = row.get(column), table.cell(column, number)
            if value is None or isinstance(value, str):
                assert cell == (value or None)
            else:
                assert repr(json.loads(cell)) == repr(value)


SAMPLES = {
    ".csv": b'a,b\n1,"x\ny"\n2,z\n',
    ".tsv": b"a\tb\n1\tx\n",
    ".jsonl": b'{"a": 1, "b": "x"}\n{"a": [1.5, null]}\n',
}


@in_one_folder
@given(st.data())
def test_any_bytes_end_in_a_table_or_in_a_message(tmp_path: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz"]))
    if suffix == ".parquet" and "sample.parquet" not in os.listdir(tmp_path):
        parquet(tmp_path / "sample.parquet", a=["x", "y", "x"], b=[[1.0], [2.0, 3.0], None])
    sample = (tmp_path / "sample.parquet").read_bytes() if suffix == ".parquet" else SAMPLES.get(suffix, b"")
    content = bytearray(data.draw(st.binary(max_size=60) | st.just(sample)))
    for _ in range(data.draw(st.integers(0, 4)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))]
    file = write(tmp_path / f"a{suffix}", bytes(content))
    columns = data.draw(st.none() | st.just(["a"]))
    message = None
    try:
        table, faults = open_table(file, columns, strings=["a"])
    except ValueError as error:
        message = str(error)
    if message is not None:
        assert "\n" not in message
        assert f"a{suffix}" in message
        return
    assert len(rows_of(table)) == len(table) > 0
    assert all(fault.row.startswith(f"a{suffix}:") for fault in faults)
