"""Digits of five domains, one of which may be left out: its training rows are there, but without labels.

Nothing is downloaded. It stands in for Digit-Five, which the papers on many domains use, with the same kinds of shift:
another hand, another resolution, colour and background, print, contrast.

Legend: U pictures, R rows, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules.digit_pictures import SIZE, blended, of_scikit_learn, photographs, printed, resized, thick_negative
from datamodules.idx import read_idx
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import Source

DOMAINS = ("mnist", "scikit_learn", "photo", "print", "negative")
OF_MNIST = ("mnist", "photo", "negative")  # each has a third of its images, none has another's
HALF = 5000  # of the images train, the last as many test
IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


class DigitPictures(Source):
    """Pictures in memory.

    Args:
        pixels_UHW3: uint8.
    """

    def __init__(self, pixels_UHW3: NDArray[np.uint8]) -> None:
        self.pixels_UHW3 = pixels_UHW3

    def __len__(self) -> int:
        return len(self.pixels_UHW3)

    def load(self, position: int) -> Image.Image:
        """Return one picture."""
        return Image.fromarray(self.pixels_UHW3[position])

    def name(self, position: int) -> str:
        """Return the picture's number."""
        return f"picture {position}"

    def content(self, position: int) -> bytes:
        """Return the pixels."""
        pixels: bytes = self.pixels_UHW3[position].tobytes()
        return pixels


