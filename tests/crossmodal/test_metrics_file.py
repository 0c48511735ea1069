from __future__ import annotations

from pathlib import Path

import pytest

from crossmodal.metrics_file import MetricsFile, read_history


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "metrics.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_each_figure_has_its_own_steps(tmp_path: Path) -> None:
    path = write(tmp_path, "epoch,step,train/loss,val/loss\n0,9,1.5,\n0,19,0.5,\n0,19,,0.75\n")
    assert read_history(path) == {"train/loss": [(9, 1.5), (19, 0.5)], "val/loss": [(19, 0.75)]}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", {}),
        ("epoch,step,train/loss\n", {}),
        ("epoch,step,train/loss\n0,9,1.5\n0,19", {"train/loss": [(9, 1.5)]}),
        ("epoch,step,train/loss\n0,9,1.5\n0,19,0.59", {"train/loss": [(9, 1.5)]}),  # of 0.5938
        ("epoch,step,train/loss\n0,9,nan\n0,19,inf\n0,29,2\n", {"train/loss": [(29, 2.0)]}),
        ("epoch,step,train/loss\n0,9,1.5\n0,19,0.5,7,8\n", {"train/loss": [(9, 1.5), (19, 0.5)]}),
        (b"epoch,step,train/loss\n0,9,1.5\n\0\0\0\xff\xfe,\xff\n", {"train/loss": [(9, 1.5)]}),
        (b"\x89PNG\r\n\x1a\n\0\0", {}),
    ],
)
def test_what_was_cut_off_or_damaged_is_left_out(tmp_path: Path, content: str | bytes, found: object) -> None:
    assert read_history(write(tmp_path, content)) == found


def test_a_run_without_the_file_has_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "metrics.csv") == {}


def test_what_is_new_is_read_on(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    assert file.read() == 0
    write(tmp_path, "epoch,step,train/loss,val/loss\n0,9,1.5,\n0,19,0.")
    assert file.read() == 0
    assert file.rows == [(9, 0, {"train/loss": 1.5})]
    with file.path.open("a") as more:
        more.write("5,\n0,19,,nan\n1,29,inf,\n1,29,,nan\n")
    assert file.read() == 1
    found = [(row.step, row.epoch, *map(str, *row.figures.items())) for row in file.rows[1:]]
    assert found == [
        (19, 0, "train/loss", "0.5"),
        (19, 0, "val/loss", "nan"),
        (29, 1, "train/loss", "inf"),
        (29, 1, "val/loss", "nan"),
    ]
    assert file.not_finite == {"val/loss": (19, "nan"), "train/loss": (29, "inf")}
    assert file.read() == 5


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    """Also where it has the inode of the one before, and is longer than that was."""
    file = MetricsFile(write(tmp_path, "epoch,step,train/loss\n0,9,nan\n0,19,0.5\n"))
    assert file.read() == 0
    write(tmp_path, "epoch,step,train/loss,val/loss\n0,9,nan,\n0,19,0.5,\n0,29,0.25,\n")
    assert file.read() == 2  # the rows that were known are there
    assert [row.step for row in file.rows] == [9, 19, 29]
    write(tmp_path, "epoch,step,val/loss,train/loss\n0,9,,nan\n0,19,,0.75\n0,29,,0.125\n0,39,0.5,0.1\n")
    assert file.read() is None
    assert file.rows[1] == (19, 0, {"train/loss": 0.75})
    write(tmp_path, "epoch,step,val/loss\n0,9,0.5\n")
    assert file.read() is None
    assert file.not_finite == {}  # that was of rows that are gone
