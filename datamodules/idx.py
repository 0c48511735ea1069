"""The IDX format of MNIST's files."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # by the third byte


def read_idx(path: Path) -> NDArray[np.generic]:
    """Return the array that a file holds, in the machine's byte order.

    Args:
        path: Of the file; it may be gzipped.

    Raises:
        ValueError: There is no such file, or it is no whole IDX file.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in TYPES:
        raise ValueError(f"{path} is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    kind, axes = np.dtype(TYPES[content[2]]), content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4) if len(content) >= 4 + 4 * axes else None
    begins = 4 + 4 * axes
    if shape is None or len(content) - begins != int(np.prod(shape, dtype=np.int64)) * kind.itemsize:
        told = "its header is cut" if shape is None else f"its header says {' x '.join(map(str, shape))}"
        raise ValueError(f"{path} is no whole IDX file: {told}, and {max(0, len(content) - begins):,} bytes follow")
    values = np.frombuffer(content, kind, offset=begins).reshape(shape.astype(np.int64))
    return values.astype(kind.newbyteorder("="))
