"""`crossmodal route`: says which of a model's experts knows an input."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from crossmodal.arguments import read_yaml
from crossmodal.errors import TRACEBACK, UsageError, place_in_own_code, refuse
from crossmodal.extend_cli import run_of
from crossmodal.run_folder import RunFolder

HELP = """\
usage: crossmodal route --model RUN FILE [FILE ...] [--output FILE.csv]
       crossmodal route --model RUN --fit

Say which of a model's experts knows each input: by the error of reconstructing its tokens, in units of what is usual
for the expert's own training inputs. Up to 1 an expert knows the input, and the least error wins; above 1 for all, it
is new. Experts that take no such input have no part in it.

  --model RUN        the run's folder, such as runs/easy_vqa/0 (best.ckpt, or else last.ckpt), or a checkpoint
  FILE               a picture, a sound, an array (.npy, .npz, .pt) or a text (.txt)
  --output FILE.csv  write the table, too
  --fit              first fit the gates that the run lacks to its training data; `crossmodal extend` does so by itself
"""


@dataclass(frozen=True)
class Options:
    """What `route` takes."""

    run: RunFolder
    checkpoint: Path
    files: list[Path]
    output: Path | None
    fit: bool

    @property
    def modalities(self) -> list[str]:
        """Those that have a gate, in the order of the configuration."""
        return [modality for modality in read_yaml(self.run.config)["experts"] if self.run.gate(modality).is_file()]


def read_options(arguments: list[str]) -> Options | None:
    """Return what is wanted, or None for help.

    Raises:
        UsageError: It cannot be understood, or there is no such run.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("files", type=Path, nargs="*")
    try:
        given, rest = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if rest:
        raise UsageError(f"route does not take {rest[0]}; see `crossmodal route --help`")
    if given.model is None or not (given.files or given.fit):
        raise UsageError("route needs --model RUN, and files or --fit")
    if given.output is not None and given.output.suffix.lower() != ".csv":
        raise UsageError(f"--output {given.output}: give a name that ends in .csv")
    run, checkpoint = run_of(given.model)
    options = Options(run, checkpoint, given.files, given.output, given.fit)
    if not options.fit and not options.modalities:
        raise UsageError(
            f"--model {given.model}: the run has no gates; fit them to its training data with `crossmodal route "
            f"--model {given.model} --fit` (`crossmodal extend` does so by itself)"
        )
    return options


def main(arguments: list[str]) -> int:
    """Route the files; return the exit status: 1 where one cannot be read, or a gate is not the expert's."""
    try:
        options = read_options(arguments)
        if options is None:
            sys.stdout.write(HELP)
            return 0
    except UsageError as error:
        return refuse(error, 2)
    from crossmodal import routing

    try:
        if options.fit:
            routing.fit(options.run, options.checkpoint)
        return _route(options) if options.files else 0
    except (ValueError, OSError) as error:
        if os.environ.get(TRACEBACK):
            raise
        return refuse(f"{place_in_own_code(error)}{error}", 1)


def _route(options: Options) -> int:
    from crossmodal import routing, trained

    modalities = options.modalities
    if not modalities:
        raise ValueError(f"{options.run.path} has no gates: they could not be fitted")
    experts = trained.load_experts(options.run, options.checkpoint, modalities)
    gate = routing.load_gate(options.run, experts)
    table = routing.Table(modalities)
    failed = False
    for found in routing.route_files(options.files, experts, gate):
        if found.fault is None:
            table.rows.append(found)
        else:
            refuse(f"cannot read {found.fault}", 1)
            failed = True
    if table.rows:
        print(table, flush=True)
    if options.output is not None:
        table.write(options.output)
    return int(failed)
