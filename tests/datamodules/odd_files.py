"""Files that are broken, hostile or only odd, made when a test asks for them."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

COLOUR = (80, 160, 240)


def picture(format: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    """Return a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, COLOUR).convert(mode).save(file, format, **options)
    return file.getvalue()


def rotated(orientation: int = 6) -> bytes:
    """Return a JPEG that is stored lying: what is to be its top, white, is at its left."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", exif=exif)
    return file.getvalue()


def gray16(value: int = 0x8000) -> bytes:
    """Return a PNG of 16 bits."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint16)).save(file, "PNG")
    return file.getvalue()


def transparent_palette() -> bytes:
    """Return a PNG whose first colour is transparent, and whose pixels are of the second."""
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, *COLOUR])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=b"\0\xff")
    return file.getvalue()


def animated() -> bytes:
    """Return a GIF whose first frame has the colour."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), COLOUR).save(file, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    return file.getvalue()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG of RGBA that claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def largest_png() -> bytes:
    """Return a small file of almost as many pixels as are let through."""
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(bytes(1 + 4 * 9_400)) for _ in range(9_400))
    return png(9_400, 9_400, rows + packer.flush())


def damaged_png() -> bytes:
    """Return a PNG with one wrong bit in its pixels."""
    content = bytearray(picture())
    content[content.index(b"IDAT") + 6] ^= 1
    return bytes(content)


def gif_bomb() -> bytes:
    """Return a GIF of 4 billion pixels."""
    content = picture("GIF", "P")
    return content[:6] + struct.pack("<HH", 65_535, 65_535) + content[10:]


def tiff_bomb() -> bytes:
    """Return a TIFF of 10 billion pixels."""
    content = picture("TIFF", "L", size=(300, 300))
    return content.replace(struct.pack("<HHII", 256, 4, 1, 300), struct.pack("<HHII", 256, 4, 1, 100_000)).replace(
        struct.pack("<HHII", 257, 4, 1, 300), struct.pack("<HHII", 257, 4, 1, 100_000)
    )


def sound(
    format: str = "WAV",
    subtype: str = "PCM_16",
    *,
    frames: int = 8_000,
    channels: int = 1,
    rate: int = 16_000,
    first: float = 0.5,
) -> bytes:
    """Return a sound that is 0.5 throughout, but for its first sample."""
    samples = np.full((frames, channels), 0.5, np.float32)
    samples[:1] = first
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def wav_of_size(size: int) -> bytes:
    """Return a WAV file that claims so many bytes of samples."""
    content = sound()
    place = content.index(b"data") + 4
    return content[:place] + struct.pack("<I", size) + content[place + 4 :]


def streamed_flac() -> bytes:
    """Return a FLAC file as a pipe gives it: how many samples it has is not filled in."""
    content = bytearray(sound("FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    return bytes(content)


def npy(value: Any, *, allow_pickle: bool = False) -> bytes:
    """Return an array as a file."""
    file = io.BytesIO()
    np.save(file, np.asarray(value), allow_pickle=allow_pickle)
    return file.getvalue()


def npy_header(shape: str, dtype: str = "<f4") -> bytes:
    """Return an .npy file without the numbers that its header claims."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


def npz(method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    """Return an archive of .npy files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def npz_bomb(megabytes: int = 600) -> bytes:
    """Return a small archive of one large array."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as member,
    ):
        member.write(npy_header(f"({megabytes * 250_000},)"))
        for _ in range(megabytes):
            member.write(bytes(1_000_000))
    return file.getvalue()


def lying_npz(megabytes: int = 400) -> bytes:
    """Return an archive that says of a large array that it is of 1,000 bytes."""
    true = len(npy_header(f"({megabytes * 250_000},)")) + megabytes * 1_000_000
    return npz_bomb(megabytes).replace(struct.pack("<I", true), struct.pack("<I", 1_000))


def pt(value: Any, **options: Any) -> bytes:
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def pt_bomb(megabytes: int = 600) -> bytes:
    """Return a small file with a record that unpacks to much."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(pt(torch.ones(4)))) as source,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
    ):
        for member in source.infolist():
            with archive.open(member.filename, "w") as record:
                record.write(source.read(member))
                for _ in range(megabytes * member.filename.endswith("data/0")):
                    record.write(bytes(1_000_000))
    return file.getvalue()


class Malicious:
    """Makes a folder named `executed` where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def malicious_pickle() -> bytes:
    """Return a pickle that runs code."""
    return pickle.dumps(Malicious())
