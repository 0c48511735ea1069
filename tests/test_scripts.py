"""Scripts are run by hand: what they import from here must still be there."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossmodal.signatures import read_module
from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield module and name of what a script imports from our packages and from other scripts."""
    own = {"crossmodal", "datamodules", "experts", *(script.stem for script in SCRIPTS)}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in own:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_is_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "scripts"), *sys.path])
    for name, wanted in imported(path):
        module = read_module(name)
        assert module is not None, name
        there = {*module.classes, *module.functions, *module.assigned, *module.imported}
        assert wanted in there or read_module(f"{name}.{wanted}"), f"{path.name}: {name} has no {wanted}"
