"""The ClientApp of a Flower SuperNode: it hands each message to the node's own process, and its answer back.

Flower starts a process for each message. This one imports no torch; the node's process, which it starts at the first
message, does, once: `crossmodal.replicas.site`.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
import time
from multiprocessing.connection import Client, Connection
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from crossmodal.replicas.flower_records import NODE, PARCEL, REASON, array_of, bytes_of
from crossmodal.replicas.owning import socket_of

START_SECONDS = 600.0  # that a node has to read its data and encode what is not encoded yet
PAUSE = 0.1

app = ClientApp()


def answer(message: Message, context: Context) -> Message:
    """Answer a message."""
    try:
        found = _asked(bytes_of(message), context)
    except ValueError as error:
        told = {key: value for key, value in context.node_config.items() if key == NODE}
        return Message(RecordDict({REASON: ConfigRecord({REASON: str(error), **told})}), reply_to=message)
    return Message(RecordDict({PARCEL: ArrayRecord({PARCEL: array_of(found)})}), reply_to=message)


for kind in (app.query, app.train, app.evaluate):
    kind()(answer)


def _asked(parcel: bytes, context: Context) -> bytes:
    """Let the node's process answer.

    Raises:
        ValueError: The SuperNode was started otherwise than it must be, or the node's process has ended.
    """
    told = context.node_config
    for key in (NODE, "arguments"):
        if key not in told:
            raise ValueError(f"a SuperNode without {key!r} in --node-config; see docs/replicas.md")
    node = int(told[NODE])
    folder = Path(str(told.get("folder", f"runs/node_{node}"))).absolute()
    with _node(node, folder, shlex.split(str(told["arguments"]))) as connection:
        connection.send_bytes(parcel)
        try:
            return connection.recv_bytes()
        except EOFError:
            raise ValueError(f"node {node}: its process has ended: {_last_words(folder)}") from None


def _node(node: int, folder: Path, arguments: list[str]) -> Connection:
    """Return a connection to the node's process, which is started where there is none."""
    owner = os.getppid()  # it stays as long as the SuperNode does
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = socket_of(folder, owner)
    with (folder / "starting.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return Client(str(path), "AF_UNIX")
        except OSError:
            pass
        for old in folder.glob("*.socket"):
            old.unlink(missing_ok=True)
        command = [sys.executable, "-m", "crossmodal.replicas.site", "--node", str(node), "--folder", str(folder)]
        with (folder / "node.log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--owner", str(owner), "--", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                return Client(str(path), "AF_UNIX")
            except OSError:
                time.sleep(PAUSE)
    process.kill()
    raise ValueError(_last_words(folder))


def _last_words(folder: Path) -> str:
    lines = (folder / "node.log").read_text(errors="replace").strip().splitlines()
    wrong = [line for line in lines if line.startswith("crossmodal: error: ")]
    return (wrong or lines or ["it said nothing"])[-1].removeprefix("crossmodal: error: ")
