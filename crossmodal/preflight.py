"""Checks a command line and its YAML in a moment, before anything heavy is imported.

Importing torch, Lightning and timm takes seconds; a misspelt key should not. Signatures are read from the
classes' source, never by importing it. What cannot be decided so is left to the real parser, which has the
last word. What is refused here would be refused there, but for a whole group given as a file (`--data data.yaml`)
and an expert or a data module named without its module.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

from crossmodal.arguments import CLASS_KEYS, COMMAND_LINE, configuration, kind, read_options
from crossmodal.errors import UsageError
from crossmodal.run_folder import checkpoint_to_evaluate, experiment_folder
from crossmodal.signatures import Annotation, Module, Signature, nearest, read_module, read_signature

MODEL = "crossmodal.module.CrossModalModule"
TRAINER = "pytorch_lightning.trainer.trainer.Trainer"
LINKED = ("experts", "outputs")  # arguments of the model that other groups give
REPLICAS = "crossmodal.replicas.plan.Replicas"
OWN_KEYS = ("experts", "data", "model", "trainer", "seed_everything", "name", "runs", "track", "observe", "replicas")
SEEDS = 2**32  # as numpy takes them
# types that nothing in a YAML file is
NEVER_IN_YAML = {"Tensor"}
Verdict = Literal["right", "wrong", "unknown"]


def check(subcommand: str, arguments: list[str]) -> dict[str, Any]:
    """Check a subcommand's arguments; return the configuration that they give.

    Raises:
        UsageError: Something is certainly wrong; the message names the key and the file.
    """
    options = list(read_options(arguments))
    config, origins = configuration(options)
    files = [value for key, value in options if key in ("config", "c")]
    if files or options:
        checker = _Checker(subcommand, config, origins)
        checker.check_keys()
        checker.check_own()
        checker.check_output()
        if not any(key == "print_config" for key, _ in options):
            checker.check_checkpoint(Path(str(files[-1])).stem if files else "experiment")
    return config


class _Checker:
    def __init__(self, subcommand: str, config: dict[str, Any], origins: dict[str, str]) -> None:
        self.subcommand = subcommand
        self.config = config
        self.origins = origins
        method = read_signature(TRAINER, subcommand)
        skipped = {"self", "model", "datamodule", "dataloaders", "train_dataloaders", "val_dataloaders"}
        self.method = {key: value for key, value in method.annotations.items() if key not in skipped}
        self.own_keys = (*OWN_KEYS, *(("output", "limit") if subcommand == "predict" else ()))

    def check_keys(self) -> None:
        known = [*self.own_keys, *self.method]
        for key in self.config:
            if key not in known:
                self.fail(str(key), f"unknown key {str(key)!r}{nearest(str(key), known)}")
        if missing := [key for key in ("experts", "data", "model") if key not in self.config]:
            hint = "give an experiment with --config FILE (`crossmodal init DATA` writes one)"
            raise UsageError(f"missing {', '.join(missing)}: {hint}")
        for key, value in self.config.items():
            if key == "experts":
                self.check_experts(value)
            elif key == "data":
                self.check_class(value, key)
            elif key == "model":
                self.check_group(read_signature(MODEL), value, key, LINKED)
            elif key == "trainer":
                self.check_group(read_signature(TRAINER), value, key)
            elif key == "replicas" and value is not None:
                self.check_group(read_signature(REPLICAS), value, key)
            elif key in self.method:
                self.check_value(self.method[key], value, key)

    def check_own(self) -> None:
        name, seed = self.config.get("name"), self.config.get("seed_everything")
        if isinstance(name, str):
            try:
                experiment_folder(Path(str(self.config.get("runs") or "runs")), name)
            except ValueError as error:
                self.fail("name", str(error))
        if "seed_everything" in self.config and not isinstance(seed, int):
            self.fail("seed_everything", f"seed_everything: expected a number, true or false, found {kind(seed)}")
        if isinstance(seed, int) and not 0 <= seed < SEEDS:
            self.fail("seed_everything", f"seed_everything: expected a number from 0 to {SEEDS - 1}, found {seed}")

    def check_output(self) -> None:
        output, limit = self.config.get("output"), self.config.get("limit")
        if isinstance(output, str | int | float):  # YAML reads 7 as a number, the parser as a name
            path = Path(str(output)).absolute()
            there = next(parent for parent in path.parents if parent.exists())
            in_the_way = path.exists() and not path.is_file()  # a folder, or a device such as /dev/stdout
            if in_the_way or not there.is_dir() or not os.access(there, os.W_OK):
                self.fail("output", f"output {output}: it cannot be written there")
            if path.suffix.lower() not in (".parquet", ".csv"):
                self.fail("output", f"output {output}: give a name that ends in .parquet or .csv")
        if limit is not None and (_judge_scalar("int", limit) == "wrong" or float(limit) < 1):
            self.fail("limit", f"limit: expected a number of rows, at least 1, found {kind(limit)}")

    def check_checkpoint(self, default_name: str) -> None:
        given = self.config.get("ckpt_path")
        if isinstance(given, str) and given not in ("last", "best") and not Path(given).exists():
            self.fail("ckpt_path", f"ckpt_path {given}: no such file")
        if self.subcommand != "fit":
            runs, name = (self.config.get(key) for key in ("runs", "name"))
            if not all(isinstance(value, str | None) for value in (runs, name, given)):
                return  # YAML reads 001 as a number, the parser as the name that it is
            try:
                checkpoint_to_evaluate(self.subcommand, given, Path(runs or "runs"), name or default_name)
            except ValueError as error:
                raise UsageError(str(error)) from None

    def fail(self, path: str, message: str) -> None:
        while path:
            if origin := self.origins.get(path):
                raise UsageError(f"{origin}: {message}")
            path = re.sub(r"(\[\d+\]|(^|\.)[^.\[]*)$", "", path)  # without its last key or number
        raise UsageError(message)

    def check_experts(self, value: Any) -> None:
        if not isinstance(value, dict) or not value:
            self.fail("experts", f"experts: expected an expert for each modality, found {kind(value)}")
        for modality, spec in value.items():
            self.check_class(spec, f"experts.{modality}")

    def check_class(self, spec: Any, path: str, *, num_given: int = 0) -> None:
        """Check a class and its arguments, the first of which whoever builds it gives."""
        if isinstance(spec, str):
            spec = {"class_path": spec}
        if not isinstance(spec, dict) or "class_path" not in spec:
            if not isinstance(spec, dict):
                self.fail(path, f"{path}: expected class_path and init_args, found {kind(spec)}")
            is_override = self.origins.keys() & {f"{path}.{key}" for key in ("init_args", *spec)}
            if is_override and not path.startswith("experts."):  # which have no class by default
                return  # the class is the parser's to know
            self.fail(path, f"{path}: no class_path is given")
        if extra := spec.keys() - CLASS_KEYS:
            key = sorted(extra)[0]
            self.fail(path, f"unknown key '{path}.{key}'; arguments of the class go under init_args")
        class_path = spec["class_path"]
        if not isinstance(class_path, str):
            self.fail(path, f"{path}.class_path: expected a class, found {kind(class_path)}")
        try:
            signature = read_signature(class_path)
        except LookupError as error:
            self.fail(f"{path}.class_path", f"{path}.class_path: {error.args[0]}")
        given = [*list(signature.annotations)[:num_given], *(spec.get("dict_kwargs") or {})]
        if self.origins.get(path) == COMMAND_LINE or f"{path}.class_path" in self.origins:
            given += signature.annotations  # where another class is named, the parser keeps what both take
        self.check_group(signature, spec.get("init_args") or {}, f"{path}.init_args", given)

    def check_group(self, signature: Signature, values: Any, path: str, given: Collection[str] = ()) -> None:
        """Check arguments; those that are given elsewhere may be missing here."""
        if not isinstance(values, dict):
            self.fail(path, f"{path}: expected keys and values, found {kind(values)}")
        for key, value in values.items():
            name = f"{path}.{key}"
            if key in signature.annotations:
                self.check_value(signature.annotations[key], value, name)
            elif not signature.is_open:
                self.fail(name, f"unknown key {name!r}{nearest(str(key), signature.annotations)}")
        for key, annotation in signature.annotations.items():
            if annotation.is_required and not signature.is_open and key not in values and key not in given:
                self.fail(path, f"{path}.{key} is missing")

    def check_value(self, annotation: Annotation, value: Any, path: str) -> None:
        if annotation.node is None:
            return
        if self.judge(annotation.node, annotation.module, value, path) == "wrong":
            self.fail(path, f"{path}: expected {_in_words(annotation.node, annotation.module)}, found {kind(value)}")

    def judge(self, node: ast.expr, module: Module, value: Any, path: str) -> Verdict:
        match node:
            case ast.Constant(value=None):
                return "right" if value is None else "wrong"
            case ast.Constant(value=str() as text):
                return self.judge(ast.parse(text, mode="eval").body, module, value, path)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return _any(self.judge(part, module, value, path) for part in (left, right))
            case ast.Subscript(value=ast.Name(id=outer), slice=inner):
                return self.judge_generic(outer, inner, module, value, path)
            case ast.Name(id=name):
                return self.judge_name(name, module, value, path)
        return "unknown"

    def judge_generic(self, outer: str, inner: ast.expr, module: Module, value: Any, path: str) -> Verdict:
        parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        match outer:
            case "Optional":
                return "right" if value is None else self.judge(inner, module, value, path)
            case "Union":
                return _any(self.judge(part, module, value, path) for part in parts)
            case "Literal":
                options = [part.value for part in parts if isinstance(part, ast.Constant)]
                return "right" if value in options else "wrong"
            case "list" | "List":
                if not isinstance(value, list):
                    return "unknown" if isinstance(value, str | dict) else "wrong"
                for number, item in enumerate(value):
                    if self.judge(inner, module, item, f"{path}[{number}]") == "wrong":
                        return "wrong"
                return "right"
            case "dict" | "Dict":
                if not isinstance(value, dict):
                    return "unknown" if isinstance(value, str) else "wrong"
                for key, item in value.items():
                    self.check_value(Annotation(parts[-1], module), item, f"{path}.{key}")
                return "right"
            case "Callable":
                if isinstance(value, dict | str):
                    given = parts[0].elts if isinstance(parts[0], ast.List) else []
                    self.check_class(value, path, num_given=len(given))
                    return "right"
                return "unknown" if value is None else "wrong"
        return "unknown"

    def judge_name(self, name: str, module: Module, value: Any, path: str) -> Verdict:
        if name in ("int", "float", "bool", "str"):
            return _judge_scalar(name, value)
        if name in NEVER_IN_YAML:
            return "wrong"
        if name in module.assigned and name not in module.classes:
            self.check_alias(name, module, value, path)
            return self.judge(module.assigned[name], module, value, path)
        if name in module.imported:
            owner, _, original = module.imported[name].rpartition(".")
            if (source := read_module(owner)) and original in source.assigned:
                return self.judge_name(original, source, value, path)
        if isinstance(value, dict) and "class_path" in value:
            self.check_class(value, path)
            return "right"
        if name in module.imported or name in module.classes:
            try:
                signature = read_signature(module.imported.get(name, f"{module.name}.{name}"))
            except LookupError:
                return "unknown"
            if signature.is_dataclass and isinstance(value, dict):
                self.check_group(signature, value, path)
            return "unknown" if not signature.is_dataclass else "right" if isinstance(value, dict) else "wrong"
        return "unknown"

    def check_alias(self, name: str, module: Module, value: Any, path: str) -> None:
        """Let a module that names a kind of value, such as WeightsSource, check it: `check_weights_source`."""
        function = "check_" + re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
        if function in module.functions and isinstance(value, str):
            try:
                getattr(importlib.import_module(module.name), function)(value)
            except (ValueError, OSError) as error:
                self.fail(path, f"{path}: {error}")


def _in_words(node: ast.expr, module: Module) -> str:
    """Return a type as a user would write it: an alias as what it stands for, a dataclass by its keys."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{_in_words(left, module)} | {_in_words(right, module)}"
        case ast.Name(id=name) if name in module.assigned:
            return _in_words(module.assigned[name], module)
        case ast.Name(id=name) if name in module.imported or name in module.classes:
            try:
                signature = read_signature(module.imported.get(name, f"{module.name}.{name}"))
            except LookupError:
                return name
            return f"keys such as {', '.join(list(signature.annotations)[:3])}" if signature.is_dataclass else name
    return ast.unparse(node)


def _any(verdicts: Iterable[Verdict]) -> Verdict:
    found = set(verdicts)
    return "right" if "right" in found else "unknown" if "unknown" in found else "wrong"


def _judge_scalar(name: str, value: Any) -> Verdict:
    if name == "str":
        return "right" if isinstance(value, str) else "wrong" if isinstance(value, dict | list) else "unknown"
    if isinstance(value, dict | list) or value is None:
        return "wrong"
    if name == "bool":
        return "right" if isinstance(value, bool) else "wrong"
    if isinstance(value, bool):
        return "wrong"
    try:  # YAML reads 1e-3 as a string; the parser does not
        number = float(value)
    except (ValueError, TypeError):
        return "wrong"
    return "right" if name == "float" or number.is_integer() else "wrong"
