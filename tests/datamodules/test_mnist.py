from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from datamodules.mnist import FILES, MNIST, TRAINED, read_mnist


def idx(values: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """5,040 images whose first pixel is their digit."""
    digits = np.random.default_rng(0).integers(0, 10, TRAINED + 40).astype(np.uint8)
    images = np.zeros((len(digits), 28, 28), np.uint8)
    images[:, 0, 0] = digits
    (tmp_path / "mnist").mkdir()
    for name, values in zip(FILES, (images, digits), strict=True):
        (tmp_path / "mnist" / name).write_bytes(gzip.compress(idx(values), mtime=0))
    return tmp_path


def test_splits_are_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSMODAL_DATA", str(folder))
    data = MNIST(val_fraction=0.2, seed=1)
    splits = {split: data.load(split) for split in ("train", "val", "test")}  # type: ignore[arg-type]
    sizes = {split: len(rows) for split, rows in splits.items() if rows is not None}
    assert sizes == {"train": 4000, "val": 1000, "test": 40}
    assert data.load("predict") is None
    names = [name for rows in splits.values() if rows is not None for name in rows.ids]
    assert len(set(names)) == len(names) == TRAINED + 40
    for rows in splits.values():
        assert rows is not None
        image = rows.sources["image"].load(7)
        assert (image.size, image.mode) == ((28, 28), "RGB")
        assert image.getpixel((0, 0))[0] == rows.targets["digit"][7]  # type: ignore[index]
        assert rows.sources["image"].content(7)[0] == rows.targets["digit"][7]
    assert MNIST(val_fraction=0.0, folder=str(folder)).load("val") is None


def test_where_it_lies_must_be_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CROSSMODAL_DATA", raising=False)
    with pytest.raises(
        ValueError, match=r"MNIST: give the folder that has mnist/ as data.init_args.folder, or in CROSS"
    ):
        read_mnist()
    with pytest.raises(ValueError, match=r"cannot read .*t10k-images"):
        read_mnist(str(tmp_path))
    with pytest.raises(ValueError, match="val_fraction"):
        MNIST(val_fraction=1.0)


@pytest.mark.skipif("CROSSMODAL_DATA" not in os.environ, reason="CROSSMODAL_DATA, the folder of MNIST, is not set")
def test_the_real_one() -> None:
    images, labels = read_mnist()
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels[:TRAINED]).tolist() == [460, 571, 530, 500, 500, 456, 462, 512, 489, 520]
