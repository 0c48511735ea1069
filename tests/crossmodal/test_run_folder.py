from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crossmodal.run_folder import RunFolder, checkpoint_to_evaluate, given_run, run_to_go_on_with, trained_run


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
    assert RunFolder.of_checkpoint(Path(inside)).path.absolute() == run.path
    assert RunFolder.of_checkpoint(run.path / inside).path == Path(".")
    monkeypatch.chdir(tmp_path)
    assert RunFolder.of_checkpoint(run.path / inside).path == Path("dots/0")
    assert run.checkpoint("last") == run.path / "checkpoints" / "last.ckpt"


def test_figures_are_written_whole(tmp_path: Path) -> None:
    run = RunFolder.new(tmp_path, "dots")
    path = run.write("metrics.json", {"test/accuracy": 0.5, "epoch": 3})
    assert path == run.path / "metrics.json"
    assert json.loads(path.read_text()) == {"test/accuracy": 0.5, "epoch": 3}
    run.write("one_row.json", {"test/r2": float("nan"), "test/mae": 0.5})
    assert (run.path / "one_row.json").read_text() == '{\n  "test/mae": 0.5,\n  "test/r2": null\n}\n'
    with pytest.raises(TypeError):
        run.write("metrics.json", {"test/accuracy": object()})
    assert json.loads(path.read_text())["epoch"] == 3


def test_the_checkpoint_to_evaluate(tmp_path: Path) -> None:
    runs = [RunFolder.new(tmp_path, "dots") for _ in range(2)]
    with pytest.raises(ValueError, match="needs --ckpt_path"):
        checkpoint_to_evaluate("test", None, tmp_path, "dots")
    with pytest.raises(ValueError, match="no best checkpoint of 'dots' in"):
        checkpoint_to_evaluate("test", "best", tmp_path, "dots")
    runs[0].checkpoint("best").parent.mkdir()
    runs[0].checkpoint("best").touch()
    assert checkpoint_to_evaluate("test", "best", tmp_path, "dots") == runs[0].checkpoint("best")
    assert checkpoint_to_evaluate("test", "some.ckpt", tmp_path, "dots") == Path("some.ckpt")


def test_a_run_that_is_removed_leaves_nothing(tmp_path: Path) -> None:
    first, second = (RunFolder.new(tmp_path, "dots") for _ in range(2))
    second.write("metrics.json", {})
    second.remove()
    assert first.path.exists()
    first.remove()
    assert not list(tmp_path.iterdir())


def test_a_runs_folder_means_its_own_checkpoints(tmp_path: Path) -> None:
    older, newest = RunFolder.new(tmp_path, "dots"), RunFolder.new(tmp_path, "dots")
    given = str(older.path)
    assert run_to_go_on_with(given, tmp_path, "dots") == older  # which was killed before its first checkpoint
    for run in (older, newest):
        run.config.touch()
        run.checkpoint("last").parent.mkdir()
        run.checkpoint("last").touch()
    assert run_to_go_on_with(given, tmp_path, "dots") == older
    assert run_to_go_on_with("last", tmp_path, "dots") == newest
    assert checkpoint_to_evaluate("test", given, tmp_path, "dots") == older.checkpoint("last")
    older.checkpoint("best").touch()
    assert checkpoint_to_evaluate("test", given, tmp_path, "dots") == older.checkpoint("best")
    # the experiment's folder means the newest run that has any
    assert checkpoint_to_evaluate("test", str(tmp_path / "dots"), tmp_path, "dots") == newest.checkpoint("last")
    with pytest.raises(ValueError, match="no run, which has a"):
        trained_run(tmp_path / "dots")  # but not in a configuration, which would mean another tomorrow
    with pytest.raises(ValueError, match="no run, which has a"):
        given_run(tmp_path)
    older.checkpoint("last").unlink()
    with pytest.raises(ValueError, match="0 has no last"):
        run_to_go_on_with(given, tmp_path, "dots")


@pytest.mark.parametrize("given", ["dots", "dots/sweep"])
def test_a_folder_of_runs_is_no_run_to_go_on_with(tmp_path: Path, given: str) -> None:
    """It would be trained in, beside the runs that it has."""
    (tmp_path / "dots/sweep/0").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"{given} is no run; give one such as .*{given}/0"):
        run_to_go_on_with(str(tmp_path / given), tmp_path, "dots")
