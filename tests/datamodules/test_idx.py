from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from datamodules.idx import read_idx


def idx(values: np.ndarray, kind: int) -> bytes:
    return bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.mark.parametrize(("dtype", "kind"), [("u1", 8), ("i1", 9), (">i2", 11), (">i4", 12), (">f4", 13), (">f8", 14)])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 3)])
def test_what_is_read_is_what_was_written(tmp_path: Path, dtype: str, kind: int, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    plain, zipped = tmp_path / "plain", tmp_path / "zipped.gz"
    plain.write_bytes(idx(values, kind))
    zipped.write_bytes(gzip.compress(idx(values, kind)))
    for path in (plain, zipped):
        found = read_idx(path)
        assert np.array_equal(found, values)
        assert found.dtype.isnative


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no IDX file: it begins with nothing"),
        (b"\x89PNG....", "is no IDX file: it begins with 89 50 4e 47"),
        (b"\0\0\x08\x02\0\0\0\x01", "is no whole IDX file: its header is cut"),
        (idx(np.zeros((3, 2), "u1"), 8)[:-1], "its header says 3 x 2, and 5 bytes follow"),
        (idx(np.zeros((3, 2), "u1"), 8) + b"\0", "its header says 3 x 2, and 7 bytes follow"),
        (gzip.compress(idx(np.zeros(300, "u1"), 8))[:-4], "cannot read"),
    ],
)
def test_what_is_broken_is_told_in_a_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "some-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)
    with pytest.raises(ValueError, match="cannot read"):
        read_idx(tmp_path / "absent")
