"""Expert folders: what was trained alone, to be used anywhere by the folder's name."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from experts.adapters import TunedExpert
from experts.base import Expert, ExpertTokens, Precision
from experts.inference import cast
from experts.weights import WeightsSource, locate
from experts.wrapping import FrozenExpert, WrappingExpert

SPECIFICATION, WEIGHTS, CARD = "expert.yaml", "model.safetensors", "README.md"
VERSION = 1  # of the folder's layout


class SavedExpert(Expert):
    """An expert that was trained before, from its folder.

    Args:
        pretrained: The folder, such as `runs/experts/speech`.
        width: D that its tokens must have; by default any.
        freeze: Nothing trains.
        precision: Of a frozen network; see `Expert`.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It is no expert folder, its weights do not fit, or its tokens have another width.
    """

    network: Expert

    def __init__(
        self, pretrained: WeightsSource, *, width: int | None = None, freeze: bool = True, precision: Precision = "auto"
    ) -> None:
        folder = locate(pretrained)
        if folder is None or not (folder / SPECIFICATION).is_file():
            where = "there is no such folder" if folder is None else f"has no {SPECIFICATION}"
            raise FileNotFoundError(f"{pretrained}: {where}; `crossmodal expert fit` writes expert folders")
        self._specification, expert = load_expert(folder)
        if width is not None and width != expert.width:
            raise ValueError(f"{pretrained}: its tokens have width {expert.width}, not {width}")
        if expert.frozen and not freeze:
            raise ValueError(f"{pretrained}: was saved frozen, and cannot be trained; save it with `freeze: false`")
        if "precision" not in inspect.signature(type(expert).__init__).parameters:  # it can only be trained as it is
            if precision == "bfloat16":
                raise ValueError(f"{pretrained}: {type(expert).__name__} computes in float32 only")
            precision = "float32"
        super().__init__(
            expert.train(not freeze),
            width=expert.width,
            transform=expert.transform.for_evaluation if freeze else expert.transform,
            freeze=freeze,
            precision="float32" if precision == "bfloat16" else precision,
        )
        if precision == "bfloat16":
            self.set_precision(precision)
        self._name = pretrained  # a path, which the tokens do not depend on

    def set_precision(self, precision: Literal["float32", "bfloat16"]) -> None:
        """Cast the expert's network; what is around it, such as the scale of pixels, stays as it is."""
        if not self.frozen:
            raise ValueError("only a frozen expert can be cast")
        self.precision = self.network.precision = precision
        cast(self.network.network, self.dtype)

    @property
    def specification(self) -> dict[str, Any]:
        """`class_path` and `init_args` of the expert in the folder."""
        return self._specification

    def encode(self, inputs: Any) -> ExpertTokens:
        """Return the expert's tokens."""
        return self.network.encode(inputs)

    def label(self) -> str:
        """Return the folder, too."""
        return f"{self.network.label()} {self._name}"

    def describe(self) -> dict[str, Any]:
        """Return what the expert says of itself, too."""
        return {**super().describe(), "expert": self.network.describe()}


def is_expert_folder(folder: Path) -> bool:
    """Return whether this is what `save_expert` writes."""
    return (folder / SPECIFICATION).is_file()


