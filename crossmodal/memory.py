"""How the C library treats freed memory while a network encodes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# the numbers of glibc's malloc.h, and what is set again afterwards: its own limits, as far as they can grow
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_MIB = 1 << 20


@contextmanager
def kept_memory() -> Iterator[None]:
    """Have the C library keep what is freed for the next batch, where it is glibc.

    Else it gives large tensors back to the system at once, and half of the time of a convolutional network on a
    CPU goes into mapping fresh pages. Afterwards the memory is given back.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2047 * _MIB)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, 65536)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * _MIB)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 * _MIB)
        libc.malloc_trim(0)
