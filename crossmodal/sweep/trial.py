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
from pathlib import Path

from crossmodal.__main__ import main
from crossmodal.errors import UsageError
from crossmodal.output import say
from crossmodal.report.history import read_history
from crossmodal.run_folder import LockedError, RunFolder

POLL_SECONDS = 0.3
PATIENCE = 60.0  # seconds that a run may take to end, which it does after the batch
ERROR = "crossmodal: error: "
OWN_PACKAGES = ("crossmodal", "datamodules", "experts", "pytorch_lightning")
PARENT_DIED = 1  # of Linux's prctl: the signal that a process is sent when its parent is gone


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
    """
    _wait_for(run)
    process = context.Process(target=_fit, args=(list(arguments), run.path / "output.txt", group))
    process.start()
    try:
        told, metrics = 0, run.path / "metrics.csv"
        while True:
            status = process.exitcode
            if status not in (None, 0):
                return Outcome("failed", error=_error(run.path / "output.txt", status))
            for epoch, value in enumerate(_values(metrics, metric), start=1):
                if epoch > told:
                    told = epoch
                    # also of a run that was quicker than we: what is tried next must not depend on that
                    if should_stop(epoch, value):
                        return Outcome("pruned")
            if status == 0:
                return _outcome(run, metric)
            process.join(POLL_SECONDS)
    finally:
        _end(process)


def _fit(arguments: list[str], output: Path, group: str) -> None:
    os.setsid()  # Ctrl-C is for the sweep, which passes it on
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


def _values(metrics: Path, metric: str) -> list[float]:
    """Return the metric after each epoch; one that a killed run measured twice counts once."""
    history = read_history(metrics)
    if metric not in history:
        _check_metric(metric, [name for name in history if name.startswith("val/")])
    return [value for _, value in sorted(dict(history.get(metric, [])).items())]


def _check_metric(metric: str, there: Sequence[str]) -> None:
    if there and metric not in there:
        raise UsageError(f"--metric {metric}: the runs have no such figure; there are {', '.join(sorted(there))}")


def _outcome(run: RunFolder, metric: str) -> Outcome:
    path = run.path / "metrics.json"
    if not path.exists():  # as after a fast_dev_run
        return Outcome("failed", error=f"it left no {path}")
    figures = json.loads(path.read_text())
    _check_metric(metric, [name for name, value in figures.items() if isinstance(value, int | float | None)])
    if (value := figures[metric]) is None:
        return Outcome("failed", error=f"{metric} is not a finite number")
    return Outcome("complete", float(value))


def _error(output: Path, status: int) -> str:
    said = output.read_text(errors="replace").strip()
    _, is_ours, error = said.rpartition(ERROR)
    return error if is_ours else f"exit status {status}: {said.splitlines()[-1] if said else 'it said nothing'}"


def _end(process: ForkServerProcess | SpawnProcess) -> None:
    if process.is_alive():
        process.terminate()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            process.join()
