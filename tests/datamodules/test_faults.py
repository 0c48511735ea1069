from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from datamodules.faults import Fault, FaultyRowsError, InputError, Quarantine, allowed, shown


def fault(row: str, kind: str = "missing file") -> Fault:
    return Fault(kind, "no such file", row, "photo", "a.jpg")


def test_a_fault_names_row_column_value_and_cause() -> None:
    assert str(fault("data.csv:17")) == "data.csv:17, column 'photo': a.jpg: no such file"
    of_a_class = Fault("never seen", "no row has it", column="label", value="black")
    assert str(of_a_class) == "column 'label': black: no row has it"
    assert (
        str(Fault("ragged line", "3 fields, the header has 4", "data.csv:3"))
        == "data.csv:3: 3 fields, the header has 4"
    )


def test_an_input_error_survives_a_process() -> None:
    error = pickle.loads(pickle.dumps(InputError("truncated", "is cut off")))
    assert (error.kind, str(error)) == ("truncated", "is cut off")


def test_what_is_shown_of_a_cell_is_one_short_line() -> None:
    assert shown("two\nlines") == "two\\nlines"
    assert len(shown("x" * 1000)) == 80


def test_rows_are_counted_once_and_the_first_is_told() -> None:
    said: list[str] = []
    quarantine = Quarantine(limit=0.5, say=said.append)
    quarantine.add([fault("a"), fault("b"), fault("a", "truncated")], split="train", num_rows=10)
    quarantine.add([fault("b")], split="train", num_rows=10)
    quarantine.add([fault("b")], split="val", num_rows=2)
    assert quarantine.counts == {"quarantined/train": 2, "quarantined/val": 1}
    assert len(said) == 1
    assert "a, column 'photo': a.jpg: no such file" in said[0]


def test_too_many_rows_stop_the_run() -> None:
    quarantine = Quarantine(limit=0.1, say=lambda _: None)
    quarantine.add([fault("a")], split="train", num_rows=10)
    quarantine.add([fault("x")], split="test", num_rows=10)
    with pytest.raises(ValueError, match=r"2 of the 10 rows of the test split .* the first: x, column"):
        quarantine.add([fault("y")], split="test", num_rows=10)


@pytest.mark.parametrize("limit", [-0.1, 1.5])
def test_the_limit_is_a_share(limit: float) -> None:
    with pytest.raises(ValueError, match="max_quarantined is a share"):
        Quarantine(limit=limit)


def test_the_file_lists_every_row_once_even_when_a_run_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "run" / "quarantine.jsonl"
    for goes_on in (False, True):
        quarantine = Quarantine(limit=1, say=lambda _: None)
        quarantine.add([fault("before")], split="train", num_rows=3)
        quarantine.list_in(file, goes_on=goes_on)
        quarantine.add([fault("after"), fault("before")], split="train", num_rows=3)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["row"] for row in rows] == ["before", "after"]
    assert rows[0] == {
        "kind": "missing file",
        "cause": "no such file",
        "row": "before",
        "column": "photo",
        "value": "a.jpg",
        "split": "train",
    }


def test_a_run_that_goes_on_counts_what_it_left_out_before(tmp_path: Path) -> None:
    file = tmp_path / "quarantine.jsonl"
    first = Quarantine(limit=1, say=lambda _: None)
    first.list_in(file)
    first.add([fault("a"), fault("b")], split="train", num_rows=40)
    with file.open("a") as stream:
        stream.write('{"kind": "trunc')  # it was killed here
    later = Quarantine(limit=0.05, say=lambda _: None)
    later.list_in(file, goes_on=True)
    assert later.counts == {"quarantined/train": 2}
    with pytest.raises(ValueError, match="3 of the 40 rows"):
        later.add([fault("c")], split="train", num_rows=40)
    assert [json.loads(line)["row"] for line in file.read_text().splitlines()] == ["a", "b", "c"]
    other = Quarantine(limit=0.05, say=lambda _: None)
    other.list_in(file)
    other.add([fault("d")], split="train", num_rows=40)
    assert other.counts == {"quarantined/train": 1}
    other.list_anew()
    assert [json.loads(line)["row"] for line in file.read_text().splitlines()] == ["d"]


@pytest.mark.parametrize(
    ("limit", "num_rows", "expected"),
    [(0.05, 12, 1), (0.05, 39, 1), (0.05, 40, 2), (0.07, 100, 7), (0.55, 100, 55), (0.0, 100, 0), (1.0, 3, 3)],
)
def test_how_many_rows_a_share_is(limit: float, num_rows: int, expected: int) -> None:
    assert allowed(limit, num_rows) == expected


def test_a_file_that_is_no_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "quarantine.jsonl").write_text("no list\n")
    with pytest.raises(ValueError, match=r"quarantine.jsonl: is no list of rows"):
        Quarantine(limit=1).list_in(tmp_path / "quarantine.jsonl")


def test_stopping_tells_the_first_row_how_many_more_and_what_to_do() -> None:
    message = str(FaultyRowsError([fault("a"), fault("b"), fault("c")]))
    assert message.startswith("a, column 'photo': a.jpg: no such file (and 2 more)")
    assert "crossmodal data check" in message
    assert "on_error: quarantine" in message
