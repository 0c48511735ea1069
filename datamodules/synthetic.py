"""Small generated pairs, for tests and for trying things out: two coloured dots, and a question about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from datamodules.batch import ABSENT
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import Source, Texts

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (50, 80, 220), "white": (245, 245, 245)}
QUESTIONS = ("what colour is the left dot?", "what colour is the right dot?")


class DotPictures(Source):
    """Pictures of two dots, drawn when they are read.

    Args:
        colours: Shape (pictures, 2): the colour of the left and of the right dot.
        size: Height and width in pixels.
        seed: Of the noise.
    """

    def __init__(self, colours: np.ndarray[Any, Any], *, size: int, seed: int = 0) -> None:
        self.colours = colours
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.colours)

    def load(self, position: int) -> Image.Image:
        """Draw one picture; noise makes no two the same."""
        noise = np.random.default_rng([self.seed, position])
        pixels = noise.integers(0, 30, (self.size, self.size, 3), dtype=np.uint8)
        across, down = np.meshgrid(np.arange(self.size), np.arange(self.size))
        for side, colour in enumerate(self.colours[position]):
            centre = self.size * (1 + 2 * side) / 4
            inside = (across - centre) ** 2 + (down - self.size / 2) ** 2 < (self.size / 6) ** 2
            pixels[inside] = list(COLOURS.values())[colour]
        return Image.fromarray(pixels)

    def name(self, position: int) -> str:
        """Return the picture's number."""
        return f"picture {position}"

    def content(self, position: int) -> bytes:
        """Return all that the pixels are drawn from."""
        return f"{self.size} {self.seed} {position} {self.colours[position].tolist()}".encode()


class Dots(PairedDataModule):
    """Modalities `image` and `question`, task `answer`: the colour of one of two dots.

    Args:
        batch_size: Rows a batch.
        num_workers: Processes that read ahead.
        seed: Of the pictures and of what is absent; of the order of the rows together with `seed_everything`.
        num_pictures: In the training split; the validation and test splits have half as many each.
        size: Height and width of a picture in pixels.
        absent: Share of the rows that lack each modality.
    """

    def __init__(
        self,
        *,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        num_pictures: int = 64,
        size: int = 32,
        absent: float = 0.0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        if num_pictures < 1 or size < 1 or not 0 <= absent <= 1:
            raise ValueError(
                f"num_pictures ({num_pictures}) and size ({size}) must be at least 1, absent ({absent}) 0 to 1"
            )
        self.num_pictures = num_pictures
        self.size = size
        self.absent = absent

    @property
    def outputs(self) -> dict[str, list[str]]:
        """The colours."""
        return {"answer": list(COLOURS)}

    def load(self, split: Split) -> PairedRows | None:
        """Generate a split: two questions on each picture."""
        if split == "predict":
            return None
        number = ("train", "val", "test").index(split)
        draw = np.random.default_rng([self.seed, number])
        count = self.num_pictures if split == "train" else max(1, self.num_pictures // 2)
        colours = draw.integers(0, len(COLOURS), (count, 2))
        picture, question = np.divmod(np.arange(2 * count), 2)
        index = {"image": picture, "question": question}
        return PairedRows(
            sources={"image": DotPictures(colours, size=self.size, seed=number), "question": Texts(QUESTIONS)},
            index={
                modality: np.where(draw.random(2 * count) < self.absent, ABSENT, positions)
                for modality, positions in index.items()
            },
            targets={"answer": torch.from_numpy(colours[picture, question])},
            ids=NumberedIds(split, np.arange(2 * count)),
        )
