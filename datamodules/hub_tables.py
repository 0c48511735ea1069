"""The tables of Hugging Face data sets, mapped from the disk; what is in them is not decoded.

Legend: L lists, V values in all of them.
"""

from __future__ import annotations

import os
import socket
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.splits import ALSO_CALLED, SPLITS

SAVED = ("dataset_dict.json", "state.json")  # files of a folder that `save_to_disk` wrote


def load(path: str, name: str | None = None, revision: str | None = None) -> dict[str, Any]:
    """Load a data set's splits, by name; a single one without a usual name is `train`.

    Args:
        path: A folder, or a name on the hub.
        name: Of the configuration.
        revision: On the hub.

    Raises:
        ValueError: There is none, or it cannot be loaded.
        ConnectionError: It, or its revision, is not on this machine, and the hub is switched off or does not answer
            within two seconds.
    """
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"data set {path}: cannot be loaded: {error}; try: pip install datasets") from None
    folder = Path(path).expanduser()
    is_local = folder.is_dir()
    if not is_local and (folder.exists() or path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise ValueError(f"data set {path}: no such folder")
    problem = None if is_local else _problem_with_hub(datasets.config)
    try:
        with _quiet(datasets, is_offline=problem is not None):
            if is_local and any((folder / file).is_file() for file in SAVED):
                loaded = datasets.load_from_disk(str(folder))
            else:
                loaded = datasets.load_dataset(str(folder) if is_local else path, name, revision=revision)
    except Exception as error:  # what a damaged copy makes the library trip over is not to be foreseen
        if problem and isinstance(error, ConnectionError):
            raise ConnectionError(
                f"data set {path!r} is not on this machine and the hub {problem}; give a folder that `save_to_disk` "
                "wrote, or run once where there is a hub"
            ) from error
        said = str(error) if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {error}"
        said += f": {error.__cause__}" if error.__cause__ else ""
        said = textwrap.shorten(said, 500, placeholder=" …")
        raise ValueError(f"data set {path}: cannot be loaded: {said}") from error
    own = str(loaded.split) if isinstance(loaded, datasets.Dataset) else ""
    splits = {own if ALSO_CALLED.get(own, own) in SPLITS else "train": loaded} if own else dict(loaded)
    if problem and revision and not all(revision in _commits(data_set) for data_set in splits.values()):
        raise ConnectionError(
            f"the copy of data set {path!r} on this machine may not be of revision {revision!r}, and the hub "
            f"{problem}; give the full name of the commit that was fetched, or none"
        )
    return splits


def _commits(data_set: Any) -> set[str]:
    """Return the folders of a data set's files: the library names them by the commit that they are of."""
    return {Path(file["filename"]).parent.name for file in data_set.cache_files}


def _problem_with_hub(config: Any) -> str | None:
    if config.HF_HUB_OFFLINE:
        return "is switched off"
    address = urlsplit(os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") or config.HF_ENDPOINT)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), timeout=2).close()
    except OSError:
        return "does not answer"
    return None


@contextmanager
def _quiet(datasets: Any, *, is_offline: bool) -> Iterator[None]:
    """Let the library show progress only to people, and not try for long to reach what does not answer."""
    hides = not sys.stderr.isatty() and not datasets.are_progress_bars_disabled()
    was_offline = datasets.config.HF_HUB_OFFLINE
    if hides:
        datasets.disable_progress_bars()
    datasets.config.HF_HUB_OFFLINE = was_offline or is_offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        if hides:
            datasets.enable_progress_bars()


def class_names(feature: Any) -> list[Any] | None:
    """Return the names of the classes of a column, or of those in its lists; None if it has no classes."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def as_cells(column: pa.ChunkedArray, names: list[Any] | None) -> pa.ChunkedArray:
    """Return a column with names for the numbers of classes, and lists for arrays; others are not copied.

    Raises:
        pa.ArrowIndexError: A number has no name.
    """
    if isinstance(column.type, pa.ExtensionType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if names is None:
        return column
    named = _named_lists if pa.types.is_nested(column.type) else _named
    return pa.chunked_array([named(chunk, names) for chunk in column.chunks])


def _named(numbers: pa.Array, names: list[Any]) -> pa.Array:
    numbers = pc.if_else(pc.equal(numbers, -1), pa.scalar(None, numbers.type), numbers)
    return pa.DictionaryArray.from_arrays(numbers.cast(pa.int32()), pa.array(names))


def _named_lists(lists_L: pa.Array, names: list[Any]) -> pa.Array:
    ends_L = np.cumsum(pc.fill_null(pc.list_value_length(lists_L), 0).to_numpy(zero_copy_only=False))
    names_V = _named(pc.list_flatten(lists_L), names).dictionary_decode()
    return pa.LargeListArray.from_arrays(np.append(0, ends_L), names_V)
