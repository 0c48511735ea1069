from __future__ import annotations

import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datamodules.cells import Cells
from datamodules.columns import Column, Place
from datamodules.faults import InputError
from datamodules.inputs import inputs_of
from datamodules.sources import UnreadableInputsError
from datamodules.tables import Table
from tests.datamodules import odd_files as odd


def cells_of(spec: Column, folder: Path | str = ".", is_fenced: bool = False, **columns: Any) -> Cells:
    data = pa.table(columns)
    return Cells(Table("t", data), spec, Place(str(folder), is_fenced), np.arange(len(data)))


def loaded(spec: Column, folder: Path | str = ".", **columns: Any) -> list[Any]:
    source = cells_of(spec, folder, **columns)
    return [source.load(position) for position in range(len(source))]


def num_keys(source: Cells) -> int:
    """Return how many different keys the inputs have."""
    return len(set(source.keys(np.arange(len(source))).tolist()))


WORDS = Column("sequence", of="text", column="x")
BY_SEMICOLON = Column("sequence", of="text", column="x", separator=";")
FRONT_AND_BACK = Column("sequence", of="text", columns=["front", "back"])
MIXED = Column("table", numeric=["age"], categorical=["sex"])


@pytest.mark.parametrize(
    ("spec", "columns", "expected"),
    [
        (WORDS, {"x": [["a", "b"], ["c", None, " "]]}, [["a", "b"], ["c"]]),
        (WORDS, {"x": ["a;b", '["a", "b"]', "[3]"]}, [["a;b"], ["a", "b"], ["3"]]),
        (BY_SEMICOLON, {"x": ["a; b;;", ";c", "d"]}, [["a", "b"], ["c"], ["d"]]),
        (FRONT_AND_BACK, {"front": ["a", None], "back": ["b", "c"]}, [["a", "b"], ["c"]]),
        # the order is that of the settings, not of the file
        (FRONT_AND_BACK, {"back": ["b"], "front": ["a"]}, [["a", "b"]]),
    ],
)
def test_sequences(spec: Column, columns: dict[str, Any], expected: list[list[str]]) -> None:
    assert loaded(spec, **columns) == expected


def test_a_sequence_of_vectors() -> None:
    spec = Column("sequence", of="array", column="x")
    for cell in ([[1.0, 2.0], [3.0, 4.0]], "[[1, 2], [3, 4]]"):
        (items,) = loaded(spec, x=[cell])
        assert [item.tolist() for item in items] == [[1, 2], [3, 4]]


def test_items_of_a_sequence_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(odd.picture())
    columns = {"front": ["a.png", "none.png", "a.png"], "back": ["none.png", "gone.png", "a.png"]}
    names = ["front", "back"]
    table, place, rows = Table("t", pa.table(columns)), Place(str(tmp_path)), np.arange(3)
    allowed = inputs_of(table, Column("sequence", of="image", columns=names, missing="allow"), place, rows)
    assert allowed.index_R.tolist() == [0, -1, 2]
    assert not allowed.faults
    assert [len(allowed.source.load(position)) for position in (0, 2)] == [1, 2]
    # the key tells how many are there
    assert len(set(allowed.source.keys(np.array([0, 2])))) == 2
    refused = inputs_of(table, Column("sequence", of="image", columns=names), place, rows)
    assert {row: fault.kind for row, fault in refused.faults.items()} == {1: "missing file"}
    with pytest.raises(InputError, match="no such file"):
        refused.source.load(0)
    assert len(refused.source.load(2)) == 2


@pytest.mark.parametrize("cell", ["[]", '["", " "]', ";", " ; ;"])
def test_a_sequence_of_nothing_is_absent(cell: str) -> None:
    table, place = Table("t", pa.table({"x": ["a", cell, "b;c"]})), Place(".")
    found = inputs_of(table, BY_SEMICOLON, place, np.arange(3))
    assert {row: (fault.kind, fault.row) for row, fault in found.faults.items()} == {1: ("missing cell", "t#1")}
    spec = Column("sequence", of="text", column="x", separator=";", missing="allow")
    found = inputs_of(table, spec, place, np.arange(3))
    assert not found.faults
    assert found.index_R.tolist() == [0, -1, 2]
    assert [found.source.load(position) for position in (0, 2)] == [["a"], ["b", "c"]]
    with pytest.raises(InputError, match="has no items"):
        found.source.load(1)


