"""A command line and its YAML, read as the real parser reads them, in a moment."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from crossmodal.errors import UsageError

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}
COMMAND_LINE = "the command line"  # where a key comes from, as a file's name is
WHOLE = ("experts", "model.heads")  # of these a second file leaves only the entries that it names


class _Loader(yaml.SafeLoader):
    """As the parser's: a date is a string. A key that stands twice is refused: the parser takes the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # the parser refuses it
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith("timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_options(arguments: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield keys and values; None where there is no value."""
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if not argument.startswith("-") or argument == "-":
            raise UsageError(f"unexpected argument {argument!r}; options look like --trainer.max_epochs 3")
        key, has_value, value = argument.lstrip("-").partition("=")
        if not has_value:
            following = arguments[position] if position < len(arguments) else None
            if following is None or following.startswith("--"):
                yield key, None
                continue
            value = following
            position += 1
        yield key, value


def configuration(options: list[tuple[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the keys that files and options give, and which of them gave each dotted key.

    Raises:
        UsageError: A file cannot be read.
    """
    config: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in (value for key, value in options if key in ("config", "c")):
        if name in (None, ""):
            raise UsageError("--config wants a file")
        origins.update(dict.fromkeys(merge(config, read_yaml(Path(str(name)))), str(name)))
    for key, value in options:
        if key not in ("config", "c", "print_config") and not key.endswith("help"):
            origins.update(dict.fromkeys(override(config, key, value), COMMAND_LINE))
    return config, origins


def read_own_options(
    group: str, command: str, parser: argparse.ArgumentParser, arguments: list[str]
) -> tuple[argparse.Namespace | None, list[str]]:
    """Return what `crossmodal GROUP COMMAND` takes itself, or None where help is wanted, and the arguments of `fit`.

    Raises:
        UsageError: They cannot be understood.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        return None, []
    if arguments[0] != command:
        raise UsageError(f"no command '{group} {arguments[0]}'; there is `crossmodal {group} {command}`")
    try:
        given, rest = parser.parse_known_args(arguments[1:])
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    return (None, []) if {"-h", "--help"} & set(rest) else (given, rest)


def read_yaml(path: Path, *, such_as: str = "experts, data, model and trainer") -> dict[str, Any]:
    """Read a file of keys.

    Args:
        path: Of the file.
        such_as: Some that it should have.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise UsageError(f"{path}: no such file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from None
    try:
        config = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UsageError(f"{path}{where}: no valid YAML: {problem}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path}: expected keys such as {such_as}, found {kind(config)}")
    return config


def merge(config: dict[str, Any], more: dict[str, Any], parent: str = "") -> Iterator[str]:
    """Put a further file's keys over those of earlier ones, as the parser does; yield the dotted keys that it sets."""
    prefix = f"{parent}." if parent else ""
    for key, value in more.items():
        name = f"{prefix}{key}"
        if name.endswith("+"):
            yield from (f"{prefix}{new}" for new in override(config, key, value))
            continue
        before = config.get(key)
        if isinstance(before, str) and isinstance(value, dict) and value.keys() & CLASS_KEYS:
            before = config[key] = {"class_path": before}
        if not isinstance(before, dict) or not isinstance(value, dict):
            config[key] = value
            yield name
            continue
        if value.get("class_path", before.get("class_path")) != before.get("class_path"):
            before.pop("init_args", None)  # the parser drops what the other class does not take
        if name in WHOLE:
            config[key] = before = {one: before[one] for one in value if one in before}
        yield from merge(before, value, name)


def override(config: dict[str, Any], key: str, value: Any) -> list[str]:
    """Set a dotted key as the parser does; return the keys that are new."""
    try:
        parsed = yaml.load(value, _Loader) if isinstance(value, str) else value
    except yaml.YAMLError:
        parsed = value
    *parents, last = key.split(".")
    path: list[str] = []
    new: list[str] = []
    for parent in parents:
        config, name = _arguments_of(config, parent)
        path += [name, parent] if name else [parent]
        if not isinstance(config.get(parent), dict):
            config[parent] = {}
            new.append(".".join(path))
        config = config[parent]
    config, name = _arguments_of(config, last)
    path += [name] if name else []
    own = last.removesuffix("+")
    before = config.get(own)
    if last.endswith("+"):
        new += [".".join([*path, f"{own}[{len(before) if isinstance(before, list) else 0}]"])]
        parsed = [*(before if isinstance(before, list) else []), *(parsed if isinstance(parsed, list) else [parsed])]
    elif isinstance(before, dict) and "class_path" in before and isinstance(parsed, str):
        parsed = {"class_path": parsed}
    elif own == "class_path":
        config.pop("init_args", None)  # the parser drops what the other class does not take
    config[own] = parsed
    return new if last.endswith("+") else [*new, ".".join([*path, own])]


def _arguments_of(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Where a class is named, a key that is none of its own means one of the class's arguments."""
    if "class_path" in config and key not in CLASS_KEYS:
        config["init_args"] = arguments = config.get("init_args") or {}
        return arguments, "init_args"
    return config, ""


def flattened(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys of what lies within each other, and their values; entries of a list by their numbers."""
    if isinstance(value, dict) and value:
        for inner, of in value.items():
            yield from flattened(of, f"{key}.{inner}" if key else str(inner))
    elif isinstance(value, list) and any(isinstance(one, dict | list) for one in value):
        for number, of in enumerate(value):
            yield from flattened(of, f"{key}.{number}")
    else:
        yield key, value


def kind(value: Any) -> str:
    """Say what a value is, as a user would."""
    names = {dict: "keys and values", list: "a list", type(None): "nothing"}
    return names.get(type(value)) or f"{type(value).__name__} {value!r}"
