"""Runs long work in several processes, for comparisons."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from typing import Any


def in_processes(
    work: Callable[..., Any],
    wanted: Sequence[tuple[Any, ...]],
    *,
    jobs: int,
    begin: Callable[[], object],
    keep: Callable[[Any], object],
) -> None:
    """Do work for each of the wanted arguments; an error or Ctrl-C ends it at once.

    Args:
        work: Runs in one of the processes.
        wanted: Arguments of each piece of work.
        jobs: How many processes.
        begin: Runs once in each process, which is a fork of this one.
        keep: Given what a piece of work returns, here, as soon as it does.
    """
    pool = ProcessPoolExecutor(jobs, get_context("fork"), initializer=_begun, initargs=(begin,))
    try:
        for done in as_completed([pool.submit(work, *one) for one in wanted]):
            keep(done.result())
    except BaseException:
        for process in active_children():  # the pool would wait for what they have begun
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begun(begin: Callable[[], object]) -> None:
    # a terminal sends Ctrl-C to all: Lightning would end the training alone, and the process go on with the next
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    begin()
