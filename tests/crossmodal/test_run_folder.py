from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crossmodal.run_folder import RunFolder, RunLogger


def test_versions_count_up(tmp_path: Path) -> None:
    made = [RunFolder.new(tmp_path / "runs", "dots").path.name for _ in range(12)]
    assert made == [str(version) for version in range(12)]
    latest = RunFolder.latest(tmp_path / "runs", "dots")
    assert latest == RunFolder(tmp_path / "runs" / "dots" / "11")


def test_what_is_no_version_does_not_count(tmp_path: Path) -> None:
    for name in ("best", "7.bak", ".3"):
        (tmp_path / "dots" / name).mkdir(parents=True)
    (tmp_path / "dots" / "9").write_text("a file")
    assert RunFolder.latest(tmp_path, "dots") is None
    (tmp_path / "dots" / "4").mkdir()
    assert RunFolder.latest(tmp_path, "dots") == RunFolder(tmp_path / "dots" / "4")
    assert RunFolder.new(tmp_path, "dots").path.name == "5"


def test_no_run_has_no_latest(tmp_path: Path) -> None:
    assert RunFolder.latest(tmp_path, "dots") is None
    assert not list(tmp_path.iterdir())


def test_a_name_with_folders(tmp_path: Path) -> None:
    assert RunFolder.new(tmp_path, "night/dots").path == tmp_path / "night" / "dots" / "0"
    assert RunFolder.latest(tmp_path, "night/dots") == RunFolder(tmp_path / "night" / "dots" / "0")


def test_runs_that_begin_at_once_get_different_folders(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: RunFolder.new(tmp_path, "dots").path.name, range(64)))
    assert sorted(map(int, made)) == list(range(64))


@pytest.mark.parametrize("inside", ["checkpoints/last.ckpt", "weights.ckpt"])
def test_the_run_of_a_checkpoint(tmp_path: Path, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.new(tmp_path, "dots")
    monkeypatch.chdir(run.path)
    assert RunFolder.of_checkpoint(Path(inside)) == run
    assert run.checkpoint("last") == run.path / "checkpoints" / "last.ckpt"


def test_figures_are_written_whole(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path, "dots")
    path = run.write("metrics.json", {"test/accuracy": 0.5, "epoch": 3})
    assert path == run.metrics
    assert json.loads(path.read_text()) == {"test/accuracy": 0.5, "epoch": 3}
    with pytest.raises(TypeError):
        run.write("metrics.json", {"test/accuracy": object()})
    assert json.loads(path.read_text())["epoch"] == 3


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
