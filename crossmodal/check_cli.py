"""`crossmodal data check`: reads every input of an experiment's data, and tells of every row that cannot be used."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossmodal.errors import TRACEBACK, UsageError, place_in_own_code, refuse

if TYPE_CHECKING:
    from crossmodal.experiment_cli import DataAndModel

HELP = """\
usage: crossmodal data check --config FILE [--output FOLDER] [--workers N] [--KEY VALUE ...]

Load and transform every input of every split as `fit` would, and tell of all that is wrong: which rows, and why.
The exit status is 0 where nothing is, 1 where something is.

  --config FILE      the experiment; by default crossmodal.yaml
  --output FOLDER    for check.html, which shows the data, and check.json; by default runs/NAME/check
  --workers N        processes that read; by default one for each core, 0 for none
  --KEY VALUE        any key of the YAML, as `crossmodal fit --help` lists them
"""


@dataclass(frozen=True)
class Options:
    """What `data check` takes beside the arguments of `fit`."""

    output: Path | None
    workers: int


def read_options(arguments: list[str]) -> tuple[Options | None, list[str]]:
    """Return the command's own options, or None where help is wanted, and the arguments of `fit`.

    Raises:
        UsageError: They cannot be understood.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        return None, []
    if arguments[0] != "check":
        raise UsageError(f"no command 'data {arguments[0]}'; there is `crossmodal data check`")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--workers")
    try:
        given, rest = parser.parse_known_args(arguments[1:])
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if {"-h", "--help"} & set(rest):
        return None, []
    if given.workers is not None and not given.workers.isdecimal():
        raise UsageError(f"--workers: expected a number of processes, at least 0, found {given.workers!r}")
    if given.output is not None and given.output.exists() and not given.output.is_dir():
        raise UsageError(f"--output {given.output}: is no folder")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Options(given.output, cores if given.workers is None else int(given.workers)), rest


def main(options: Options, arguments: list[str]) -> int:
    """Check; return the exit status: 0 where nothing is wrong, 1 where something is, 130 after an interruption."""
    from crossmodal.console import tame_chatter
    from crossmodal.experiment_cli import MISTAKES, DataAndModel

    tame_chatter()
    try:
        return _check(DataAndModel(arguments), options)
    except MISTAKES as error:
        if os.environ.get(TRACEBACK):
            raise
        return refuse(f"{place_in_own_code(error)}{error}", 1)


def _check(experiment: DataAndModel, options: Options) -> int:
    from crossmodal.check import page, report
    from crossmodal.feature_files import write_json
    from datamodules.checking import DataCheck

    name, data = str(experiment.settings.name), experiment.datamodule
    folder = options.output or Path(experiment.settings.runs) / name / "check"
    check = DataCheck(data, dict(experiment.model.heads))
    counted, status, stopped = _Counter(), 0, ""
    began = time.perf_counter()
    try:
        with _progress(check.num_inputs) as advance:
            check.read(num_workers=options.workers, advance=counted.counting(advance))
    except KeyboardInterrupt:
        status, stopped = 130, "interrupted; what was found until then is above"
    except ValueError as error:
        status, stopped = 1, str(error)
    seconds = time.perf_counter() - began
    figures = report.figures_of(
        check, experiment=name, read=counted.count, seconds=seconds, workers=options.workers, complete=not stopped
    )
    report.print_report(figures)
    write_json(folder / "check.json", figures)
    (folder / "check.html").write_text(page.render(figures, check), encoding="utf-8")
    print(_summary(figures))
    limit = data.quarantine.limit if data.quarantine else None
    for line in report.hints(figures, can_leave_out=check.can_leave_out, limit=limit):
        print(line)
    print(f"page: {folder / 'check.html'}")
    if stopped:
        return refuse(stopped, status)
    return 1 if figures["faults"] else 0


def _summary(figures: dict[str, Any]) -> str:
    rate = f"{figures['inputs']:,} inputs in {figures['seconds']:.1f} s, {figures['inputs_per_second']:,.0f} inputs/s"
    if not figures["faults"]:
        return f"no faults in {figures['rows']:,} rows ({rate})"
    return f"{figures['faulty_rows']:,} of {figures['rows']:,} rows have faults ({rate})"


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def counting(self, advance: Callable[[int], None]) -> Callable[[int], None]:
        def counted(number: int) -> None:
            self.count += number
            advance(number)

        return counted


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar in a terminal, else a line."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from crossmodal.console import is_terminal

    if not is_terminal():
        print(f"checking {total:,} inputs", flush=True)
        yield lambda _: None
        return
    columns = (
        TextColumn("checking"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f} inputs/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        task, began = bar.add_task("", total=total, rate=0.0), time.perf_counter()

        def advance(number: int) -> None:
            done = bar.tasks[0].completed + number
            bar.update(task, advance=number, rate=done / max(1e-9, time.perf_counter() - began))

        yield advance
