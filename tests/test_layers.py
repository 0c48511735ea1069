"""Who may import whom, as DESIGN.md says, and how long a file may be."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGES = ("experts", "datamodules", "crossmodal")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}
# a module that stands later may import one that stands earlier, not the other way round
ORDER = ("crossmodal.fusion", "crossmodal.heads", "crossmodal.model", "crossmodal.module", "crossmodal.cli")
CONTRACTS = {
    "experts.base",
    "experts.digests",
    "experts.saved",  # folders of experts, of whatever class
    *(
        f"datamodules.{name}"
        for name in ("batch", "checking", "columns", "faults", "loading", "paired", "rows", "sources", "tables")
    ),
}
MAX_LINES = 320
LONGER: dict[str, str] = {}  # a file, and why it is longer


@cache
def imports(module: str) -> set[str]:
    """All of our modules that a module imports, wherever in the file it does."""
    found: set[str] = set()
    package = module if FILES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = [*parts[: len(parts) + 1 - node.level], node.module] if node.level else [node.module]
            source = ".".join(part for part in base if part)
            found |= {f"{source}.{a.name}" if f"{source}.{a.name}" in FILES else source for a in node.names}
    return {name for name in found if name.split(".")[0] in PACKAGES}


def reached(module: str) -> set[str]:
    """What a module imports, and what that imports, and so on."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports(waiting.pop()) - seen:
            seen.add(name)
            waiting += [name] if name in FILES else []
    return seen


def belongs(module: str, to: str) -> bool:
    return module == to or module.startswith(f"{to}.")


def test_the_imports_are_found() -> None:
    assert "experts.base" in imports("crossmodal.model")
    assert "crossmodal.fusion.base" in imports("crossmodal.fusion")
    assert "crossmodal.heads" in reached("crossmodal.module")
    assert {"crossmodal.fusion", "crossmodal.model"} <= FILES.keys()


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_only_what_it_may(module: str) -> None:
    own = module.split(".")[0]
    foreign = {name for name in imports(module) if name.split(".")[0] != own}
    allowed = CONTRACTS if own == "crossmodal" else set()
    assert foreign <= allowed


@pytest.mark.parametrize(("number", "layer"), enumerate(ORDER))
def test_layers_are_in_order(number: int, layer: str) -> None:
    later = ORDER[number + 1 :]
    for module in (name for name in FILES if belongs(name, layer)):
        assert not [name for name in reached(module) if any(belongs(name, to) for to in later)], module


def test_only_main_imports_the_command() -> None:
    assert [module for module in FILES if "crossmodal.cli" in imports(module)] == ["crossmodal.__main__"]


@pytest.mark.parametrize("module", sorted(FILES))
def test_files_are_short(module: str) -> None:
    path: Path = FILES[module]
    length = len(path.read_text().splitlines())
    assert length <= MAX_LINES or module in LONGER
    assert length > MAX_LINES or module not in LONGER
