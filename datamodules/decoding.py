"""From the bytes of a file to a picture or an array; whatever is wrong with them is an InputError.

Legend: D numbers, N vectors.
"""

from __future__ import annotations

import io
import json
import stat
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from datamodules.faults import InputError, shown

# raised when the decoders give something else for the same bytes: stored tokens are then encoded anew
DECODING = 2
MAX_BYTES = 512 * 2**20  # of a file, and of what it is decoded to: more is a mistake, or an attack
ARRAY_SUFFIXES = (".npy", ".npz", ".pt", ".pth")
SHOWN_NAMES = 10


def is_url(path: str) -> bool:
    """Return whether fsspec has to fetch it."""
    return "://" in path


def read_file(path: Path | str) -> bytes:
    """Return a file's bytes; a URL is read through fsspec.

    Raises:
        InputError: There is no such file, or it is empty, too large or no file at all.
    """
    if is_url(str(path)):
        return _fetch(str(path))
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError("folder", "is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise InputError("no file", "is no regular file")
        _require_size(status.st_size)
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError("missing file", "no such file") from None
    except PermissionError:
        raise InputError("no permission", "may not be read") from None
    except OSError as error:  # a loop of links, a name that is too long, a disk that fails
        raise InputError("unreadable file", error.strerror or str(error)) from None
    except ValueError as error:  # a path with a null character
        raise error if isinstance(error, InputError) else InputError("unreadable file", str(error)) from None


def _fetch(url: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            content: bytes = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        if not tells_of_absence(error):
            raise InputError("unreadable file", f"{type(error.__cause__).__name__}: {error.__cause__}") from None
        raise InputError("missing file", "no such file") from None
    except ImportError as error:
        raise InputError("unreadable file", str(error)) from None
    except Exception as error:  # each back end raises its own
        raise InputError("unreadable file", f"{type(error).__name__}: {error}") from None
    _require_size(len(content))
    return content


def tells_of_absence(error: FileNotFoundError) -> bool:
    """Return whether a file is not there; fsspec says the same of a server that does not answer."""
    cause = error.__cause__
    return cause is None or isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in (404, 410)


def _require_size(size: int) -> None:
    if size == 0:
        raise InputError("empty file", "is empty")
    if size > MAX_BYTES:
        raise InputError("too large", f"is larger than {MAX_BYTES // 2**20} MB")


def decode_image(content: bytes) -> Image.Image:
    """Return the picture, upright.

    Raises:
        InputError: It cannot be decoded, or has more than Pillow's limit of 89 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if image.format == "EPS":
                    raise InputError("undecodable", "is PostScript: a program, which is not run")
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                return _as_bytes(image)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError("too large", f"has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:  # what decoders trip over is not to be foreseen, and is the file's fault
        said = str(error).replace("<_io.BytesIO object at ", "").split(" 0x")[0]
        if isinstance(error, UnidentifiedImageError):
            said = "is no picture that Pillow knows"
        is_cut = "truncated" in said or isinstance(error, EOFError)
        raise InputError("truncated" if is_cut else "undecodable", shown(said or type(error).__name__)) from error


def _as_bytes(image: Image.Image) -> Image.Image:
    """Bring 16 bits to 8, where `convert` would cut them off at 255."""
    if image.mode == "F":
        raise InputError("wrong type", "has pixels that are fractions; save it with 8 or 16 bits, or as an array")
    if not image.mode.startswith("I"):
        return image
    wide = np.asarray(image)
    low, high = int(wide.min(initial=0)), int(wide.max(initial=0))
    if low < 0 or high >= 2**16:
        raise InputError("wrong type", f"has pixels from {low} to {high}; save it with 8 or 16 bits, or as an array")
    narrow = np.empty(wide.shape, np.uint8)
    np.right_shift(wide, 8 if high > 255 else 0, out=narrow, casting="unsafe")
    return Image.fromarray(narrow)


def decode_array(content: bytes, suffix: str, key: str | None = None) -> NDArray[np.float32]:
    """Return an array of shape (D,) or (N, D).

    Args:
        content: Of a file.
        suffix: .npy, .npz or .pt.
        key: Of an array in an .npz, or in a dictionary in a .pt.

    Raises:
        InputError: It cannot be decoded, needs pickle, or is no array of one or two axes of finite numbers.
    """
    try:
        if content.startswith(b"PK") and not zipfile.is_zipfile(io.BytesIO(content)):
            raise InputError("truncated", "ends early: its table of contents, at the end, is not there")
        match suffix:
            case ".npy":
                array = _read_npy(io.BytesIO(content))
            case ".npz":
                array = _read_npz(content, key)
            case ".pt" | ".pth":
                array = _read_pt(content, key)
            case _:
                raise InputError(
                    "wrong type", f"an array is a file of {', '.join(ARRAY_SUFFIXES)}, or a list of numbers"
                )
    except InputError:
        raise
    except Exception as error:  # as above
        said = shown((str(error) or type(error).__name__).splitlines()[0])
        is_cut = isinstance(error, EOFError) or "EOF" in said or "reshape" in said or "truncated" in said
        raise InputError("truncated" if is_cut else "undecodable", said) from error
    return as_vectors(array)


def as_vectors(value: Any) -> NDArray[np.float32]:
    """Return numbers as float32 of shape (D,) or (N, D).

    Raises:
        InputError: They are no numbers, not finite, or of another shape.
    """
    if isinstance(value, list):
        _require_numbers(value)
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError) as error:
        raise InputError("wrong shape", "has lists of different lengths") from error
    if array.dtype.kind not in "biuf":
        raise InputError("wrong type", f"has {array.dtype} where numbers are expected")
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError("wrong shape", f"has shape {array.shape}; expected (numbers,) or (vectors, numbers)")
    _require_size(4 * array.size)
    with np.errstate(over="ignore"):
        vectors = array.astype(np.float32)
    require_finite(vectors)
    return vectors


def _require_numbers(value: list[Any]) -> None:
    """Refuse a list before NumPy makes an array of it, in which each text would take as much as the longest."""
    kinds = set(map(type, value))
    if list in kinds:
        kinds = set().union(*(set(map(type, row)) if isinstance(row, list) else {type(row)} for row in value))
    if list in kinds:
        raise InputError("wrong shape", "has lists in lists in lists; expected numbers, or lists of numbers")
    if others := kinds - {int, float, bool}:
        names = ", ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in others))
        raise InputError("wrong type", f"has {names} where numbers are expected")


def parse_vectors(text: str) -> NDArray[np.float32]:
    """Return the numbers of a JSON list in a cell.

    Raises:
        InputError: It is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("wrong type", f"{shown(text)} is no list of numbers") from None
    return as_vectors(value)


def require_finite(values: NDArray[np.float32]) -> None:
    """Refuse numbers that are none.

    Raises:
        InputError: There are such.
    """
    if not np.isfinite(values).all():
        raise InputError("NaN or Inf", f"has {int((~np.isfinite(values)).sum()):,} numbers that are NaN or infinite")


def _read_npy(file: Any) -> NDArray[Any]:
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    if dtype.hasobject:
        raise InputError("needs pickle", "holds Python objects, which are not loaded: they may run code")
    _require_size(max(1, int(np.prod([1, *shape], dtype=object)) * dtype.itemsize))
    file.seek(0)
    return np.asarray(np.load(file, allow_pickle=False))


def _read_npz(content: bytes, key: str | None) -> NDArray[Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        member = archive.getinfo(f"{_choose(names, key)}.npy")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others know no limit
            raise InputError("undecodable", "is compressed in a way that NumPy does not write")
        _require_size(member.file_size)
        with archive.open(member) as file:
            return _read_npy(io.BytesIO(file.read(member.file_size)))  # which may say less than there is


def _read_pt(content: bytes, key: str | None) -> NDArray[Any]:
    import torch

    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _require_size(sum(member.file_size for member in archive.infolist()))
    try:
        with warnings.catch_warnings(action="ignore"):
            value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except EOFError:
        raise
    except Exception as error:  # as above
        if "nsupported" in str(error):
            raise InputError("needs pickle", "holds Python objects, which are not loaded: they may run code") from error
        raise InputError("undecodable", "is no file that torch.save wrote") from error
    if isinstance(value, dict):
        by_name = {str(name): tensor for name, tensor in value.items()}
        value = by_name[_choose(list(by_name), key)]
    if not isinstance(value, torch.Tensor):
        raise InputError("wrong type", f"holds a {type(value).__name__}, not a tensor")
    if value.is_complex():
        raise InputError("wrong type", f"has {value.dtype} where numbers are expected")
    _require_size(max(1, value.numel() * max(4, value.element_size())))  # an expanded tensor is larger than its file
    return np.asarray(value.detach().to_dense().float().numpy())


def _choose(names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        wanted = "give one as `key`" if key is None else f"not {key!r}"
        listed = ", ".join(map(shown, names[:SHOWN_NAMES])) + (", …" if names[SHOWN_NAMES:] else "")
        raise InputError("wrong type", f"has the arrays {listed}; {wanted}" if names else "has no arrays")
    return key
