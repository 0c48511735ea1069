"""`crossmodal cache ls | verify | rm`: what the feature store holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from crossmodal.errors import refuse
from crossmodal.feature_files import PRECISION, Entry, entries, remove


def main(arguments: list[str]) -> int:
    """Run one of the commands; return the exit status: 1 where something is not found, or damaged and not deleted."""
    parser = argparse.ArgumentParser(prog="crossmodal cache", description="What the feature store holds.")
    parser.add_argument("--root", type=Path, default=Path("runs/features"), help="the store's folder (runs/features)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("ls", help="list what is stored")
    verify = commands.add_parser("verify", help="read every byte and compare it with its digest")
    verify.add_argument("--delete", action="store_true", help="delete damaged files; they are encoded anew")
    rm = commands.add_parser("rm", help="delete an expert's stored tokens")
    rm.add_argument("fingerprints", nargs="*", metavar="FINGERPRINT", help="or its first digits")
    rm.add_argument("--all", action="store_true", help="delete everything")
    options = parser.parse_args(arguments)
    if options.command == "rm" and (bool(options.fingerprints) == options.all or "" in options.fingerprints):
        rm.error("name what to delete: fingerprints as `crossmodal cache ls` shows them, or --all")
    console = Console(soft_wrap=True)
    try:
        return _run(options, console)
    except (OSError, ValueError) as error:
        return refuse(error, 1)


def _run(options: argparse.Namespace, console: Console) -> int:
    if options.command == "rm":
        return _rm(options.root, options.fingerprints, options.all, console)
    found = list(entries(options.root, verify=options.command == "verify"))
    _show(found, options.root, console)
    faults = {path: fault for entry in found for path, fault in entry.faults.items()}
    for path, fault in faults.items():
        console.print(f"{path} {fault}", style="red")
        if options.command == "verify" and options.delete:
            path.unlink()
            console.print("  deleted")
    if options.command == "verify":
        console.print(f"{len(faults)} damaged files")
    return 1 if faults and not (options.command == "verify" and options.delete) else 0


def _show(found: list[Entry], root: Path, console: Console) -> None:
    if not found:
        console.print(f"nothing is stored in {root}")
        return
    table = Table("fingerprint", "expert", "precision", "inputs", "MB", box=None, pad_edge=False)
    for entry in found:
        description = entry.description
        expert = str(description.get("label", ""))
        size = f"{entry.num_bytes / 1e6:.1f}"
        table.add_row(entry.folder.name[:12], expert, str(description.get("precision", "")), f"{entry.inputs:,}", size)
    console.print(table)


def _rm(root: Path, fingerprints: list[str], everything: bool, console: Console) -> int:
    found = list(entries(root))
    status = 0
    for prefix in [""] if everything else fingerprints:
        chosen = [entry for entry in found if entry.folder.name.startswith(prefix)]
        if len(chosen) != 1 and not everything:
            console.print(f"{prefix}: {'nothing is' if not chosen else f'{len(chosen)} are'} stored under this name")
            status = 1
            continue
        for entry in chosen:
            remove(entry.folder)
            console.print(f"deleted {entry.folder.name[:12]}: {entry.inputs:,} inputs, {entry.num_bytes / 1e6:.1f} MB")
    if everything and (decisions := root / PRECISION).exists():
        remove(decisions)
    return status
