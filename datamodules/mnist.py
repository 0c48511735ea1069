"""Written digits as MNIST has them (LeCun et al. 1998): IDX files, of which the 10,000 of the test split are enough.

Legend: R images.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules.idx import read_idx
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import Source

VARIABLE = "CROSSMODAL_DATA"
FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
TRAINED = 5000  # of the images; those after it are for the test


def read_mnist(folder: str | None = None) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images, shape (R, 28, 28), and which digit each is.

    Args:
        folder: That has `mnist/`; by default the one that the environment variable CROSSMODAL_DATA names.

    Raises:
        ValueError: It is not told, or a file is missing or damaged.
    """
    folder = folder or os.environ.get(VARIABLE)
    if not folder:
        raise ValueError(f"MNIST: give the folder that has mnist/ as data.init_args.folder, or in {VARIABLE}")
    images, labels = (read_idx(Path(folder) / "mnist" / name).astype(np.uint8, copy=False) for name in FILES)
    if len(images) != len(labels):
        raise ValueError(f"{folder}/mnist: there are {len(images):,} images and {len(labels):,} labels")
    return images, labels.astype(np.int64)


class Pixels(Source):
    """Images that are held as an array.

    Args:
        images: Shape (R, height, width).
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def load(self, position: int) -> Image.Image:
        """Return one image."""
        return Image.fromarray(self.images[position]).convert("RGB")

    def name(self, position: int) -> str:
        """Return the image's number."""
        return f"image {position}"

    def content(self, position: int) -> bytes:
        """Return its pixels."""
        pixels: bytes = self.images[position].tobytes()
        return pixels


class MNIST(PairedDataModule):
    """Modality `image`, task `digit`: the first 5,000 images train, the last 5,000 test.

    Args:
        batch_size: Rows a batch.
        num_workers: Processes that read ahead.
        seed: Of which training images are for validation; of the order of the rows together with `seed_everything`.
        folder: That has `mnist/`; null for the one that the environment variable CROSSMODAL_DATA names.
        val_fraction: Share of the training images that are for validation.
    """

    def __init__(
        self,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
        folder: str | None = None,
        val_fraction: float = 0.1,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        if not 0 <= val_fraction < 1:
            raise ValueError(f"val_fraction must be from 0 to below 1, not {val_fraction}")
        self.folder = folder
        self.val_fraction = val_fraction

    @property
    def outputs(self) -> dict[str, list[str]]:
        """The digits."""
        return {"digit": [str(digit) for digit in range(10)]}

    def load(self, split: Split) -> PairedRows | None:
        """Read a split."""
        if split == "predict":
            return None
        images, labels = read_mnist(self.folder)
        drawn = np.random.default_rng(self.seed).permutation(TRAINED)
        cut = round(self.val_fraction * TRAINED)
        numbers = {"train": np.sort(drawn[cut:]), "val": np.sort(drawn[:cut]), "test": np.arange(TRAINED, len(images))}
        rows = numbers[split]
        if not len(rows):
            return None
        return PairedRows(
            sources={"image": Pixels(images[rows])},
            index={"image": np.arange(len(rows))},
            targets={"digit": torch.from_numpy(labels[rows])},
            ids=NumberedIds("mnist", rows),
        )
