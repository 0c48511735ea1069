"""`crossmodal dashboard`, as a user runs it: served, protected, followed in a browser while a run trains."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
import yaml

from crossmodal.dashboard_cli import check_trackio
from crossmodal.errors import UsageError
from tests.browser import window
from tests.conftest import OFFLINE, ROOT, Zygote
from tests.crossmodal.dashboard.runs import write_damaged, write_run


@contextmanager
def dashboard(*arguments: object, cwd: Path, ends_by: signal.Signals = signal.SIGINT) -> Iterator[str]:
    """Start it; yield the address that it tells; end it, which it must do quietly."""
    command = [sys.executable, "-m", "crossmodal", "dashboard", *map(str, arguments)]
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            told = re.fullmatch(r"dashboard: (http://\S+) \(Ctrl-C ends it\)\n", line)
            assert told is not None, line
            yield told[1]
            process.send_signal(ends_by)
            out, error = process.communicate(timeout=20)
            assert process.returncode == 0, (out, error)
            assert out + error == ""
        finally:
            process.kill()


def get(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urlopen(Request(address, headers=headers), timeout=10) as answer:
            return answer.status, answer.headers.get("set-cookie") or ""
    except HTTPError as error:
        return error.code, ""


@pytest.mark.parametrize("ends_by", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_this_machine_alone_until_it_is_ended(tmp_path: Path, ends_by: signal.Signals) -> None:
    write_run(tmp_path / "runs/dots/0", media=True)
    with dashboard(cwd=tmp_path, ends_by=ends_by) as address:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        assert get(address)[0] == 200
        port = urlsplit(address).port
        assert get(address, Host=f"localhost:{port}")[0] == 200
        # the page of another site, whose name was made to mean this machine
        for name in (f"evil.example:{port}", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""):
            assert get(address, Host=name)[0] == 403, name


def test_it_may_be_ended_at_once(tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches the process that reads runs, too, which imports for seconds."""
    write_run(tmp_path / "runs/dots/0")
    command = [sys.executable, "-m", "crossmodal", "dashboard"]
    environment = {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("dashboard: http://")
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert (process.returncode, error) == (0, "")


def test_other_machines_need_the_token(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/dots/0")
    with dashboard("runs", "--host", "0.0.0.0", cwd=tmp_path) as address:
        # an address that others can open
        found = re.fullmatch(rf"http://{re.escape(socket.gethostname())}:(\d+)/\?token=(\S{{20,}})", address)
        assert found is not None
        base = f"http://127.0.0.1:{found[1]}/"
        assert get(base)[0] == 403
        assert get(f"{base}?token=wrong")[0] == 403
        assert get(f"{base}version")[0] == 403
        status, cookie = get(f"{base}?token={found[2]}")
        assert status == 200
        assert "HttpOnly" in cookie
        assert cookie.startswith(f"crossmodal_token_{found[1]}=")  # two dashboards of one machine have each its own
        assert get(base, Cookie=cookie.partition(";")[0])[0] == 200
        assert get(base, Cookie=f"crossmodal_token_{found[1]}=wrong")[0] == 403


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nowhere"], 2, "nowhere: no such folder; give that of all runs, which `crossmodal fit` made"),
        (["runs", "--port", "x"], 2, "--port: expected a number from 1 to 65535, found 'x'"),
        (["runs", "--colour"], 2, "dashboard does not take --colour; see `crossmodal dashboard --help`"),
        (["runs", "--host", "192.0.2.1"], 1, "192.0.2.1: Cannot assign requested address; give another"),
    ],
)
def test_mistakes_are_told_in_a_line(
    crossmodal: Zygote, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    (tmp_path / "runs").mkdir()
    found, output = crossmodal.run("dashboard", *arguments, cwd=tmp_path)
    assert found == status, output
    assert said in output
    assert "Traceback" not in output


def test_a_port_that_is_taken(crossmodal: Zygote, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output = crossmodal.run("dashboard", "--port", port, cwd=tmp_path)
    assert status == 1
    assert f"127.0.0.1, port {port}: Address already in use; give another with --port or --host" in output


def test_another_trackio_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for there, said in {"0.42.9": "0.42.9 is installed", "0.50.0": "0.50.0 is installed"}.items():
        monkeypatch.setattr("crossmodal.dashboard_cli.version", lambda _, there=there: there)
        with pytest.raises(UsageError, match=f"needs trackio 0.43, and {said}: pip install 'trackio==0.43"):
            check_trackio()

    def lacking(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("crossmodal.dashboard_cli.version", lacking)
    with pytest.raises(UsageError, match=r"pip install \"crossmodal\[dashboard\]\""):
        check_trackio()


def test_help(crossmodal: Zygote, tmp_path: Path) -> None:
    status, output = crossmodal.run("dashboard", "--help", cwd=tmp_path)
    assert status == 0
    assert output.startswith("usage: crossmodal dashboard [RUNS]")


@pytest.mark.slow
def test_a_run_is_followed_while_it_trains(crossmodal: Zygote, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "heard/0", media=True)
    write_damaged(runs / "broken")
    experiment: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    experiment["trainer"] |= {"max_epochs": 400, "logger": False}
    experiment["data"]["init_args"] |= {"num_pictures": 64, "batch_size": 16}
    (tmp_path / "dots.yaml").write_text(yaml.safe_dump(experiment))
    running = None
    drawn = "[...document.querySelectorAll('.plot canvas')].map(one => one.toDataURL()).join()"
    try:
        with dashboard(cwd=tmp_path) as address, window(tmp_path) as opened:
            page = opened.page
            page.goto(address)
            page.get_by_text("older/0 (damaged)").first.wait_for(timeout=60_000)
            page.locator(".plot canvas").first.wait_for()
            running = crossmodal.start("fit", "--config", "dots.yaml", cwd=tmp_path)
            of_run = page.get_by_text("dots/0", exact=True)
            of_run.nth(1).wait_for(timeout=60_000)  # among the runs, and beside a curve, which has points of it now
            assert page.get_by_text("heard/0", exact=True).count() > 1  # both are compared
            before = page.evaluate(drawn)
            page.wait_for_function(f"before => {drawn} != before", arg=before, timeout=30_000)  # and more arrive
            opened.keep("dashboard-metrics")
            page.get_by_role("button", name="Runs", exact=True).click()
            page.locator("tr", has_text="dots/0").wait_for()
            opened.keep("dashboard-runs")
            page.get_by_role("button", name="Media & Tables", exact=True).click()
            page.locator("audio").first.wait_for(timeout=30_000, state="attached")
            page.wait_for_function("[...document.images].some(one => one.naturalWidth > 100)")
            opened.keep("dashboard-media")
            assert opened.complaints == []
    finally:
        if running is not None:
            os.kill(running.pid, signal.SIGKILL)
            running.wait()


@pytest.mark.slow
def test_two_hundred_runs(tmp_path: Path) -> None:
    for number in range(200):
        write_run(tmp_path / f"runs/study_{number % 10}/{number}", steps=200, media=number % 20 == 0)
    with dashboard(cwd=tmp_path) as address, window(tmp_path) as opened:
        began = time.monotonic()
        opened.page.goto(address)
        opened.page.get_by_text("study_9/199", exact=True).first.wait_for()
        print(f"the newest run is seen after {time.monotonic() - began:.1f} s")
        opened.page.get_by_text("Runs (200)").wait_for(timeout=60_000)
        print(f"all are seen after {time.monotonic() - began:.1f} s")
        opened.keep("dashboard-200")
