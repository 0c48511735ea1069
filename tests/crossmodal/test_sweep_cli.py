"""`crossmodal sweep`, as a user runs it, with real runs as its trials."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import struct
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser import window
from tests.conftest import ROOT, Running, Zygote

SEARCH = (
    "--search", "model.optimizer.init_args.lr=1e-4..1e-2:log",
    "--search", "model.fusion.init_args.slots=2,4",
)  # fmt: skip


def write_experiment(folder: Path, *, epochs: int) -> None:
    dots: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    dots["trainer"] |= {"max_epochs": epochs, "logger": False}
    dots["data"]["init_args"] |= {"num_pictures": 64, "batch_size": 16}
    (folder / "dots.yaml").write_text(yaml.safe_dump(dots))


def trials(folder: Path) -> list[tuple[Any, ...]]:
    found = json.loads((folder / "runs/dots/sweep/sweep.json").read_text())
    return [(one["number"], one["state"], one["value"], one["settings"]) for one in found["trials"]]


@pytest.fixture(scope="module")
def swept(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("sweep")
    write_experiment(folder, epochs=2)
    status, output = crossmodal.run("sweep", "--config", "dots.yaml", "--n", 2, *SEARCH, cwd=folder)
    assert status == 0, output
    return folder, output


def test_each_trial_is_a_run_and_the_first_is_the_experiment_itself(swept: tuple[Path, str]) -> None:
    folder, output = swept
    assert output.startswith("sweep: runs/dots/sweep, 2 trials, to maximize val/accuracy\n")
    assert re.search(r"^trial 0  val/accuracy 0\.\d{4}  lr 0\.003  slots 4  \d+\.\d s$", output, re.MULTILINE)
    assert re.search(r"^best: trial \d  val/accuracy", output, re.MULTILINE)
    assert output.endswith("page: crossmodal report runs/dots/sweep\n")
    for number, state, value, settings in trials(folder):
        run = folder / "runs/dots/sweep" / str(number)
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert state == "complete"
        assert value == json.loads((run / "metrics.json").read_text())["val/accuracy"]
        assert config["model"]["optimizer"]["init_args"]["lr"] == settings["model.optimizer.init_args.lr"]
        assert config["model"]["fusion"]["init_args"]["slots"] == settings["model.fusion.init_args.slots"]
        assert config["name"] == "dots/sweep"
    assert trials(folder)[0][3] == {"model.optimizer.init_args.lr": 0.003, "model.fusion.init_args.slots": 4}


def test_a_trial_that_is_run_again_by_its_configuration_gives_the_same(
    crossmodal: Zygote, swept: tuple[Path, str]
) -> None:
    folder, _ = swept
    status, output = crossmodal.run(
        "fit", "--config", "runs/dots/sweep/1/config.yaml", "--name", "again", "--json", cwd=folder
    )
    assert status == 0, output
    assert json.loads(output)["figures"]["val/accuracy"] == trials(folder)[1][2]


def test_the_same_command_has_nothing_to_do_and_another_search_is_refused(
    crossmodal: Zygote, swept: tuple[Path, str]
) -> None:
    folder, _ = swept
    before = trials(folder)
    status, output = crossmodal.run("sweep", "--config", "dots.yaml", "--n", 2, *SEARCH, "--json", cwd=folder)
    assert status == 0, output
    told = json.loads(output)
    assert told["paths"] == {
        "run": f"runs/dots/sweep/{told['figures']['trial']}",
        "trials": "runs/dots/sweep/sweep.json",
    }
    assert told["figures"]["val/accuracy"] == max(value for _, _, value, _ in before)
    assert trials(folder) == before
    status, output = crossmodal.run("sweep", "--config", "dots.yaml", "--n", 3, *SEARCH[:2], cwd=folder)
    assert status == 2
    assert output.startswith("crossmodal: error: runs/dots/sweep began with another")
    status, output = crossmodal.run(
        "sweep", "--config", "dots.yaml", "--n", 3, *SEARCH, "--trainer.max_epochs", 3, cwd=folder
    )
    assert status == 2
    assert "runs/dots/sweep began with another trainer.max_epochs (2, now 3)" in output
    assert trials(folder) == before


def test_the_page_about_a_sweep(crossmodal: Zygote, swept: tuple[Path, str]) -> None:
    folder, _ = swept
    status, output = crossmodal.run("report", "runs/dots/sweep", cwd=folder)
    assert status == 0, output
    page = (folder / "runs/dots/sweep/report.html").read_text()
    assert "What was tried, and what it came to" in page
    assert re.search(r"crossmodal fit --config runs/dots/sweep/\d/config.yaml --name dots\b", page)
    status, output = crossmodal.run("report", "runs/dots/sweep", "runs/dots/sweep/0", cwd=folder)
    assert status == 2
    assert "runs/dots/sweep is a sweep, which has a page of its own" in output
    status, output = crossmodal.run("report", "runs/dots", cwd=folder)
    assert status == 2
    assert output.endswith("; there is a sweep: runs/dots/sweep\n")
    status, output = crossmodal.run("report", "runs/dots/sweep", "--output", "dots.yaml/page.html", cwd=folder)
    assert status == 1
    assert re.search(r"dots.yaml/page.html: .*; give another file with --output\n$", output)
    status, output = crossmodal.run("report", "runs/dots/sweep/0", cwd=folder)  # a trial is a run like any other
    assert status == 0, output


@pytest.mark.parametrize(
    ("file", "content", "status"),
    [("search.json", b"{", 2), ("sweep.db", b"SQLite format 3\0 cut off", 1), ("sweep.json", b'{"name": ', 0)],
)
def test_a_file_that_is_damaged_is_named(
    crossmodal: Zygote, swept: tuple[Path, str], tmp_path: Path, file: str, content: bytes, status: int
) -> None:
    folder, _ = swept
    shutil.copytree(folder / "runs", tmp_path / "runs")
    shutil.copy(folder / "dots.yaml", tmp_path)
    path = tmp_path / "runs/dots/sweep" / file
    path.write_bytes(content)
    found, output = crossmodal.run("report", "runs/dots/sweep", cwd=tmp_path)
    if file == "sweep.json":
        assert found == 1
        assert "runs/dots/sweep/sweep.json: is not as `crossmodal sweep` wrote it" in output
    found, output = crossmodal.run("sweep", "--config", "dots.yaml", "--n", 2, *SEARCH, cwd=tmp_path)
    assert found == status, output
    assert "Traceback" not in output
    if status:
        assert re.search(rf"^crossmodal: error: runs/dots/sweep/{file} .*delete runs/dots/sweep", output, re.MULTILINE)
    else:  # it is made from the others
        assert trials(tmp_path) == trials(folder)


def test_a_folder_that_cannot_be_written(crossmodal: Zygote, tmp_path: Path) -> None:
    write_experiment(tmp_path, epochs=1)
    (tmp_path / "taken").touch()
    status, output = crossmodal.run("sweep", "--config", "dots.yaml", "--runs", "taken", cwd=tmp_path)
    assert status == 1
    assert output.startswith("crossmodal: error: ")
    assert "taken" in output


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--search", "model.warmpu=0..0.1"], 2, "--search: unknown key 'model.warmpu'"),
        (["--search", "trainer.max_epochs=a,2"], 2, "trainer.max_epochs: expected Optional[int], found str 'a'"),
        (["--search", "model.warmup"], 2, "model.warmup: no such file"),
        (["--search", "model.warmup=0..0.1", "--method", "grid"], 2, "model.warmup: a grid of 0 to 0.1 wants steps"),
        (["--searc", "model.warmup=0..0.1"], 2, "a sweep takes no --searc; did you mean --search?"),
        (["--method", "hope"], 2, "invalid choice: 'hope'"),
        (["--n", "none"], 2, "--n: expected a number of trials"),
        (["--ckpt_path", "last"], 2, "a sweep takes no --ckpt_path"),
        (["--metric", "val/f1"], 2, "--metric val/f1: say whether more is better"),
        (
            ["--metric", "test/accuracy"],
            2,
            "--metric test/accuracy: what is chosen by the test split is not tested by it",
        ),
        (["--search", "name=a,b"], 2, "--search name: it changes no figure of a trial"),
        (["--name", "../up"], 2, "name '../up': it becomes a folder of runs"),
        (["--seed_everything", "-1"], 2, "seed_everything: expected a number from 0 to 4294967295, found -1"),
        (["--trainer.max_epoch", "3"], 2, "unknown key 'trainer.max_epoch'"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    crossmodal: Zygote, tmp_path: Path, arguments: list[str], status: int, message: str
) -> None:
    write_experiment(tmp_path, epochs=1)
    found, output = crossmodal.run("sweep", "--config", "dots.yaml", *arguments, cwd=tmp_path)
    assert (found, output.startswith("crossmodal: error: ")) == (status, True), output
    assert message in output
    assert not (tmp_path / "runs").exists()


def test_a_metric_that_runs_do_not_have_is_named(crossmodal: Zygote, tmp_path: Path) -> None:
    write_experiment(tmp_path, epochs=1)
    given = ("--metric", "val/acuracy", "--goal", "maximize")
    status, output = crossmodal.run("sweep", "--config", "dots.yaml", "--n", 2, *SEARCH, *given, cwd=tmp_path)
    assert status == 2
    assert "--metric val/acuracy: the runs have no such figure; there are val/accuracy, val/" in output
    assert "Traceback" not in output
    assert not (tmp_path / "runs/dots").exists()  # so that the right one can be given


def test_settings_under_which_nothing_is_finite_are_bad_ones(crossmodal: Zygote, tmp_path: Path) -> None:
    write_experiment(tmp_path, epochs=2)
    status, output = crossmodal.run(
        "sweep", "--config", "dots.yaml", "--runs", 5, "--metric", "val/loss",
        "--search", "model.optimizer.init_args.lr=0.003,1e30", cwd=tmp_path,
    )  # fmt: skip
    assert status == 0, output
    assert "sweep: 5/dots/sweep, 2 trials, to minimize val/loss\n" in output  # for there are no more points
    assert re.search(r"^trial 0  val/loss \d.\d{4}  lr 0.003", output, re.MULTILINE)
    assert re.search(r"^trial 1  failed: the loss is no longer finite at step 1 .*  lr 1e\+30", output, re.MULTILINE)
    assert "best: trial 0" in output


def test_a_sweep_of_which_no_trial_has_ended_has_no_page(crossmodal: Zygote, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/search.json").write_text("{}")
    status, output = crossmodal.run("report", "sweep", cwd=tmp_path)
    assert status == 2
    assert output == (
        "crossmodal: error: sweep is a sweep of which no trial has ended yet; give one of its runs, as sweep/0\n"
    )


def wait_for(path: Path, running: Running) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, running.output.read_text()
        time.sleep(0.05)


THREE = ("sweep", "--config", "dots.yaml", "--n", 3, *SEARCH)


@pytest.fixture(scope="module")
def undisturbed(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    write_experiment(folder, epochs=30)
    status, output = crossmodal.run(*THREE, cwd=folder)
    assert status == 0, output
    return trials(folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_stopped_goes_on_and_comes_to_the_same(
    crossmodal: Zygote, tmp_path: Path, undisturbed: list[tuple[Any, ...]], number: signal.Signals
) -> None:
    write_experiment(tmp_path, epochs=30)
    running = crossmodal.start(*THREE, cwd=tmp_path)
    wait_for(tmp_path / "runs/dots/sweep/1/metrics.csv", running)
    os.kill(running.pid, number)
    status, output = running.wait()
    assert status == (-9 if number == signal.SIGKILL else 130)
    if number == signal.SIGINT:
        assert output.endswith("interrupted by SIGINT; the same command goes on with the sweep\n")
    status, output = crossmodal.run(*THREE, cwd=tmp_path)
    assert status == 0, output
    assert "3 trials (1 done)" in output
    assert trials(tmp_path) == undisturbed


@pytest.mark.slow
def test_one_that_is_worse_is_stopped_and_can_be_gone_on_with(crossmodal: Zygote, tmp_path: Path) -> None:
    write_experiment(tmp_path, epochs=4)
    (tmp_path / "search.yaml").write_text(
        """
        early_terminate: {type: hyperband, min_iter: 1, eta: 2}
        metric: {name: val/loss}
        parameters: {model.optimizer.init_args.lr: {values: [0.003, 1.0e-9, 1.0e-8]}, model.warmup: {value: 0.0}}
        """
    )
    status, output = crossmodal.run("sweep", "--config", "dots.yaml", "--search", "search.yaml", cwd=tmp_path)
    assert status == 0, output
    stopped = re.findall(r"^trial (\d)  val/loss \d\.\d{4}, stopped after epoch (\d)  lr 1e-0\d", output, re.MULTILINE)
    assert stopped
    run = f"runs/dots/sweep/{stopped[0][0]}"
    assert not (tmp_path / run / "metrics.json").exists()
    status, output = crossmodal.run("report", "runs/dots/sweep", cwd=tmp_path)
    assert status == 0, output
    assert "stopped at" in (tmp_path / "runs/dots/sweep/report.html").read_text()
    status, output = crossmodal.run("fit", "--config", f"{run}/config.yaml", "--ckpt_path", run, cwd=tmp_path)
    assert status == 0, output
    assert json.loads((tmp_path / run / "metrics.json").read_text())["epoch"] == 4


@pytest.mark.slow
def test_where_the_first_three_fail_something_is_wrong_with_all(crossmodal: Zygote, tmp_path: Path) -> None:
    write_experiment(tmp_path, epochs=1)
    lr = "model.optimizer.init_args.lr"
    status, output = crossmodal.run(
        "sweep", "--config", "dots.yaml", "--search", f"{lr}=-1,-2,-3,-4", "--metric", "val/loss", cwd=tmp_path
    )
    assert status == 1
    assert len(re.findall(r"^trial \d  failed: Invalid learning rate: -\d", output, re.MULTILINE)) == 3
    assert "all 3 trials failed; the last: Invalid learning rate" in output
    assert output.endswith("(mend that, delete runs/dots/sweep, and sweep anew)\n")


def trainer_of(run: Path) -> int:
    """Return the number of the process that trains it, by its lock."""
    with (run / ".lock").open("rb") as file:
        asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        return int(struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, asked))[-1])


@pytest.mark.slow
def test_a_trial_that_is_killed_has_failed_and_one_that_is_ended_goes_on(
    crossmodal: Zygote, tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    write_experiment(tmp_path, epochs=30)
    running = crossmodal.start(*THREE, cwd=tmp_path)
    wait_for(tmp_path / "runs/dots/sweep/1/metrics.csv", running)
    os.kill(trainer_of(tmp_path / "runs/dots/sweep/1"), signal.SIGTERM)
    status, output = running.wait()
    assert status == 1
    assert output.endswith(
        "crossmodal: error: runs/dots/sweep/1 was interrupted by another process; the same command goes on with the "
        "sweep\n"
    )
    running = crossmodal.start(*THREE, cwd=tmp_path)
    wait_for(tmp_path / "runs/dots/sweep/2/metrics.csv", running)
    os.kill(trainer_of(tmp_path / "runs/dots/sweep/2"), signal.SIGKILL)
    status, output = running.wait()
    assert status == 0, output
    assert "trial 2  failed: killed by SIGKILL; the system may have had no memory left" in output
    found = trials(tmp_path)
    assert found[:2] == undisturbed[:2]
    assert found[2][1:3] == ("failed", None)


@pytest.mark.slow
def test_the_page_is_whole_in_a_browser(crossmodal: Zygote, swept: tuple[Path, str]) -> None:
    folder, _ = swept
    status, output = crossmodal.run("report", "runs/dots/sweep", cwd=folder)
    assert status == 0, output
    for width, dark in ((1200, True), (390, False)):
        with window(folder, dark=dark, width=width) as opened:
            opened.page.goto((folder / "runs/dots/sweep/report.html").as_uri())
            opened.page.wait_for_function(
                "document.querySelectorAll('.plot svg.marks').length == document.querySelectorAll('.plot').length"
            )
            assert opened.page.locator(".plot").count() >= 4
            assert opened.width <= width
            opened.keep(f"sweep-{width}")
            assert opened.complaints == []
