"""Scripts are run by hand: what they import from here must still be there."""

from __future__ import annotations

import ast
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from crossmodal.signatures import read_module
from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of what a script imports from our packages and from other scripts."""
    own = {"crossmodal", "datamodules", "experts", *(script.stem for script in SCRIPTS)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in own:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    for name, wanted in imported(path):
        module = read_module(name)
        assert module is not None, name
        there = {*module.classes, *module.functions, *module.assigned, *module.imported}
        assert wanted in there or read_module(f"{name}.{wanted}"), f"{path.name}: {name} has no {wanted}"


SLOW = """
import sys, time
from processes import in_processes

def work(number):
    if number == "bad":
        time.sleep(0.5)  # after the first is done
        raise ValueError("bad")
    time.sleep(60 * number)
    return number

in_processes(work, eval(sys.argv[1]), jobs=2, begin=int, keep=lambda number: print("kept", number, flush=True))
"""


def slow(wanted: str) -> subprocess.Popen[str]:
    """Start work of so many minutes each."""
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, wanted],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        start_new_session=True,
    )


def test_an_error_ends_other_processes_and_keeps_what_is_done() -> None:
    told, error = slow("[(0,), ('bad',), (1,), (1,)]").communicate(timeout=20)  # until no process can print any more
    assert told == "kept 0\n"
    assert error.endswith("ValueError: bad\n")


def test_an_interrupt_ends_all_processes_and_keeps_what_is_done() -> None:
    running = slow("[(0,), (1,), (1,), (1,)]")
    assert running.stdout is not None
    assert running.stdout.readline() == "kept 0\n"
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    told, error = running.communicate(timeout=20)
    assert told == ""
    assert error.endswith("KeyboardInterrupt\n")
    assert error.count("Traceback") == 1
    assert running.returncode == -signal.SIGINT


def test_compare_fedka_goes_on_where_it_was_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("compare_fedka")
    done: list[tuple[object, ...]] = []

    def crossmodal(*arguments: object) -> Mock:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arguments)
        accuracy = 0.5 + 0.1 * len(done)
        return Mock(figures={**{f"test/accuracy/{name}": accuracy for name in script.DOMAINS}, "seconds/fit": 1.0})

    monkeypatch.setattr(script, "crossmodal", crossmodal)
    kept = tmp_path / "kept.jsonl"
    command = ["compare_fedka.py", "--seeds", "2", "--left_out", "print", "--ways", "FedAvg", "FedKA"]
    monkeypatch.setattr(sys, "argv", [*command, "--kept", str(kept)])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    with kept.open("a") as file:
        file.write('{"way": "FedKA", "left_o')  # what a kill leaves
    first, done = done, []
    script.main()
    assert len(done) == 1  # of two seeds and two ways
    assert [arguments[arguments.index("--seed_everything") + 1] for arguments in (*first, *done)] == [0, 0, 1, 1]
    *table, last = capsys.readouterr().out.splitlines()
    assert [{name: one[name] for name in ("way", "seed")} for one in json.loads(last)["found"]] == [
        {"way": way, "seed": seed} for seed in range(2) for way in ("FedAvg", "FedKA")
    ]
    assert table[2:] == ["| FedAvg | 70.0 ± 14.1 | 70.0 ± 14.1 |", "| FedKA | 65.0 ± 7.1 | 65.0 ± 7.1 |"]
    script.main()
    assert len(done) == 1


def test_what_compare_trust_tells_names_its_task(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("compare_trust")
    for name in ("digits_task", "easy_vqa_task"):
        monkeypatch.setattr(script, name, lambda *_, **__: None)
    for name in ("tame_chatter", "logging"):  # other tests want to hear of it
        monkeypatch.setattr(script, name, Mock())
    figures = {"accuracy": 0.5, **{f"weight/{name}": 0.25 for name in ("image", "text", "speech", "question")}}
    monkeypatch.setattr(script.Bench, "test", lambda *_, **__: figures)
    monkeypatch.setattr(sys, "argv", ["compare_trust.py", "--quick"])
    monkeypatch.setenv("CROSSMODAL_DATA", str(tmp_path))
    script.main()
    *told, last = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert last == {"found": told}
    assert {(one["task"], one["expert"]) for one in told if "expert" in one} == {
        *(("digits", name) for name in ("image", "text", "speech")),
        *(("easy_vqa", name) for name in ("image", "question")),
    }
    assert {one["task"] for one in told if "case" in one} == {"digits"}
