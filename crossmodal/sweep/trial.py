"""One trial: a run of `crossmodal fit` in a process of its own, watched while it trains."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess, SpawnContext, SpawnProcess
from multiprocessing.forkserver import ensure_running
from pathlib import Path

from crossmodal.__main__ import main
from crossmodal.errors import UsageError
from crossmodal.metrics_file import MetricsFile
from crossmodal.output import say
from crossmodal.run_folder import LockedError, RunFolder

LOSS = "val/loss"  # which each validation has
POLL_SECONDS = 0.3
PATIENCE = 60.0  # seconds that a run may take to end, which it does after the batch
ENDING = (signal.SIGTERM, signal.SIGINT)
ERROR = "crossmodal: error: "
OWN_PACKAGES = ("crossmodal", "datamodules", "experts", "pytorch_lightning")
# exit statuses of a run that was asked to end, and saved, or that had not begun
INTERRUPTED = (*(128 + number for number in ENDING), *(-number for number in ENDING))
PARENT_DIED = 1  # of Linux's prctl: the signal that a process is sent when its parent is gone


class TrialInterruptedError(RuntimeError):
    """A trial was ended by somebody else than its sweep."""


@dataclass(frozen=True)
class Outcome:
    """How a trial went.

    Args:
        state: `complete`, `pruned` or `failed`.
        value: The metric of the best checkpoint, of a complete one.
        error: What went wrong, of one that failed.
    """

    state: str
    value: float | None = None
    error: str | None = None


def processes(class_paths: Iterable[str]) -> ForkServerContext | SpawnContext:
    """Return what begins processes of trials.

    They are forked from one that has imported what takes seconds, once; where a GPU or macOS may not bear that, each is
    begun anew.

    Args:
        class_paths: That the experiment names; the modules of ours among them are imported, too.
    """
    has_gpu = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    if sys.platform != "linux" or has_gpu:
        return multiprocessing.get_context("spawn")
    modules = {path.rpartition(".")[0] for path in class_paths if path.partition(".")[0] in OWN_PACKAGES}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crossmodal.training_cli", *sorted(modules)])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which what is begun inherits: Ctrl-C is for the sweep
    ensure_running()
    signal.signal(signal.SIGINT, before)
    return context


def train(
    arguments: Sequence[str],
    run: RunFolder,
    metric: str,
    *,
    context: ForkServerContext | SpawnContext,
    group: str,
    should_stop: Callable[[int, float], bool],
) -> Outcome:
    """Train a run, from the beginning or from where it was, and stop it where that is wanted.

    What it prints goes to `output.txt` in its folder. Whoever is interrupted here interrupts the run, too, and it is
    saved.

    Args:
        arguments: Of `crossmodal`.
        run: Its folder.
        metric: The figure that is watched.
        context: Of its process, as `processes` returns it.
        group: That wandb shows it in.
        should_stop: Is given the epoch, from 1, and the metric, once each, in order.

    Raises:
        UsageError: The run has no such metric.
        TrialInterruptedError: It was ended from outside, and can go on.
    """
    _wait_for(run)
    output = run.path / "output.txt"
    said = output.stat().st_size if output.exists() else 0  # before, if it goes on
    output.touch()  # the process may die before it writes
    process = context.Process(target=_fit, args=(list(arguments), output, group))
    process.start()
    try:
        told, metrics = 0, MetricsFile(run.path / "metrics.csv")
        while True:
            status = process.exitcode
            if status in INTERRUPTED:
                raise TrialInterruptedError(f"{run.path} was interrupted by another process")
            if status not in (None, 0):
                return Outcome("failed", error=_error(output, said, status))
            metrics.read()
            for epoch, value in after_each_epoch(metrics, metric).items():
                # also of a run that was quicker than we: what is tried next must not depend on that
                if epoch > told and should_stop(epoch, value):
                    return Outcome("pruned")
                told = max(told, epoch)
            if status == 0:
                return _outcome(run, metric)
            process.join(POLL_SECONDS)
    finally:
        _end(process)


def after_each_epoch(metrics: MetricsFile, metric: str) -> dict[int, float]:
    """Return a metric by epoch, from 1, NaN where it was; of several validations in an epoch of the first.

    Args:
        metrics: What the run has logged until now.
        metric: One of its figures.

    Raises:
        UsageError: It is none of the figures that a validation ends with.
    """
    found: dict[int, float] = {}
    for _, epoch, figures in metrics.rows:
        if metric in figures and epoch is not None:
            found.setdefault(epoch + 1, figures[metric])
        elif LOSS in figures:  # what observers have of the same validation is in other rows
            _check_metric(metric, figures)
    return dict(sorted(found.items()))


def _fit(arguments: list[str], output: Path, group: str) -> None:
    os.setsid()  # Ctrl-C is for the sweep, which passes it on
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGTERM)
    with output.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    os.environ |= {"CROSSMODAL_OUTPUT": "lines", "WANDB_RUN_GROUP": group}
    sys.argv = ["crossmodal", *arguments]
    sys.exit(main())


def _wait_for(run: RunFolder) -> None:
    """Wait until a process is gone that trains on although its sweep was killed."""
    waits = False
    while True:
        try:
            run.lock().close()
        except LockedError:
            if not waits:
                say(f"waiting for the end of {run.path}, whose sweep was killed")
            waits = True
            time.sleep(POLL_SECONDS)
        else:
            return


def _check_metric(metric: str, names: Iterable[str]) -> None:
    if metric not in names:
        there = ", ".join(sorted(name for name in names if name.startswith("val/")))
        hint = f"there are {there}" if there else "they have no val split, by which to choose"
        raise UsageError(f"--metric {metric}: the runs have no such figure; {hint}")


def _outcome(run: RunFolder, metric: str) -> Outcome:
    path = run.path / "metrics.json"
    if not path.exists():  # as after a fast_dev_run
        return Outcome("failed", error=f"it left no {path}")
    figures = json.loads(path.read_text())
    _check_metric(metric, [name for name, value in figures.items() if isinstance(value, int | float | None)])
    if (value := figures[metric]) is None:
        return Outcome("failed", error=f"{metric} is not a finite number")
    return Outcome("complete", float(value))


def _error(output: Path, begin: int, status: int) -> str:
    """Return why a run ended, by what it said from a place of its output on."""
    if status < 0:
        why = "; the system may have had no memory left" if status == -signal.SIGKILL else ""
        return f"killed by {signal.Signals(-status).name}{why}"
    said = output.read_bytes()[begin:].decode(errors="replace").strip()
    _, is_ours, error = said.rpartition(ERROR)
    if is_ours and error:
        return error
    return f"exit status {status}: {said.splitlines()[-1] if said else 'it said nothing'}"


def _end(process: ForkServerProcess | SpawnProcess) -> None:
    if process.is_alive():
        process.terminate()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