def test_tables() -> None:
    assert loaded(MIXED, age=["1.5", None, " ", "nan"], sex=["f", "", None, "m"]) == [
        {"age": 1.5, "sex": "f"},
        {"age": None, "sex": None},
        {"age": None, "sex": None},
        {"age": None, "sex": "m"},
    ]


@pytest.mark.parametrize("cells", [[1], [1.0], ["1"]])
def test_one_category_in_three_types(cells: list[Any]) -> None:
    assert loaded(Column("table", categorical=["x"]), x=cells) == [{"x": "1"}]


@pytest.mark.parametrize(("cell", "expected"), [(1, 1.0), (True, 1.0), ("1e3", 1000.0), (" 7 ", 7.0), (2.5, 2.5)])
def test_numbers_in_many_types(cell: Any, expected: float) -> None:
    assert loaded(Column("table", numeric=["x"]), x=[cell]) == [{"x": expected}]


def test_files_inside_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(odd.picture())
    structs = [
        {"bytes": odd.picture(), "path": "x.png"},
        {"bytes": None, "path": "a.png"},
        {"bytes": b"", "path": None},
    ]
    spec = Column("image", column="x")
    source = cells_of(spec, tmp_path, x=structs)
    assert source.load(0).size == source.load(1).size == (64, 48)
    with pytest.raises(InputError):
        source.load(2)
    assert [source.name(position) for position in range(3)] == ["x.png", "a.png", "a file in the table"]
    # what matters is the picture, not where it lies
    assert source.content(0) == source.content(1)
    assert cells_of(spec, x=[odd.picture()]).load(0).size == (64, 48)
    samples, rate = cells_of(Column("audio", column="x"), x=[{"bytes": odd.sound(), "path": None}]).load(0)
    assert (samples.shape, rate) == ((8_000, 1), 16_000)
    (items,) = loaded(Column("sequence", of="image", column="x"), tmp_path, x=[structs[:2]])
    assert len(items) == 2
    absent = inputs_of(
        Table("t", pa.table({"x": [*structs, {"bytes": None, "path": None}]})), spec, Place(str(tmp_path)), np.arange(4)
    )
    assert absent.index_R.tolist() == [0, 1, 2, -1]


@pytest.mark.parametrize(
    ("spec", "columns"),
    [
        (WORDS, {"x": [["ab", "c"], ["a", "bc"], ["abc"], ["c", "ab"]]}),
        (Column("text", column="x"), {"x": ["1", "1.0", "one", " one"]}),
        (MIXED, {"age": [1, 1, None, None], "sex": ["f", None, "f", None]}),
        (MIXED, {"age": ["1", "2"], "sex": ["2", "1"]}),
        (Column("array", column="x"), {"x": [[1.0, 2.0], [2.0, 1.0], [12.0], [1.0, 2.0, 0.0]]}),
    ],
)
def test_keys_differ_where_the_content_does(spec: Column, columns: dict[str, Any]) -> None:
    source = cells_of(spec, **columns)
    assert num_keys(source) == len(source)
    twice = cells_of(spec, **{name: cells * 2 for name, cells in columns.items()})
    assert num_keys(twice) == len(source)


