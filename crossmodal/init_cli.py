"""`crossmodal init`: a complete experiment for a folder or a file of rows, to read, to change and to run."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

from crossmodal.errors import UsageError, refuse
from crossmodal.init.columns import look
from crossmodal.init.experiment_file import Experiment, rows_seen, shown_path
from crossmodal.init.file_columns import SUFFIXES
from crossmodal.init.proposal import propose
from crossmodal.init.row_faults import find_faults, in_words
from crossmodal.init.sampling import LocalFiles, Source, find_root, find_source, paths_in, sample_rows

DEFAULT_OUTPUT = Path("crossmodal.yaml")  # commands that are given no --config read it


def main(arguments: list[str]) -> int:
    """Write the experiment; return the exit status: 1 where a file cannot be used, 2 where more must be said."""
    parser = argparse.ArgumentParser(
        prog="crossmodal init",
        description="Look at data, propose what its columns are, and write a complete experiment.",
        epilog="Example: crossmodal init photos/train.csv --target label",
    )
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="a folder of class folders; a file of rows (.csv, .tsv, .jsonl, .parquet); or a folder with one, or with "
        "train, val and test",
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help=f"the file to write ({DEFAULT_OUTPUT})")
    parser.add_argument("--name", help="of the experiment; by default that of the data")
    parser.add_argument("--target", nargs="+", default=[], metavar="COLUMN", help="what is to be predicted")
    parser.add_argument("--force", action="store_true", help="overwrite the output")
    options = parser.parse_args(arguments)
    output: Path = options.output
    try:
        source = find_source(options.path)
        if output.exists() and not (options.force and output.is_file()):
            return refuse(f"{output}: is already there; give --force to overwrite it, or another --output", 1)
        experiment = _look_at(source, options.target, options.name, output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(experiment.text(), encoding="utf-8")
    except UsageError as error:
        return refuse(error, 2)
    except (OSError, ValueError) as error:
        return refuse(error, 1)
    print("\n".join(_said(experiment, output)))
    return 0


def _look_at(source: Source, targets: list[str], name: str | None, output: Path) -> Experiment:
    sample = sample_rows(source.train)
    folder = source.train if source.train.is_dir() else source.train.absolute().parent
    suffixes = tuple(suffix for kind in SUFFIXES.values() for suffix in kind)
    root = find_root(folder, paths_in(sample.cells, suffixes))
    columns = [look(column, cells, LocalFiles(root)) for column, cells in sample.cells.items()]
    try:
        proposal = propose(columns, targets)
    except UsageError as error:
        unread = "".join(f"\n  a row that cannot be read: {line}" for line in in_words(sample.faults))
        raise UsageError(f"{error}{unread}") from None
    config = "" if output == DEFAULT_OUTPUT else f" --config {shlex.quote(str(output))}"
    return Experiment(
        name=name or _name(folder if source.train.is_dir() or source.others else source.train, folder),
        source=source,
        sample=sample,
        proposal=proposal,
        faults=find_faults(sample, proposal),
        root=None if root is folder else root,
        next_commands=[f"crossmodal data check{config}", f"crossmodal fit{config}"],
    )


def _name(path: Path, folder: Path) -> str:
    """Return the file's name, or the folder's, as a folder of runs may be named."""
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    if stem.lower() in ("train", "training", "data", "metadata", "labels", "manifest"):
        stem = folder.resolve().name
    return re.sub(r"\W+", "_", stem if stem.strip(".") else folder.resolve().name).strip("_") or "experiment"


def _said(experiment: Experiment, output: Path) -> list[str]:
    proposal = experiment.proposal
    lines = [f"{rows_seen(experiment.sample)} of {shown_path(experiment.source.train)}"]
    for modality in proposal.modalities:
        kind = f"{modality.type}s" if modality.is_sequence else modality.type
        notes = modality.notes if len(modality.columns) <= 3 else [f"{len(modality.columns)} columns"]
        lines.append(f"  input {modality.name} ({kind}): " + "; ".join(notes))
    lines += [f"  target {target.name} ({target.type}): {target.note}" for target in proposal.targets]
    lines += ["    (another: --target COLUMN)"]
    for role, column in (("names", proposal.id), ("splits", proposal.split), ("groups", proposal.group)):
        lines += [f"  {role}: {column.name}"] if column else []
    lines += [f"  not used: {name}: {why}" for name, why in proposal.unused.items()]
    if faults := experiment.faults:
        why = "leaves them out" if experiment.on_error == "quarantine" else "they are many"
        lines.append(f"  rows that cannot be used: {len(faults):,}, hence on_error: {experiment.on_error} ({why})")
        lines += [f"    {line}" for line in in_words(faults)]
    return [*lines, f"{output} is written; read it, then:", *(f"  {one}" for one in experiment.next_commands)]
