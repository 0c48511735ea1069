"""The ServerApp of a Flower SuperLink: `crossmodal replicas fit`, whose nodes are SuperNodes."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from crossmodal import replicas_cli
from crossmodal.errors import UsageError, refuse
from crossmodal.preflight import check
from crossmodal.replicas.owning import is_alive

GRACE = 1.0  # seconds that this process may live on after its SuperLink

app = ServerApp()


class NotTrainedError(Exception):
    """What is wrong was said; the run has failed."""


def main(grid: Grid, context: Context) -> None:
    """Train, as the run's configuration says."""
    if status := _fit(grid, context):
        sys.tracebacklimit = 0  # Flower prints how it came about, which was said in a line
        raise NotTrainedError(f"no model was trained: exit status {status}")


app.main()(main)


def _fit(grid: Grid, context: Context) -> int:
    from crossmodal.replicas.flower import flower
    from crossmodal.replicas.remote import Patience

    told = context.run_config
    arguments = shlex.split(str(told["arguments"]))
    _end_with_parent()
    sys.argv = ["crossmodal", "replicas", "fit", *arguments]  # what is said of how to go on
    sys.path.append(str(Path.cwd()))  # as the command does
    try:
        check("fit", arguments)
        patience = Patience(timeout=float(told["timeout"]), min_nodes=int(told["min-nodes"]))
    except (UsageError, ValueError) as error:
        return refuse(error, 2)
    return replicas_cli.main(replicas_cli.Options(), arguments, flower(grid, patience))


def _end_with_parent() -> None:
    """End when the SuperLink does: else the run's folder would stay locked while nobody can answer."""
    parent = os.getppid()

    def look() -> None:
        while is_alive(parent) and os.getppid() == parent:
            time.sleep(GRACE)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
