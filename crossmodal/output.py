"""What is printed: lines, nothing but errors, or one JSON object. Imports nothing heavy."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossmodal.whole_files import known

# an environment variable, so that processes that are begun know it: `lines`, `quiet` or `json`
OUTPUT = "CROSSMODAL_OUTPUT"


def is_quiet() -> bool:
    """Return whether nothing but errors, or but one JSON object at the end, is to be printed."""
    return os.environ.get(OUTPUT, "lines") != "lines"


def say(text: str) -> None:
    """Print a line, unless it is to be quiet."""
    if not is_quiet():
        print(text, flush=True)


def tell(figures: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    """Print what came out, as the one JSON object that is wanted."""
    if os.environ.get(OUTPUT) == "json":
        told = {"figures": known(figures), "paths": {name: str(path) for name, path in paths.items()}}
        print(json.dumps(told), flush=True)
