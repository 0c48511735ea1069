from __future__ import annotations

from pathlib import Path

import pytest

from crossmodal.report.history import MOST_POINTS, read_history, thinned


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


def test_a_long_curve_is_thinned_to_means_and_keeps_its_last_step() -> None:
    points = [(step, float(step)) for step in range(10 * MOST_POINTS + 3)]
    found = thinned(points)
    assert len(found) <= MOST_POINTS
    assert found[-1][0] == points[-1][0]
    size = found[0][0] + 1
    assert found[0][1] == sum(range(size)) / size
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]
