"""Serves trackio's page over runs, and brings what changes to it."""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import socket
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
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ReadOnly:
    """Lets a page be seen, and nothing be written; with a token only by who has it.

    Args:
        app: That is served.
        token: In the address at first, and then in a cookie; None for none.
    """

    def __init__(self, app: App, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in ("http", "websocket") or self._token is None:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        kept = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        has_asked = secrets.compare_digest(asked.encode(), self._token.encode())
        if not has_asked and not (kept and secrets.compare_digest(kept.value.encode(), self._token.encode())):
            await _refuse(scope, send)
            return

        async def remember(message: MutableMapping[str, Any]) -> None:
            if has_asked and message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                message["headers"] = [*message.get("headers", []), (b"set-cookie", cookie.encode("latin-1"))]
            await send(message)

        await self._app(scope, receive, remember)


async def _refuse(scope: Scope, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4403})
        return
    text = b"the address that `crossmodal dashboard` printed has a token, which this one lacks\n"
    await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


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
        except OSError as told:
            listening.close()
            error = told
            continue
        return listening
    assert error is not None
    raise error


def serve(runs: Path, listening: socket.socket, *, token: str | None, told: Callable[[], None]) -> None:
    """Serve until it is interrupted.

    Args:
        runs: The folder of all runs.
        listening: As `bind` returns it.
        token: That who looks must have; None for none.
        told: Is called when the page is there.
    """
    app, _ = build_starlette_app_only()
    # in a process of its own: while it reads hundreds of runs the page must answer
    ends = multiprocessing.Event()
    bringing = multiprocessing.Process(target=bring, args=(runs, ends, os.getpid()), daemon=True)
    bringing.start()
    try:
        _Server(uvicorn.Config(ReadOnly(app, token), log_level="warning"), told).run(sockets=[listening])
    finally:
        ends.set()
        bringing.join()  # it writes where who called cleans up


def bring(runs: Path, ends: Event, parent: int) -> None:
    """Bring what changes in runs to trackio's store, until it is to end, or who began it has."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    mirror = Mirror(runs, runs.resolve().name)
    while not ends.is_set():
        for _ in mirror.update():
            if ends.is_set() or os.getppid() != parent:
                return
        ends.wait(EVERY)
        if os.getppid() != parent:
            return


class _Server(uvicorn.Server):
    """Says when it is there, and ends quietly at Ctrl-C or a polite request."""

    def __init__(self, config: uvicorn.Config, begin: Callable[[], None]) -> None:
        super().__init__(config)
        self._begin = begin

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