class DigitDomains(PairedDataModule):
    """Modality `image`, task `digit`; the domains are kinds of rows, by their names in `DOMAINS`.

    `mnist` is as it is; `scikit_learn` are its 1,797 digits of 8 x 8 pixels; `photo` blends MNIST with patches of
    scikit-image's photographs, as MNIST-M does; `print` are digits in fonts that matplotlib ships, distorted;
    `negative` is MNIST thickened and inverted. All are RGB of 32 x 32 pixels: that is SVHN's size in Digit-Five, it
    holds MNIST's 28 x 28 with hardly any change of scale, and it can be halved five times.

    A domain that is left out has no labelled row in `train` and `val`; its training rows are those of `unlabelled`, and
    its test rows have labels, to be measured by. `val` has no row of it: what chooses a model must not know them.

    Args:
        batch_size: Rows a batch.
        num_workers: Processes that read ahead.
        seed: Of all that is drawn; of the order of the rows together with `seed_everything`.
        left_out: The target domain, or null.
        mnist: Folder with MNIST's test split as IDX files; by default `mnist` in the folder CROSSMODAL_DATA.
        rows_per_domain: To train and to validate with, at most; scikit-learn has 1,198.
        test_rows_per_domain: At most; scikit-learn has 599.
        val_fraction: Share of the training rows that validate instead.
        domains: That there are; by default all.

    Raises:
        ValueError: A domain that there is not, numbers out of range, or data or packages that are not there.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
        left_out: str | None = None,
        mnist: str | None = None,
        rows_per_domain: int = 1000,
        test_rows_per_domain: int = 1000,
        val_fraction: float = 0.1,
        domains: Sequence[str] = DOMAINS,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        for key, names in {"domains": domains, "left_out": [] if left_out is None else [left_out]}.items():
            known = DOMAINS if key == "domains" else domains
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"{key}: there is no domain {unknown[0]!r}; there are {', '.join(known)}")
        if not [name for name in domains if name != left_out]:
            raise ValueError("domains: besides the one that is left out there must be one to train with")
        if rows_per_domain < 2 or test_rows_per_domain < 1 or not 0 < val_fraction < 1:
            raise ValueError(
                f"rows_per_domain ({rows_per_domain}) must be at least 2, test_rows_per_domain "
                f"({test_rows_per_domain}) at least 1, val_fraction ({val_fraction}) between 0 and 1"
            )
        self.left_out = left_out
        self.mnist = mnist
        self.rows_per_domain = rows_per_domain
        self.test_rows_per_domain = test_rows_per_domain
        self.val_fraction = val_fraction
        self.domains = tuple(dict.fromkeys(domains))

    @property
    def outputs(self) -> dict[str, list[str]]:
        """The ten digits."""
        return {"digit": [str(digit) for digit in range(10)]}

    @property
    def sources(self) -> list[str]:
        """The domains that have labels, in order."""
        return [name for name in self.domains if name != self.left_out]

    def load(self, split: Split) -> PairedRows | None:
        """Return a split's rows, domain by domain."""
        if split == "predict":
            return None
        if split == "test":
            return self._test
        rows, validates_R = self._train, self._validates
        has_label_R = np.ones(len(rows), np.bool_) if self.left_out is None else ~rows.kinds[self.left_out]
        return rows.select(np.flatnonzero(has_label_R & (validates_R == (split == "val"))))

    def load_unlabelled(self) -> PairedRows | None:
        """Return the training rows of the domain that is left out, without labels."""
        if self.left_out is None:
            return None
        own = self._train.select(np.flatnonzero(self._train.kinds[self.left_out] & ~self._validates))
        return PairedRows(sources=own.sources, index=own.index, targets={}, ids=own.ids, kinds=own.kinds)

    @cached_property
    def _train(self) -> PairedRows:
        return self._rows("train", self.rows_per_domain)

    @cached_property
    def _test(self) -> PairedRows:
        return self._rows("test", self.test_rows_per_domain)

    @cached_property
    def _validates(self) -> NDArray[np.bool_]:
        """Which rows of `_train` validate instead, the same share of each domain."""
        draw = np.random.default_rng([self.seed, 2])
        found_R = np.zeros(len(self._train), np.bool_)
        for of_domain_R in self._train.kinds.values():
            own = draw.permutation(np.flatnonzero(of_domain_R))
            found_R[own[: max(1, round(self.val_fraction * len(own)))]] = True
        return found_R

    def _rows(self, split: str, most: int) -> PairedRows:
        made = [self._made(domain, split, most) for domain in self.domains]
        pixels_UHW3 = np.concatenate([pixels for pixels, _ in made])
        domain_R = np.repeat(np.arange(len(made)), [len(digits) for _, digits in made])
        return PairedRows(
            sources={"image": DigitPictures(pixels_UHW3)},
            index={"image": np.arange(len(pixels_UHW3))},
            targets={"digit": torch.from_numpy(np.concatenate([digits for _, digits in made]))},
            ids=NumberedIds(split, np.arange(len(pixels_UHW3))),
            kinds={name: domain_R == number for number, name in enumerate(self.domains)},
        )

    def _made(self, domain: str, split: str, most: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return a domain's pictures, (U, H, W, 3), and their digits; whichever other domains there are."""
        draw = np.random.default_rng([self.seed, DOMAINS.index(domain), split == "test"])
        if domain == "print":
            digits_U = draw.permutation(np.arange(most) % 10)
            return printed(digits_U, draw), digits_U
        if domain == "scikit_learn":
            grey_UHW, digits_U = of_scikit_learn(test=split == "test")
            chosen = draw.permutation(len(grey_UHW))[:most]
            return _rgb(resized(grey_UHW[chosen])), digits_U[chosen]
        images_UHW, digits_U = self._mnist
        part = np.arange(HALF) if split == "train" else np.arange(len(images_UHW) - HALF, len(images_UHW))
        # dealt by the seed alone, so that no image is in two domains
        dealt = np.random.default_rng([self.seed, len(DOMAINS), split == "test"]).permutation(part)
        own = dealt[OF_MNIST.index(domain) :: len(OF_MNIST)][:most]
        grey_UHW = np.pad(images_UHW[own], ((0, 0), (2, 2), (2, 2)))
        if domain == "photo":
            return blended(grey_UHW, photographs(test=split == "test"), draw), digits_U[own]
        return _rgb(thick_negative(grey_UHW) if domain == "negative" else grey_UHW), digits_U[own]

    @cached_property
    def _mnist(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """MNIST's images, (U, 28, 28), and their digits."""
        folder = self.mnist
        if folder is None:
            if "CROSSMODAL_DATA" not in os.environ:
                raise ValueError(
                    "DigitDomains: give data.init_args.mnist, a folder with MNIST's test split "
                    f"({IMAGES} and {LABELS}), or let the variable CROSSMODAL_DATA name the folder above it"
                )
            folder = str(Path(os.environ["CROSSMODAL_DATA"]) / "mnist")
        images_UHW, digits_U = read_idx(Path(folder) / IMAGES), read_idx(Path(folder) / LABELS)
        if images_UHW.shape[1:] != (28, 28) or len(images_UHW) != len(digits_U) or len(images_UHW) < 2 * HALF:
            raise ValueError(
                f"{folder} has {len(images_UHW):,} images and {len(digits_U):,} labels, not MNIST's 10,000"
            )
        return images_UHW.astype(np.uint8), digits_U.astype(np.int64)


def _rgb(grey_UHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    assert grey_UHW.shape[1:] == (SIZE, SIZE)
    return np.repeat(grey_UHW[..., None], 3, axis=-1)