def save_expert(
    folder: Path,
    specification: dict[str, Any],
    expert: Expert,
    card: str,
    *,
    merge: bool = True,
    replace: bool = True,
) -> None:
    """Write an expert folder, whole or not at all.

    Args:
        folder: To write.
        specification: `class_path` and `init_args` of the expert, as in YAML.
        expert: As it was built from these, and trained.
        card: What a reader should know of it, in Markdown.
        merge: Add the changes of LoRA to the layers, so that nothing tells that they were made.
        replace: It takes the place of one that is there.

    Raises:
        FileExistsError: Something is there, and is not to be replaced.
        ValueError: It has not learned what it needs of a training split.
    """
    if expert.needs_statistics:
        raise ValueError(f"{expert.label()} has not seen a training split, and gives no tokens yet: fit it first")
    if folder.exists() and not replace:
        raise FileExistsError(f"{folder} is there")
    expert, specification = _plain(expert, specification, merge=merge)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in expert.state_dict().items()}
    content = {
        "version": VERSION,
        "width": expert.width,
        "expert": _trainable(_without_weights(specification), expert),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        (unfinished / SPECIFICATION).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        (unfinished / CARD).write_text(card, encoding="utf-8")
        save_file(state, unfinished / WEIGHTS, {"format": "pt"})
        (unfinished / WEIGHTS).chmod(0o666 & ~_umask())  # it writes files for the owner alone
        unfinished.chmod(0o777 & ~_umask())
        _put(unfinished, folder, replace=replace)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _put(unfinished: Path, folder: Path, *, replace: bool) -> None:
    """Give a folder its name; one that had it is removed, or put back if that fails."""
    old = folder.with_name(f"{unfinished.name}.old")
    if folder.exists() and replace:
        folder.rename(old)
    try:
        unfinished.rename(folder)  # fails where there is a folder with anything in it, or a file
    except OSError as error:
        if old.exists():
            old.rename(folder)
        if not replace and folder.exists():
            raise FileExistsError(f"{folder} is there") from error
        raise
    shutil.rmtree(old, ignore_errors=True)


def _plain(expert: Expert, specification: dict[str, Any], *, merge: bool) -> tuple[Expert, dict[str, Any]]:
    """Return an expert without what only trained it, and its specification: merged, and in need of no other folder."""
    if isinstance(expert, SavedExpert) and not expert.frozen:
        return _plain(expert.network, expert.specification, merge=merge)
    if isinstance(expert, SavedExpert):
        frozen = f"{FrozenExpert.__module__}.{FrozenExpert.__qualname__}"
        return expert, {"class_path": frozen, "init_args": {"expert": expert.specification}}
    if isinstance(expert, TunedExpert) and (merge or not specification["init_args"].get("lora")):
        return _plain(expert.merged(), specification["init_args"]["expert"], merge=merge)
    if isinstance(expert, WrappingExpert):
        inner, of_inner = _plain(expert.network, specification["init_args"]["expert"], merge=merge)
        if inner is not expert.network:
            expert = copy.deepcopy(expert)
            expert.network = inner
        arguments = {**specification["init_args"], "expert": of_inner}
        return expert, {**specification, "init_args": arguments}
    return expert, specification


def load_expert(folder: Path) -> tuple[dict[str, Any], Expert]:
    """Build an expert from its folder, to be trained; return its specification, too.

    Raises:
        ValueError: A file of it cannot be read, or its weights do not fit.
    """
    try:
        content = yaml.safe_load((folder / SPECIFICATION).read_text(encoding="utf-8"))
        specification, version = content["expert"], content["version"]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / SPECIFICATION} cannot be read: {error!r}") from error
    if version != VERSION:
        raise ValueError(f"{folder} is of layout {version}; this release reads {VERSION}")
    expert = _build(specification, folder)
    if (width := content.get("width", expert.width)) != expert.width:
        raise ValueError(f"{folder / SPECIFICATION}: width is {width}, but the expert it describes has {expert.width}")
    try:
        state = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    try:
        expert.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit {SPECIFICATION}: {str(error).splitlines()[1].strip()}"
        ) from error
    return specification, expert


def _build(specification: dict[str, Any], folder: Path) -> Expert:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Expert, "expert", required=True)
    try:
        expert: Expert = parser.instantiate_classes(parser.parse_object({"expert": specification})).expert
    except (ArgumentError, ValueError, OSError) as error:
        raise ValueError(f"{folder / SPECIFICATION}: {_deepest(str(error))}") from error
    return expert


def _deepest(message: str) -> str:
    """Return what is wrong of the innermost class, from a message with a level for each class around it."""
    lines = [line for line in message.splitlines() if not line.strip().startswith(("Given ", "- Expected "))]
    return max(lines, key=lambda line: len(line) - len(line.lstrip())).strip()


def _without_weights(specification: Any) -> Any:
    """Return a specification that builds experts with random weights, whose place those of the folder take."""
    if isinstance(specification, list):
        return [_without_weights(one) for one in specification]
    if not isinstance(specification, dict) or str(specification.get("class_path")).endswith(SavedExpert.__name__):
        return specification
    plain = {key: _without_weights(value) for key, value in specification.items()}
    if "pretrained" in plain:
        plain["pretrained"] = False
        plain |= {"sha256": None} if "sha256" in plain else {}
    return plain


def _trainable(specification: dict[str, Any], expert: Expert) -> dict[str, Any]:
    """Return a specification that builds an expert to be trained, for freezing it is up to who loads it.

    One that is frozen stays so: its batch norms may be folded into its convolutions, which nothing undoes.
    """
    if expert.frozen:
        return specification
    plain: dict[str, Any] = json.loads(json.dumps(specification))
    arguments = plain.setdefault("init_args", {})
    taken = inspect.signature(type(expert).__init__).parameters
    arguments |= {key: value for key, value in (("freeze", False), ("precision", "auto")) if key in taken}
    return plain


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
