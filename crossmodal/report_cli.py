"""`crossmodal report`: one page about a trained run, or one that compares several."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from crossmodal.errors import TRACEBACK, UsageError, place_in_own_code, refuse
from crossmodal.run_folder import RunFolder, given_run
from crossmodal.sweep.search import BEGUN, SUMMARY
from crossmodal.whole_files import write_text

HELP = """\
usage: crossmodal report RUN [RUN ...] [--output FILE.html] [--rows N]
       crossmodal report SWEEP [--output FILE.html]

Write one page about a trained run: its figures and curves, what each modality contributes, how it bears noise and
absence, whom it listens to, what it takes for what, its best and worst answers, what it cost, and how to repeat it.
Of several runs write a page that compares them, on the same rows. The page needs no network, and nothing beside it.

  RUN                such as runs/easy_vqa/0 (best.ckpt, or else last.ckpt), runs/easy_vqa (the newest), or a checkpoint
  SWEEP              a sweep's folder, such as runs/easy_vqa/sweep: what was tried, what it came to, what mattered
  --output FILE.html by default report.html in the first run's folder, or compare.html of several
  --rows N           rows of the test split (or else the val split) that are answered, drawn if it has more (10000)
"""
ROWS = 10_000


@dataclass(frozen=True)
class Options:
    """What `report` takes: runs, or a sweep."""

    runs: list[tuple[RunFolder, Path]]
    output: Path
    rows: int
    sweep: Path | None = None


def read_options(arguments: list[str]) -> Options | None:
    """Return what is wanted, or None for help.

    Raises:
        UsageError: It cannot be understood, or there is no such run.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", default=str(ROWS))
    parser.add_argument("runs", type=Path, nargs="*")
    try:
        given, rest = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if rest:
        raise UsageError(f"report does not take {rest[0]}; see `crossmodal report --help`")
    if not given.runs:
        raise UsageError("report needs a RUN, such as runs/easy_vqa/0")
    if not given.rows.isdecimal() or int(given.rows) < 1:
        raise UsageError(f"--rows: expected a number of rows, at least 1, found {given.rows!r}")
    if given.output is not None and given.output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {given.output}: give a name that ends in .html")
    if sweep := next((path for path in given.runs if (path / SUMMARY).is_file()), None):
        if len(given.runs) > 1:
            raise UsageError(f"{sweep} is a sweep, which has a page of its own: give it alone")
        return Options([], given.output or sweep / "report.html", int(given.rows), sweep)
    if begun := next((path for path in given.runs if (path / BEGUN).is_file()), None):
        raise UsageError(f"{begun} is a sweep of which no trial has ended yet; give one of its runs, as {begun / '0'}")
    try:
        runs = [given_run(path) for path in given.runs]
    except ValueError as error:
        sweeps = [
            f"; there is a sweep: {path / 'sweep'}" for path in given.runs if (path / "sweep" / SUMMARY).is_file()
        ]
        raise UsageError("".join([str(error), *sweeps[:1]])) from None
    places = [checkpoint.resolve() for _, checkpoint in runs]
    if twice := next((path for path, place in zip(given.runs, places, strict=True) if places.count(place) > 1), None):
        raise UsageError(f"{twice} is given twice")
    output = given.output or runs[0][0].path / ("report.html" if len(runs) == 1 else "compare.html")
    return Options(runs, output, int(given.rows))


def main(arguments: list[str]) -> int:
    """Write the page; return the exit status."""
    try:
        options = read_options(arguments)
    except UsageError as error:
        return refuse(error, 2)
    if options is None:
        sys.stdout.write(HELP)
        return 0
    began = time.perf_counter()
    if sys.stdout.isatty():
        print("opening the run ...", flush=True)  # which takes seconds, most of them of importing
    # beside the importing, which takes one core alone; a process, since it lets no other thread of its own run
    with ProcessPoolExecutor(1) as pool:
        status = _write(options, pool.submit(_vega_script))
    if status == 0:
        size = options.output.stat().st_size / 1e6
        print(f"report: {options.output} ({size:.1f} MB, {time.perf_counter() - began:.1f} s)")
    return status


def _write(options: Options, script: Future[str]) -> int:
    from crossmodal.console import tame_chatter
    from crossmodal.experiment_cli import MISTAKES
    from crossmodal.report import several, single, sweep
    from crossmodal.report.page import render

    tame_chatter()
    command = shlex.join(["crossmodal", *sys.argv[1:]])
    try:
        if options.sweep is not None:
            page = sweep.report(options.sweep)
        elif len(options.runs) == 1:
            page = single.report(*options.runs[0], rows=options.rows, command=command)
        else:
            page = several.compare(options.runs, rows=options.rows, command=command)
        html = render(page, script.result())
    except (*MISTAKES, UsageError) as error:
        if os.environ.get(TRACEBACK):
            raise
        return refuse(f"{place_in_own_code(error)}{error}", 1)
    try:
        write_text(options.output, html)
    except OSError as error:
        return refuse(f"{options.output}: {error.strerror}; give another file with --output", 1)
    return 0


def _vega_script() -> str:
    import vl_convert

    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
