"""Serves trackio's page over runs, and brings what changes to it."""

from __future__ import annotations

import multiprocessing
import os
import re
import secrets
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from http.cookies import SimpleCookie
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from trackio.server import build_starlette_app_only

from crossmodal.dashboard.mirror import Mirror

EVERY = 1.0  # seconds
COOKIE = "crossmodal_token"
OWN_NAMES = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?", re.IGNORECASE)
OTHER_NAME = b"this page is to be had by the address that `crossmodal dashboard` printed, and by no other name\n"
NO_TOKEN = b"the address that `crossmodal dashboard` printed has a token, which this one lacks\n"
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Lets a page be seen from this machine by its own name alone, else by who has the token.

    Args:
        app: That is served.
        token: In the address at first, and then in a cookie; None for none.
        port: Of the page; a browser has one jar of cookies for all ports of a machine.
    """

    def __init__(self, app: App, token: str | None, *, port: int) -> None:
        self._app = app
        self._token = token
        self._cookie = f"{COOKIE}_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if self._token is None:
            # another site's page, whose name was made to point here, must not read it (DNS rebinding)
            is_own = OWN_NAMES.fullmatch(headers.get("host", "")) is not None
            await (self._app(scope, receive, send) if is_own else _refuse(scope, send, OTHER_NAME))
            return
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        kept = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        has_asked = secrets.compare_digest(asked.encode(), self._token.encode())
        if not has_asked and not (kept and secrets.compare_digest(kept.value.encode(), self._token.encode())):
            await _refuse(scope, send, NO_TOKEN)
            return

        async def remember(message: MutableMapping[str, Any]) -> None:
            if has_asked and message["type"] == "http.response.start":
                cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                message["headers"] = [*message.get("headers", []), (b"set-cookie", cookie.encode("latin-1"))]
            await send(message)

        await self._app(scope, receive, remember)


async def _refuse(scope: Scope, send: Send, why: bytes) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4403})
        return
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": why})


def bind(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens, at the port or else at the first free one from 7860 on.

    Raises:
        OSError: The port is taken, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = [port] if port is not None else [*range(7860, 7890), 0]
    error: OSError | None = None
    for one in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, one))
            listening.listen()  # or another could bind the port, too, until one of the two listens
        except OSError as told:
            listening.close()
            error = told
            continue
        return listening
    assert error is not None
    raise error


def serve(runs: Path, listening: socket.socket, *, token: str | None, told: Callable[[], None]) -> bool:
    """Serve until it is interrupted; return whether that is why it ended, and not that runs are read no more.

    Args:
        runs: The folder of all runs.
        listening: As `bind` returns it.
        token: That who looks must have; None for none.
        told: Is called when the page is there.
    """
    app, _ = build_starlette_app_only()
    # in a process of its own: while it reads hundreds of runs the page must answer
    spawn = multiprocessing.get_context("spawn")  # so that it is this process that is its parent
    ends = spawn.Event()
    bringing = spawn.Process(target=bring, args=(runs, ends, os.getpid()), daemon=True)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which it inherits, and keeps while it imports
    bringing.start()
    signal.signal(signal.SIGINT, before)
    page = Guard(app, token, port=listening.getsockname()[1])
    try:
        _Server(uvicorn.Config(page, log_level="warning"), told, bringing.is_alive).run(sockets=[listening])
        return bringing.is_alive()
    finally:
        ends.set()
        bringing.join()  # it writes where who called cleans up


def bring(runs: Path, ends: Event, parent: int) -> None:
    """Bring what changes in runs to trackio's store, until it is to end, or who began it has."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    mirror = Mirror(runs, runs.resolve().name)
    while not ends.is_set():
        began, wait = time.monotonic(), EVERY
        try:
            for _ in mirror.update():
                if ends.is_set() or os.getppid() != parent:
                    return
                if time.monotonic() - began > EVERY:  # live runs may have gone on
                    wait = 0.0
                    break
        except (sqlite3.Error, OSError) as error:  # such as a full disk
            print(f"dashboard: cannot be brought up to date ({error}); trying again", file=sys.stderr, flush=True)
            wait = 10 * EVERY
        ends.wait(wait)
        if os.getppid() != parent:
            return


class _Server(uvicorn.Server):
    """Says when it is there, and ends quietly at Ctrl-C or a polite request, or when nobody brings anything more."""

    def __init__(self, config: uvicorn.Config, begin: Callable[[], None], is_fed: Callable[[], bool]) -> None:
        super().__init__(config)
        self._begin = begin
        self._is_fed = is_fed

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is to end."""
        return await super().on_tick(counter) or not self._is_fed()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._begin()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals without sending them to this process once more, as uvicorn does."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
