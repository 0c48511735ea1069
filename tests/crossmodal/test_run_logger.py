from __future__ import annotations

import csv
from pathlib import Path

import pytest

from crossmodal import run_logger
from crossmodal.run_folder import RunFolder
from crossmodal.run_logger import RunLogger


def log(run: RunFolder, steps: range, *, first_step: int = 0, name: str = "train/loss") -> None:
    logger = RunLogger(run, first_step=first_step)
    for step in steps:
        logger.log_metrics({name: step + first_step / 1000}, step=step)
        logger.save()


def rows(run: RunFolder) -> list[dict[str, str]]:
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_going_on_keeps_the_rows_before_its_first_step(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path, "dots")
    log(run, range(8))
    log(run, range(5, 10), first_step=5)
    assert [(int(row["step"]), float(row["train/loss"])) for row in rows(run)] == [
        *((step, step) for step in range(5)),
        *((step, step + 0.005) for step in range(5, 10)),
    ]


def test_a_new_run_begins_an_empty_file(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path, "dots")
    log(run, range(3))
    log(run, range(2))
    assert [row["step"] for row in rows(run)] == ["0", "1"]


def test_a_figure_that_comes_later_gets_its_column(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path, "dots")
    log(run, range(2))
    log(run, range(2, 4), first_step=2, name="val/loss")
    assert [(row["train/loss"], row["val/loss"]) for row in rows(run)] == [
        ("0.0", ""), ("1.0", ""), ("", "2.002"), ("", "3.002"),
    ]  # fmt: skip


def test_killed_as_soon_as_it_goes_on_no_row_is_lost(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path, "dots")
    log(run, range(8))
    logger = RunLogger(run, first_step=5)
    logger.log_metrics({"train/loss": 5.005}, step=5)  # and killed before it is saved
    assert [row["step"] for row in rows(run)][:5] == ["0", "1", "2", "3", "4"]


def test_what_is_logged_is_in_the_file_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.new(tmp_path, "dots")
    logger = RunLogger(run)
    now = 100.0
    monkeypatch.setattr(run_logger.time, "monotonic", lambda: now)
    logger.log_metrics({"train/loss": 0.0}, step=0)
    assert len(rows(run)) == 1
    now = 100.5
    logger.log_metrics({"train/loss": 1.0}, step=1)
    assert len(rows(run)) == 1
    now = 101.0
    logger.log_metrics({"train/loss": 2.0}, step=2)
    assert [row["step"] for row in rows(run)] == ["0", "1", "2"]


def test_killed_while_a_column_is_added_no_row_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.new(tmp_path, "dots")
    log(run, range(8))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    logger = RunLogger(run, first_step=99)
    with pytest.raises(KeyboardInterrupt):
        logger.log_metrics({"val/loss": 1.0}, step=8)
    assert [row["step"] for row in rows(run)] == [str(step) for step in range(8)]


def test_a_name_of_several_lines_is_one_column(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path, "dots")
    logger = RunLogger(run)
    logger.log_metrics({"val/recall/not\r\nsure": 0.5, "val/loss": 1.0}, step=0)
    logger.save()
    (row,) = rows(run)
    assert (row["val/recall/not sure"], row["val/loss"]) == ("0.5", "1.0")
    assert (run.path / "metrics.csv").read_text().count("\n") == 2
