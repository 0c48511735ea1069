"""What trackio is given of runs: read back from its own store."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.crossmodal.dashboard.runs import write_damaged, write_run

pytest.importorskip("trackio")

from crossmodal.dashboard.mirror import Mirror
from crossmodal.dashboard.runs import look_at, run_folders


@pytest.fixture(autouse=True)
def _store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackio import sqlite_storage, utils
    from trackio.media import media
    from trackio.media import utils as media_utils

    store = tmp_path / "store"
    store.mkdir()
    for module in (sqlite_storage, utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", store)
    for module in (sqlite_storage, utils, media, media_utils):
        if hasattr(module, "MEDIA_DIR"):
            monkeypatch.setattr(module, "MEDIA_DIR", store / "media")


def logs(name: str) -> list[dict[str, Any]]:
    from trackio.sqlite_storage import SQLiteStorage

    return list(SQLiteStorage.get_logs("runs", name))


def config(name: str) -> dict[str, Any]:
    from trackio.sqlite_storage import SQLiteStorage

    return SQLiteStorage.get_run_config("runs", name) or {}


def curve(name: str, figure: str) -> list[tuple[int, float]]:
    return [(row["step"], row[figure]) for row in logs(name) if row.get(figure) is not None]


def test_figures_settings_and_status(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "dots/0")
    write_run(runs / "study/dots/3", finished=False)
    found = {run.name: run for run in Mirror(runs, "runs").update()}
    assert {name: run.status for name, run in found.items()} == {"dots/0": "finished", "study/dots/3": "stopped"}
    assert curve("dots/0", "train/loss") == [(step, pytest.approx(1 / (1 + step))) for step in range(20)]
    assert [step for step, _ in curve("dots/0", "val/accuracy")] == [0, 5, 10, 15]
    assert config("dots/0")["model.fusion.class_path"] == "WorkspaceFusion"
    assert config("dots/0")["final test/accuracy"] == 0.75
    assert config("study/dots/3")["_Group"] == "study/dots"


def test_what_is_added_is_brought_once_and_what_is_written_again_replaces(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    path = write_run(runs / "dots/0", steps=10, finished=False)
    mirror = Mirror(runs, "runs")
    assert len(list(mirror.update())) == 1
    assert list(mirror.update()) == []
    with (path / "metrics.csv").open("a") as file:
        file.write("1,10,0.5,\n1,11,0.2")  # the last is being written
    list(mirror.update())
    assert curve("dots/0", "train/loss")[9:] == [(9, pytest.approx(0.1)), (10, 0.5)]
    lines = (path / "metrics.csv").read_text().splitlines()
    (path / "metrics.csv").write_text("\n".join([*lines[:6], "0,5,7.0,", ""]))  # it went on from step 5
    list(mirror.update())
    assert [step for step, _ in curve("dots/0", "train/loss")] == [0, 1, 2, 3, 4, 5]
    assert curve("dots/0", "train/loss")[-1] == (5, 7.0)


def test_a_run_that_is_followed_from_its_start_lacks_no_row(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    path = write_run(runs / "dots/0", finished=False)
    history = (path / "metrics.csv").read_text()
    (path / "metrics.csv").unlink()
    mirror = Mirror(runs, "runs")
    list(mirror.update())
    (path / "metrics.csv").write_text(history)
    list(mirror.update())
    assert len(curve("dots/0", "train/loss")) == 20


def test_a_run_that_is_mended_has_one_name(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    path = write_run(runs / "dots/0", media=True)
    config_text = (path / "config.yaml").read_text()
    mirror = Mirror(runs, "runs")
    for content, name, other in (
        (config_text, "dots/0", "dots/0 (damaged)"),
        ("name: [x\n  y", "dots/0 (damaged)", "dots/0"),
        (config_text, "dots/0", "dots/0 (damaged)"),
    ):
        (path / "config.yaml").write_text(content)
        list(mirror.update())
        assert len(curve(name, "train/loss")) == 20
        assert sum("val/confusion" in row for row in logs(name)) == 1
        assert logs(other) == []


def test_figures_that_are_not_finite_are_told(tmp_path: Path) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    runs = tmp_path / "runs"
    path = write_run(runs / "dots/0", steps=3)
    with (path / "metrics.csv").open("a") as file:
        file.write("0,3,nan,inf\n0,4,nan,0.5\n")
    list(Mirror(runs, "runs").update())
    assert [step for step, _ in curve("dots/0", "train/loss")] == [0, 1, 2]
    titles = {alert["title"] for alert in SQLiteStorage.get_alerts("runs")}
    assert titles == {"dots/0: train/loss was nan at step 3", "dots/0: val/accuracy was inf at step 3"}


def test_a_column_that_is_added_brings_no_row_twice(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    path = write_run(runs / "dots/0", steps=4, finished=False)
    mirror = Mirror(runs, "runs")
    list(mirror.update())
    header, *lines = (path / "metrics.csv").read_text().splitlines()
    other = path / "other.csv"  # as the logger does: written beside it, and renamed
    other.write_text("\n".join([f"{header},val/new", *(f"{line}," for line in lines), "0,4,0.1,,0.7", ""]))
    other.replace(path / "metrics.csv")
    list(mirror.update())
    assert [step for step, _ in curve("dots/0", "train/loss")] == [0, 1, 2, 3, 4]
    assert curve("dots/0", "val/new") == [(4, 0.7)]


def test_who_stops_in_between_is_brought_the_rest_the_next_time(tmp_path: Path) -> None:
    """So that a run that trains is followed while the media of many others are still to be drawn."""
    runs = tmp_path / "runs"
    for number in range(3):
        write_run(runs / f"dots/{number}", media=True)
    mirror = Mirror(runs, "runs")
    for count, _ in enumerate(mirror.update()):
        if count == 3:  # all figures, and the first of the media
            break
    with (runs / "dots/0/metrics.csv").open("a") as file:
        file.write("1,20,0.5,\n")
    assert next(mirror.update()).name == "dots/0"
    assert curve("dots/0", "train/loss")[-1] == (20, 0.5)
    list(mirror.update())
    for number in range(3):
        names = {name for row in logs(f"dots/{number}") for name in row if name.startswith("val/")}
        assert {"val/confusion", "val/calibration", "val/examples"} <= names


def test_pictures_tables_and_sounds(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    path = write_run(runs / "dots/0", media=True)
    mirror = Mirror(runs, "runs")
    list(mirror.update())
    shown = {name: value for row in logs("dots/0") for name, value in row.items() if isinstance(value, dict)}
    assert {name: value["_type"] for name, value in shown.items()} == {
        "val/confusion": "trackio.image",
        "val/calibration": "trackio.image",
        "val/examples": "trackio.table",
        "val/examples/speech/val/1": "trackio.audio",
    }
    (row,) = shown["val/examples"]["_value"]
    assert (row["target"], row["prediction"], row["by image"], row["disagreement"]) == ("yes", "no", "yes", 0.25)
    for image in (path / "media").glob("*.png"):
        image.unlink()
    (path / "media.jsonl").write_text((path / "media.jsonl").read_text().replace('"step": 5', '"step": 6'))
    list(mirror.update())
    assert any("cannot be shown" in name for row in logs("dots/0") for name in row)


def test_damaged_runs_are_listed_with_their_fault_and_break_nothing(tmp_path: Path) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    runs = tmp_path / "runs"
    write_run(runs / "dots/0")
    names = write_damaged(runs)
    found = {run.name: run for run in Mirror(runs, "runs").update()}
    assert found.keys() == {"dots/0", *names}
    for name in names:
        assert found[name].status == "damaged"
        assert all("\n" not in fault for fault in found[name].faults)
        assert config(f"{name} (damaged)")["fault"]
    assert "config.yaml" in found["yaml/0"].faults[0]
    assert "metrics.json cannot be read" in found["json/0"].faults[0]
    assert len(curve("json/0 (damaged)", "train/loss")) == 20
    assert len(SQLiteStorage.get_alerts("runs")) >= len(names)


def test_what_breaks_one_run_leaves_the_others(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    broken = write_run(runs / "broken/0")
    (broken / "metrics.csv").write_text('step,a\n0,"' + "x" * 200_000 + "\n")  # beyond what a cell may have
    (broken / "media.jsonl").write_text('{"step": 1, "name": ["x"], "kind": "curve"}\n')
    odd = write_run(runs / "odd/0")
    row = {"id": "1", "inputs": [1], "experts": None, "target": "", "prediction": "", "disagreement": None}
    line = {"step": 1, "name": "val/examples", "kind": "examples", "rows": [row]}
    (odd / "media.jsonl").write_text(json.dumps(line) + "\n")
    write_run(runs / "dots/0", media=True)
    found = {run.name for run in Mirror(runs, "runs").update()}
    assert found == {"broken/0", "odd/0", "dots/0"}
    assert curve("dots/0", "train/loss")
    assert any("val/examples" in row for row in logs("dots/0"))


def test_a_run_that_is_killed_changes_no_file_and_is_noticed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs/dots/0", finished=False)
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True)"
    mirror = Mirror(tmp_path / "runs", "runs")
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; input()", str(path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert [run.status for run in mirror.update()] == ["training"]
        assert config("dots/0")["status"] == "training"
        holder.kill()
    assert [run.status for run in mirror.update()] == ["stopped"]
    assert config("dots/0")["status"] == "stopped"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_read_is_listed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs/dots/0")
    path.chmod(0)
    try:
        assert look_at(path, tmp_path / "runs").status == "damaged"
    finally:
        path.chmod(0o755)


def test_a_run_that_trains_is_told_by_its_lock(tmp_path: Path) -> None:
    path = write_run(tmp_path / "runs/dots/0", finished=False)
    history = (path / "metrics.csv").read_bytes()
    (path / "metrics.csv").unlink()  # nothing is logged yet
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True)"
    hold += "; input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        found = look_at(path, tmp_path / "runs")
        assert (found.status, found.faults) == ("training", [])
        config = (path / "config.yaml").read_text()
        (path / "config.yaml").unlink()  # it is not written yet, either
        found = look_at(path, tmp_path / "runs")
        assert (found.status, found.faults) == ("training", [])
        (path / "config.yaml").write_text(config)
        holder.communicate("\n")
    assert look_at(path, tmp_path / "runs").status == "damaged"
    (path / "metrics.csv").write_bytes(history)
    assert look_at(path, tmp_path / "runs").status == "stopped"
    with (path / ".lock").open("w") as file:  # to ask has left nothing behind
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_newest_come_first_and_other_folders_are_no_runs(tmp_path: Path) -> None:
    for number in range(3):
        path = write_run(tmp_path / f"dots/{number}", media=True)
        for file in path.iterdir():
            os.utime(file, (1000 + number, 1000 + number))
    (tmp_path / "features/0").mkdir(parents=True)
    (tmp_path / "dots/check").mkdir()
    (tmp_path / "dots/check/check.json").write_text(json.dumps({}))
    assert [path.name for _, path in run_folders(tmp_path)] == ["2", "1", "0"]


def test_a_run_that_is_deleted_is_gone(tmp_path: Path) -> None:
    from shutil import rmtree

    runs = tmp_path / "runs"
    write_run(runs / "dots/0")
    write_run(runs / "dots/1")
    mirror = Mirror(runs, "runs")
    list(mirror.update())
    rmtree(runs / "dots/0")
    list(mirror.update())
    assert logs("dots/0") == []
    assert logs("dots/1")


def test_rows_that_could_not_be_written_are_brought_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the disk is full for a while, or another process has locked the store."""
    from trackio.sqlite_storage import SQLiteStorage

    runs = tmp_path / "runs"
    path = write_run(runs / "dots/0", steps=5, finished=False)
    mirror = Mirror(runs, "runs")
    list(mirror.update())
    with (path / "metrics.csv").open("a") as file:
        file.write("1,5,0.25,\n")

    def locked(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(SQLiteStorage, "bulk_log", locked)
        with pytest.raises(sqlite3.OperationalError):
            list(mirror.update())
    with (path / "metrics.csv").open("a") as file:
        file.write("1,6,0.125,\n")
    list(mirror.update())
    assert curve("dots/0", "train/loss")[5:] == [(5, 0.25), (6, 0.125)]


def test_a_trial_is_a_run_as_soon_as_it_has_begun(tmp_path: Path) -> None:
    trial = tmp_path / "runs/dots/sweep/0"
    trial.mkdir(parents=True)
    (trial / "trial.lock").touch()  # of the sweep, seconds before its process has imported all
    assert run_folders(tmp_path / "runs") == []
    (trial / "config.yaml").touch()
    assert [path for _, path in run_folders(tmp_path / "runs")] == [trial]
    (trial / "config.yaml").unlink()
    (trial / "metrics.csv").touch()  # it has trained, and is damaged
    assert [path for _, path in run_folders(tmp_path / "runs")] == [trial]


def test_a_run_that_went_on_is_taken_back_as_soon_as_the_store_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    path = write_run(tmp_path / "runs/dots/0", steps=5, finished=False)
    mirror = Mirror(tmp_path / "runs", "runs")
    list(mirror.update())
    rows = (path / "metrics.csv").read_text().splitlines()
    (path / "metrics.csv").write_text("\n".join([*rows[:3], "0,2,-2,", "0,3,-3,"]) + "\n")

    def locked(*_: Any, **__: Any) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(SQLiteStorage, "delete_run", locked)
        with pytest.raises(sqlite3.OperationalError):
            list(mirror.update())
    list(mirror.update())
    assert curve("dots/0", "train/loss") == [(0, 1.0), (1, 0.5), (2, -2.0), (3, -3.0)]


def test_a_store_that_cannot_be_locked_is_no_damaged_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trackio.sqlite_storage import SQLiteStorage

    write_run(tmp_path / "runs/dots/0", steps=5, media=True)
    mirror = Mirror(tmp_path / "runs", "runs")

    def busy(*_: Any, **__: Any) -> None:
        raise OSError("Could not acquire database lock after 10 seconds")

    with monkeypatch.context() as patched:
        patched.setattr(SQLiteStorage, "bulk_log", busy)
        with pytest.raises(OSError, match="Could not acquire"):
            list(mirror.update())
    updates = mirror.update()
    next(updates)  # its figures
    with monkeypatch.context() as patched:
        patched.setattr(SQLiteStorage, "bulk_log", busy)
        with pytest.raises(OSError, match="Could not acquire"):
            list(updates)
    list(mirror.update())
    assert len(curve("dots/0", "train/loss")) == 5
    assert any("val/confusion" in row for row in logs("dots/0"))
    assert SQLiteStorage.get_alerts("runs") == []
