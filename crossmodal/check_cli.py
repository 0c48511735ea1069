"""`crossmodal data check`: reads every input of an experiment's data, and tells of every row that cannot be used."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from crossmodal.arguments import read_own_options
from crossmodal.errors import TRACEBACK, UsageError, place_in_own_code, refuse

if TYPE_CHECKING:
    from crossmodal.experiment_cli import DataAndModel
    from datamodules.checking import DataCheck

TELLING = 3.0  # seconds after which the speed until then tells how long the rest will take
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
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--workers")
    given, rest = read_own_options("data", "check", parser, arguments)
    if given is None:
        return None, []
    if given.workers is not None and not given.workers.isdecimal():
        raise UsageError(f"--workers: expected a number of processes, at least 0, found {given.workers!r}")
    if given.output is not None and given.output.exists() and not given.output.is_dir():
        raise UsageError(f"--output {given.output}: is no folder")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Options(given.output, cores if given.workers is None else int(given.workers)), rest


def main(options: Options, arguments: list[str]) -> int:
    """Check; return the exit status: 0 where nothing is wrong, 1 where something is, 130 after an interruption."""
    if sys.stdout.isatty():
        print("opening the experiment ...", flush=True)  # which takes seconds, most of them of importing
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
    from crossmodal.whole_files import write_json
    from datamodules.checking import DataCheck

    name, data = str(experiment.settings.name), experiment.datamodule
    folder = options.output or Path(experiment.settings.runs) / name / "check"
    check = DataCheck(data, dict(experiment.model.heads))
    began = time.perf_counter()
    try:
        with _progress(check.num_inputs) as advance:
            check.read(num_workers=options.workers, advance=advance)
    except KeyboardInterrupt:
        return _stop(check, "interrupted: ", 130)
    except ValueError as error:
        return _stop(check, f"{error}; ", 1)
    seconds = time.perf_counter() - began
    figures = report.figures_of(check, experiment=name, seconds=seconds, workers=options.workers)
    report.print_report(figures)
    html = page.render(figures, check)
    write_json(folder / "check.json", figures)
    (folder / "check.html").write_text(html, encoding="utf-8")
    rate = f"{figures['inputs']:,} inputs in {seconds:.1f} s, {figures['inputs_per_second']:,.0f} inputs/s"
    print(f"{report.verdict(figures)} ({rate})")
    limit = data.quarantine.limit if data.quarantine else None
    for line in report.hints(figures, can_leave_out=check.can_leave_out, limit=limit):
        print(line)
    print(f"page: {folder / 'check.html'}")
    return 1 if figures["faults"] else 0


def _stop(check: DataCheck, why: str, status: int) -> int:
    """Tell what was found until then. A report would say of rows that were not read that they can be used."""
    from crossmodal.check import report

    report.print_faults(report.faults_of(check))
    read = f"{check.num_read:,} of {check.num_inputs:,} inputs were read"
    return refuse(f"{why}{read}, faulty rows so far: {check.log.num_faulty_rows():,}; no report is written", status)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar in a terminal, else a line."""
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    if not sys.stdout.isatty():
        print(f"checking {total:,} inputs", flush=True)
        yield lambda _: None
        return
    whole = Column(no_wrap=True)  # where the terminal is narrow the bar is what shrinks
    columns = (
        TextColumn("checking", table_column=whole),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}", table_column=whole.copy()),
        TextColumn("{task.fields[left]}", table_column=whole.copy()),
    )
    with Progress(*columns, transient=True, expand=True) as bar:
        task, began = bar.add_task("", total=total, left=""), time.perf_counter()

        def advance(number: int) -> None:
            done, seconds = bar.tasks[0].completed + number, time.perf_counter() - began
            left = timedelta(seconds=round(seconds * (total - done) / done))
            bar.update(task, advance=number, left=f"{left} left" if seconds > TELLING else "")

        yield advance
