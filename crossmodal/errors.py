"""How a user's mistakes are told, in one message without a traceback, and how to go on. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from pathlib import Path

TRACEBACK = "CROSSMODAL_TRACEBACK"  # an environment variable: show where an error came from


class UsageError(Exception):
    """What a user has to change, in one message."""


def refuse(error: object, status: int) -> int:
    """Say what is wrong; return the exit status."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None:  # without its number
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    sys.stderr.write(f"crossmodal: error: {without_types(text)}\n")
    return status


def place_in_own_code(error: BaseException | None) -> str:
    """Return where in a module of the current folder an error came up, as `my_data.py:17: `; else nothing."""
    here, place = Path.cwd(), ""
    others = [Path(__file__).parents[1] / name for name in ("crossmodal", "datamodules", "experts")]
    others += [Path(sys.prefix), Path(sys.base_prefix)]
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(here) and not any(map(path.is_relative_to, others)):
                place = f"{path.relative_to(here)}:{line}: "
        error = error.__cause__
    return place


def without_types(message: str) -> str:
    """Return what is wrong, where jsonargparse tells what each of a union's types said of a value."""
    if wrong := re.search(r"Expected '([\w.]+)' to be a subclass of <class '([\w.]+)'>", message):
        key = re.search(r'[Kk]ey "(.*?)"', message)
        return f"{key[1] if key else 'a class'}: {wrong[1]} is no {wrong[2]}"
    if "Does not validate against any of the Union" not in message:
        return message
    said: list[str] = re.findall(r"^ *- (.*(?:\n(?! *- | *Given value).*)*)", message, re.MULTILINE)
    if reasons := [reason for reason in said if not reason.startswith("Expected a ")]:
        return reasons[0]
    types = [
        re.sub(r"<class '(.*)'>|typing\.Literal\[(.*)\]", r"\1\2", reason[len("Expected a ") :]) for reason in said
    ]
    key, given = re.search(r'key "(.*?)"', message), re.search(r"Given value: (.*)", message)
    return f"{key[1] if key else 'a value'}: expected {', '.join(types)}, found {given[1] if given else 'another'}"


def say_how_to_go_on(what: str, run: Path | None) -> None:
    """Print the command that goes on with an interrupted fit.

    Args:
        what: Happened.
        run: Its folder, if it has one: of `last` nobody knows which run it is tomorrow.
    """
    words = 2 if sys.argv[1:2] == ["expert"] else 1
    command, arguments = sys.argv[1 : 1 + words], sys.argv[1 + words :]
    hint = "nothing was begun; begin again with"
    if run is not None:
        hint = "go on with"
        arguments = [*without_checkpoint(arguments)[0], "--ckpt_path", str(run)]
    line = shlex.join(["crossmodal", *command, *arguments])
    again = f"; {hint}:\n  {line}\n" if command[-1:] in (["fit"], ["extend"]) else "\n"
    sys.stderr.write(f"\n{what}{again}")


def without_checkpoint(arguments: list[str]) -> tuple[list[str], str | None]:
    """Return arguments without `--ckpt_path`, and what it is, if it is given."""
    rest: list[str] = []
    found = None
    position = 0
    while position < len(arguments):
        option, has_value, value = arguments[position].partition("=")
        if option != "--ckpt_path":
            rest.append(arguments[position])
        elif has_value:
            found = value
        else:
            position += 1
            found = arguments[position] if position < len(arguments) else None
        position += 1
    return rest, found
