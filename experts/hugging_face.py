"""Models in Hugging Face's format: from a folder, a package that carries one, or the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from transformers import AutoModel, PretrainedConfig
from transformers.utils import logging as transformers_logging

from experts.weights import check_sha256, locate, require_hub

Model = TypeVar("Model", covariant=True)


class Read(Protocol[Model]):
    """Reads a model: of what is on this machine only, or also from the hub."""

    def __call__(self, *, local: bool) -> Model:
        """Read it."""


def find_model(model: str, sha256: str | None) -> str:
    """Return the folder of a local model, its weights checked, or the hub's name.

    Raises:
        ValueError: The weights have another SHA-256, or it is of a model that is not here.
        FileNotFoundError: Nothing where the model should be.
    """
    path = locate(model)
    if path is not None:
        check_sha256(path, sha256)
        return str(path)
    if sha256 is not None:
        raise ValueError(f"sha256 of {model!r} needs a local model or one that a package carries")
    return model


def here_or_hub(source: str, read: Read[Model]) -> Model:
    """Read a model from a folder or what was downloaded before, or else from the hub.

    Raises:
        ValueError: What is there cannot be read, in one line.
        ConnectionError: It must come from the hub, and there is none.
    """
    transformers_logging.disable_progress_bar()
    try:
        return read(local=True)
    except (OSError, ValueError) as error:
        if Path(source).exists():
            raise ValueError(f"no model can be loaded from {source}: {str(error).splitlines()[0]}") from error
        require_hub(source)
        try:
            return read(local=False)
        except (OSError, ValueError) as missing:
            raise ValueError(f"the hub has no model {source!r}: {str(missing).splitlines()[0]}") from missing


def load_network(source: str, config: Any, *, pretrained: bool, local: bool, optional: str) -> Any:
    """Build a network from its configuration, and load its weights if they are wanted.

    Args:
        optional: What the names of tensors that may lack begin with.

    Raises:
        ValueError: The weights lack others.
    """
    if not pretrained:
        return AutoModel.from_config(config, trust_remote_code=False)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # or it prints a table of tensors that are for other tasks
    try:
        network, loading = AutoModel.from_pretrained(
            source,
            config=config,
            local_files_only=local,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    if missing := sorted(name for name in loading["missing_keys"] if not name.startswith(optional)):
        raise ValueError(f"its weights lack {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
    return network


def read_settings(source: str, *, local: bool) -> dict[str, str]:
    """Return what the model's own file says of it: the same in every version of the library."""
    file, _ = PretrainedConfig.get_config_dict(source, local_files_only=local)
    return {key: str(value) for key, value in file.items() if key not in ("_name_or_path", "_commit_hash")}
