from __future__ import annotations

import sys
from pathlib import Path

import pytest

from crossmodal.environment import environment
from crossmodal.errors import say_how_to_go_on, without_checkpoint

FIT = ["fit", "--config", "dots.yaml"]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (FIT, (FIT, None)),
        ([*FIT, "--ckpt_path", "last"], (FIT, "last")),
        (["fit", "--ckpt_path=last", *FIT[1:]], (FIT, "last")),
        ([*FIT, "--ckpt_path"], (FIT, None)),
    ],
)
def test_arguments_without_a_checkpoint(arguments: list[str], found: object) -> None:
    assert without_checkpoint(arguments) == found


@pytest.mark.parametrize(
    ("given", "run", "said"),
    [
        ([], "runs/dots/3", "; go on with:\n  crossmodal fit --config dots.yaml --ckpt_path runs/dots/3\n"),
        (["--ckpt_path=best"], "runs/dots/3", "  crossmodal fit --config dots.yaml --ckpt_path runs/dots/3\n"),
        ([], None, "nothing was begun; begin again with:\n  crossmodal fit --config dots.yaml\n"),
    ],
)  # fmt: skip
def test_who_is_interrupted_is_told_the_command_that_goes_on_with_the_same_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], run: str | None, said: str
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["crossmodal", *FIT, *given])
    say_how_to_go_on("interrupted", None if run is None else Path(run))
    assert said in capsys.readouterr().err


def test_the_command_that_is_stored_begins_the_run_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["crossmodal", *FIT, "--ckpt_path", str(tmp_path)])
    assert environment(begins=False)["command"] == "crossmodal fit --config dots.yaml"
    other = tmp_path / "other.ckpt"  # whose weights it begins with
    other.touch()
    monkeypatch.setattr(sys, "argv", ["crossmodal", *FIT, "--ckpt_path", str(other)])
    assert environment(begins=True)["command"].endswith(f"--ckpt_path {other}")
    assert environment(begins=False)["command"] == "crossmodal fit --config dots.yaml"  # it was its own