def test_keys_are_of_the_files_content(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(odd.picture())
    (tmp_path / "b.png").write_bytes(odd.picture())
    (tmp_path / "c.png").write_bytes(odd.gray16())
    source = cells_of(Column("image", column="x"), tmp_path, x=["a.png", "b.png", "c.png"])
    first, second, third = source.keys(np.arange(3))
    assert first == second != third
    (tmp_path / "b.png").write_bytes(odd.gray16())
    assert source.keys(np.arange(3))[1] == third
    (tmp_path / "c.png").unlink()
    with pytest.raises(UnreadableInputsError, match=r"t#2, column 'x': c.png: no such file"):
        source.keys(np.arange(3))


def test_the_key_of_an_archive_is_of_the_array_that_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(odd.npz(a=odd.npy([1]), b=odd.npy([2])))
    sources = [cells_of(Column("array", column="x", key=key), tmp_path, x=["x.npz"]) for key in ("a", "b")]
    assert [source.load(0).tolist() for source in sources] == [[1], [2]]
    assert len({source.keys(np.arange(1))[0] for source in sources}) == 2


def test_text_of_other_types() -> None:
    text = Column("text", column="x")
    assert loaded(text, x=["a\nb", "\N{CAT}"]) == ["a\nb", "\N{CAT}"]
    assert loaded(text, x=[1, 2]) == ["1", "2"]
    assert loaded(text, x=[b"caf\xc3\xa9"]) == ["café"]
    with pytest.raises(InputError, match="not UTF-8"):
        loaded(text, x=[b"\xff"])
    with pytest.raises(InputError, match="expected text, found list"):
        loaded(text, x=[["a"]])


def test_rows_share_an_input_that_is_the_same() -> None:
    table = Table("t", pa.table({"x": ["b", "a", None, "b", " ", "a"]}))
    found = inputs_of(table, Column("text", column="x", missing="allow"), Place("."), np.array([5, 0, 2, 3, 4]))
    assert [found.source.load(place) if place >= 0 else None for place in found.index_R] == ["a", "b", None, "b", None]
    assert len(found.source) == 2


@pytest.mark.parametrize(
    ("folder", "path", "is_fenced", "expected"),
    [
        ("root", "a/b.png", False, "root/a/b.png"),
        ("root", "../b.png", False, "root/../b.png"),
        ("root", "/b.png", False, "/b.png"),
        ("root", "a/../b.png", True, "root/a/../b.png"),
        ("root", "https://host/b.png", False, "https://host/b.png"),
        ("https://host/data/", "a.png", True, "https://host/data/a.png"),
        ("https://host/data", "/a.png", True, "https://host/data/a.png"),
        ("root", "../b.png", True, None),
        ("root", "/b.png", True, None),
        ("root", "../root2/b.png", True, None),
        ("root", "https://host/b.png", True, None),
        ("root", "file:///b.png", True, None),
        ("https://host/data", "../a.png", True, None),
        ("https://host/data", "%2e%2e/a.png", True, None),
        ("https://host/data", "https://host/data2/a.png", True, None),
        ("https://host/data", "https://else/a.png", True, None),
    ],
)
def test_places(folder: str, path: str, is_fenced: bool, expected: str | None) -> None:
    place = Place(folder, is_fenced)
    if expected is None:
        with pytest.raises(InputError, match="leads out of") as raised:
            place.locate(path)
        assert raised.value.kind == "outside root"
    else:
        assert place.locate(path) == expected


def test_a_link_inside_the_root_may_lead_anywhere_in_it(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.png").write_bytes(odd.picture())
    (tmp_path / "root" / "b.png").symlink_to(tmp_path / "root" / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    for folder in ("root", "link"):
        place = Place(str(tmp_path / folder), is_fenced=True)
        assert Path(place.locate("b.png")).read_bytes() == odd.picture()
        with pytest.raises(InputError, match="leads out of"):
            place.locate("out/secret.png")


def test_a_server_that_does_not_answer_is_not_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt.png").write_bytes(odd.picture())
    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    table = Table("t", pa.table({"x": [f"{host}/a.txt.png", f"{host}/none.png", "http://127.0.0.1:9/a.png"]}))
    found = inputs_of(table, Column("image", column="x", missing="allow"), Place("."), np.arange(3))
    assert found.index_R.tolist() == [0, -1, 2]
    assert found.source.load(0).size == (64, 48)
    for position, kind in ((1, "missing file"), (2, "unreadable file")):
        with pytest.raises(InputError) as raised:
            found.source.load(position)
        assert raised.value.kind == kind
    server.shutdown()
    server.server_close()
