"""What classes take, read from their source: nothing is imported, so that torch is not waited for."""

from __future__ import annotations

import ast
import builtins
import difflib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

# where a class that is named without its module may live
SHORT_NAMES = (
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.strategies",
    "pytorch_lightning.profilers",
    "torch.optim",
    "crossmodal.balance",
    "crossmodal.fusion",
    "crossmodal.heads",
    "crossmodal.meta_learner",
    "crossmodal.objectives",
    "crossmodal.selector",
)


@dataclass(frozen=True)
class Signature:
    """What a class takes.

    Args:
        annotations: By argument; None where there is none.
        is_open: It may take more than could be read.
        is_dataclass: It is given as keys and values, not by the name of a class.
    """

    annotations: dict[str, Annotation]
    is_open: bool
    is_dataclass: bool = False


@dataclass(frozen=True)
class Annotation:
    """A type annotation, the module in which its names mean something, and whether there is no default."""

    node: ast.expr | None
    module: Module
    is_required: bool = False


@dataclass
class Module:
    """A module's source: what it defines and what it imports."""

    name: str
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    functions: set[str] = field(default_factory=set)
    assigned: dict[str, ast.expr] = field(default_factory=dict)
    imported: dict[str, str] = field(default_factory=dict)
    is_dynamic: bool = False


def nearest(key: str, known: Iterable[str]) -> str:
    """Return a hint: the nearest of the known names, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"


@cache
def read_signature(class_path: str, method: str = "__init__") -> Signature:
    """Read a class's signature from its source.

    Raises:
        LookupError: There is no such module or class, with the nearest names.
    """
    if "." not in class_path:
        class_path = _full_path(class_path)
    module_name, _, class_name = class_path.rpartition(".")
    module = read_module(module_name)
    if module is None:
        raise LookupError(f"no module {module_name!r} here or installed{_near_module(module_name)}")
    if class_name in module.classes:
        return _signature_of(module, module.classes[class_name], method)
    if class_name in module.imported:
        try:
            return read_signature(module.imported[class_name], method)
        except LookupError:
            return Signature({}, is_open=True)
    if module.is_dynamic or class_name in module.assigned or class_name in module.functions:
        return Signature({}, is_open=True)
    known = [name for name in (*module.classes, *module.imported) if name[0].isupper()]
    raise LookupError(f"{module_name} has no class {class_name!r}{nearest(class_name, known)}")


def _signature_of(module: Module, node: ast.ClassDef, method: str) -> Signature:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == method:
            arguments = statement.args
            positional = [*arguments.posonlyargs, *arguments.args]
            defaults = [*[None] * (len(positional) - len(arguments.defaults)), *arguments.defaults]
            named = zip((*positional, *arguments.kwonlyargs), (*defaults, *arguments.kw_defaults), strict=True)
            own = {one.arg: Annotation(one.annotation, module, default is None) for one, default in list(named)[1:]}
            if arguments.kwarg is None:
                return Signature(own, is_open=False)
            inherited = _inherited(module, node, method)
            # what is passed on may also be given there: `super().__init__("resnet18", **kwargs)`
            passed_on = {
                key: replace(annotation, is_required=False)
                for key, annotation in inherited.annotations.items()
                if key not in own
            }
            return Signature({**own, **passed_on}, inherited.is_open)
    if "dataclass" in {ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list}:
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        annotations = {ast.unparse(one.target): Annotation(one.annotation, module, one.value is None) for one in fields}
        return Signature(annotations, is_open=False, is_dataclass=True)
    return _inherited(module, node, method)


def _inherited(module: Module, node: ast.ClassDef, method: str) -> Signature:
    annotations: dict[str, Annotation] = {}
    is_open = not node.bases
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in module.classes:
            signature = _signature_of(module, module.classes[base.id], method)
        elif isinstance(base, ast.Name) and base.id in module.imported:
            try:
                signature = read_signature(module.imported[base.id], method)
            except LookupError:
                signature = Signature({}, is_open=True)
        else:
            signature = Signature({}, is_open=True)
        if signature.annotations and not signature.is_open:
            return signature  # the first base that has the method
        annotations.update(signature.annotations)
        is_open = is_open or signature.is_open
    return Signature(annotations, is_open)


@cache
def read_module(name: str) -> Module | None:
    """Read a module's source, without importing it; None if there is none."""
    path = _module_path(name)
    if path is None:
        return None
    module = Module(name)
    if path.suffix != ".py":
        module.is_dynamic = True
        return module
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        match node:
            case ast.ClassDef():
                module.classes[node.name] = node
            case ast.FunctionDef():
                module.functions.add(node.name)
                module.is_dynamic = module.is_dynamic or node.name == "__getattr__"
            case ast.Assign(targets=[ast.Name(id=target)], value=value):
                module.assigned[target] = value
            case ast.AnnAssign(target=ast.Name(id=target), value=ast.expr() as value):
                module.assigned[target] = value
    for inner in ast.walk(tree):
        if isinstance(inner, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - inner.level + 1]) if inner.level else ""
            source = ".".join(part for part in (base, inner.module) if part)
            for alias in inner.names:
                module.is_dynamic = module.is_dynamic or alias.name == "*"
                module.imported[alias.asname or alias.name] = f"{source}.{alias.name}"
    return module


def _module_path(name: str) -> Path | None:
    top, *rest = name.split(".")
    if not top or hasattr(builtins, top):
        return None
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for location in spec.submodule_search_locations or ():
        base = Path(location).joinpath(*rest)
        for candidate in (base.with_name(base.name + ".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
        if base.is_dir() or list(base.parent.glob(f"{base.name}.*.so")):
            return base
    return None


def _near_module(name: str) -> str:
    parent, _, last = name.rpartition(".")
    folder = _module_path(parent) if parent else None
    if folder is None:
        return nearest(name, ["experts", "datamodules", "crossmodal", "pytorch_lightning", "torch"])
    inside = [path for path in folder.parent.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return nearest(last, sorted(path.stem for path in inside if path.stem != "__init__"))


def _full_path(class_name: str) -> str:
    known: dict[str, str] = {}
    for module_name in SHORT_NAMES:
        if module := read_module(module_name):
            known.update({name: path for name, path in module.imported.items() if name[0].isupper()})
            known.update({name: f"{module_name}.{name}" for name in module.classes})
    if class_name not in known:
        near = difflib.get_close_matches(class_name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LookupError(f"no class {class_name!r}{hint} (give its module too, as in experts.image.ImageExpert)")
    return known[class_name]
