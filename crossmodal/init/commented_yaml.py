"""YAML that is written for people: keys in order, with comments, and what belongs together on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

WIDTH = 118
BESIDE = 29  # characters from the margin at which a comment stands, where the value leaves room
# what no reader of YAML takes for anything but text
PLAIN = re.compile(r"[A-Za-z_./][\w./\-]*(:\w[\w./\-]*)?( [\w./\-]+)*", re.ASCII)


@dataclass(frozen=True)
class Noted:
    """A value with comments.

    Args:
        value: Of a key.
        above: Lines over the key.
        beside: After the value, or the key.
    """

    value: Any
    above: Sequence[str] = ()
    beside: str = ""


class Block(dict[str, Any]):
    """Keys and values that stand on lines of their own; those of other mappings stand on one, if it is long enough."""


def write_yaml(content: Mapping[str, Any]) -> str:
    """Write a file. An empty line stands before each group of keys."""
    parts: list[str] = []
    for key, value in content.items():
        text = "\n".join(_entry(key, value, 0)) + "\n"
        is_group = isinstance(_bare(value), Block)
        parts.append(f"\n{text}" if is_group and parts else text)
    return "".join(parts)


def comment(text: str, indent: int = 0) -> str:
    """Return a comment line: what a column is named, or holds, must not end it."""
    return f"{' ' * indent}# {printable(text)}".rstrip()


def printable(text: str) -> str:
    """Return text on one line, without characters that YAML does not take."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _bare(value: Any) -> Any:
    return value.value if isinstance(value, Noted) else value


def _entry(key: str, value: Any, indent: int) -> Iterator[str]:
    noted = value if isinstance(value, Noted) else Noted(value)
    margin = " " * indent
    for line in noted.above:
        yield comment(line, indent)
    head = f"{margin}{_scalar(key)}:"
    if isinstance(noted.value, Block):
        yield _beside(head, noted.beside)
        for inner, more in noted.value.items():
            yield from _entry(inner, more, indent + 2)
        return
    if isinstance(noted.value, list) and any(isinstance(item, Block) for item in noted.value):
        yield _beside(head, noted.beside)
        for item in noted.value:
            lines = [line for inner, more in item.items() for line in _entry(inner, more, indent + 4)]
            yield from (f"{margin}  - {lines[0].lstrip()}", *lines[1:])
        return
    line = f"{head} {_flow(noted.value)}"
    if len(line) <= WIDTH or not isinstance(noted.value, dict | list):
        yield _beside(line, noted.beside)
    elif isinstance(noted.value, dict):
        yield _beside(head, noted.beside)
        for inner, more in noted.value.items():
            yield from _entry(inner, more, indent + 2)
    else:
        yield _beside(head, noted.beside)
        for item in noted.value:
            yield f"{margin}  - {_flow(item)}"


def _beside(line: str, text: str) -> str:
    return f"{line:<{BESIDE}}  # {printable(text)}" if text else line


def _flow(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_scalar(key)}: {_flow(one)}" for key, one in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        if PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
            return value
        return str(yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))).strip()
    return str(yaml.safe_dump(value, width=float("inf"))).removesuffix("...\n").strip()
