"""`crossmodal dashboard`: a local page over all runs, live while they train."""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlencode

from crossmodal.errors import UsageError, refuse

HELP = """\
usage: crossmodal dashboard [RUNS] [--port N] [--host ADDRESS] [--open]

Show all runs of a folder in the browser, live while they train: curves beside each other, configurations, pictures and
sounds. What is shown is read from the runs' own files, and nothing leaves the machine. Ctrl-C ends it.

  RUNS               the folder of all runs (runs)
  --port N           by default the first free one from 7860 on
  --host ADDRESS     of this machine, to be seen from others, too: then with a token (127.0.0.1)
  --open             open the browser
"""
LOCAL = "127.0.0.1"
TRACKIO = "0.43"  # as pyproject.toml says; what is used of it has no stable interface


@dataclass(frozen=True)
class Options:
    """What `dashboard` takes."""

    runs: Path
    port: int | None
    host: str
    opens: bool

    @property
    def is_local(self) -> bool:
        """Whether no other machine can see it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_options(arguments: list[str]) -> Options | None:
    """Return what is wanted, or None for help.

    Raises:
        UsageError: It cannot be understood, or there are no runs.
    """
    if {"-h", "--help"} & set(arguments):
        return None
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"))
    parser.add_argument("--port")
    parser.add_argument("--host", default=LOCAL)
    parser.add_argument("--open", action="store_true")
    try:
        given, rest = parser.parse_known_intermixed_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if rest:
        raise UsageError(f"dashboard does not take {rest[0]}; see `crossmodal dashboard --help`")
    if not given.host:
        raise UsageError("--host: expected an address of this machine, such as 0.0.0.0, found none")
    if given.port is not None and not (given.port.isdecimal() and 0 < int(given.port) < 65536):
        raise UsageError(f"--port: expected a number from 1 to 65535, found {given.port!r}")
    if not given.runs.is_dir():
        raise UsageError(f"{given.runs}: no such folder; give that of all runs, which `crossmodal fit` made")
    return Options(given.runs, None if given.port is None else int(given.port), given.host, given.open)


def check_trackio() -> None:
    """Raise UsageError where the trackio that the dashboard is served through is not installed, or another."""
    try:
        there = version("trackio")
    except PackageNotFoundError:
        raise UsageError('the dashboard needs trackio: pip install "crossmodal[dashboard]"') from None
    if not there.startswith(f"{TRACKIO}."):
        raise UsageError(
            f"the dashboard needs trackio {TRACKIO}, and {there} is installed: pip install 'trackio=={TRACKIO}.*'"
        )


def main(arguments: list[str]) -> int:
    """Serve the page until Ctrl-C; return the exit status."""
    try:
        options = read_options(arguments)
        if options is None:
            sys.stdout.write(HELP)
            return 0
        check_trackio()
    except UsageError as error:
        return refuse(error, 2)
    with tempfile.TemporaryDirectory(prefix="crossmodal-dashboard-") as store:
        # before trackio is imported; what it keeps is made anew from the runs, each time
        os.environ |= {"TRACKIO_DIR": store, "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        os.environ["TRACKIO_WRITE_TOKEN"] = secrets.token_urlsafe(16)  # which nobody is told: the page writes nothing
        os.environ.setdefault("TRACKIO_PLOT_ORDER", "val/*,train/*,test/*")
        return _serve(options)


def _serve(options: Options) -> int:
    from crossmodal.dashboard.serving import bind, serve

    try:
        listening = bind(options.host, options.port)
    except OSError as error:
        where = options.host if options.port is None else f"{options.host}, port {options.port}"
        return refuse(f"{where}: {error.strerror}; give another with --port or --host", 1)
    token = None if options.is_local else secrets.token_urlsafe(16)
    # of all addresses of the machine, one that others can open
    host = socket.gethostname() if options.host in ("0.0.0.0", "::") else options.host
    host = f"[{host}]" if ":" in host else host
    address = f"http://{host}:{listening.getsockname()[1]}/"
    if token is not None:
        address += f"?{urlencode({'token': token})}"

    def tell() -> None:
        print(f"dashboard: {address} (Ctrl-C ends it)", flush=True)
        if options.opens:
            import webbrowser

            webbrowser.open(address)

    if serve(options.runs, listening, token=token, told=tell):
        return 0
    return refuse("the process that reads the runs has ended, so that nothing would change any more; begin again", 1)
