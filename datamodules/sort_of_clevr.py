"""Sort-of-CLEVR: pictures of six shapes of six colours, and questions about one shape or about how shapes relate.

After Santoro et al., A simple neural network module for relational reasoning (NeurIPS 2017, arXiv 1706.01427).
Everything is drawn from a seed, in whole numbers, so that it is the same on every machine.

Legend: S scenes, O the objects of a scene (one a colour), A the questions asked of each scene.
"""

from __future__ import annotations

from functools import cached_property
from itertools import product
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from datamodules.paired import PairedDataModule, Split
from datamodules.rows import PairedRows, RowIds
from datamodules.sources import Source, Texts

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "orange": (255, 156, 0),
    "grey": (128, 128, 128),
    "yellow": (255, 255, 0),
}
BACKGROUND = 255
SHAPES = ("square", "circle")
ANSWERS = ("yes", "no", *SHAPES, "1", "2", "3", "4", "5", "6")
SUBTYPES = {
    "non_relational": (
        "what is the shape of the {} object?",
        "is the {} object on the left?",
        "is the {} object at the top?",
    ),
    "relational": (
        "what is the shape of the object closest to the {} object?",
        "what is the shape of the object furthest from the {} object?",
        "how many objects have the shape of the {} object?",
    ),
}
KINDS = tuple(SUBTYPES)
QUESTIONS = list(product(range(len(COLOURS)), range(2), range(3)))  # colour, kind, subtype
SIZE = 75  # pixels of height and width
RADIUS = 5  # pixels around a centre
ASKED = 10  # questions of each kind about a scene


class Drawings(Source):
    """Pictures in memory.

    Args:
        pixels: uint8, shape (pictures, height, width, 3).
        prefix: What stands before the number in a picture's name.
    """

    def __init__(self, pixels: NDArray[np.uint8], prefix: str) -> None:
        self.pixels = pixels
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.pixels)

    def load(self, position: int) -> Image.Image:
        """Return one picture."""
        return Image.fromarray(self.pixels[position])

    def name(self, position: int) -> str:
        """Return the picture's number."""
        return f"{self.prefix}/{position}"

    def content(self, position: int) -> bytes:
        """Return the pixels."""
        return bytes(self.pixels[position].tobytes())


class Vectors(Source):
    """Vectors in memory.

    Args:
        values: float32, shape (vectors, numbers).
    """

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def load(self, position: int) -> NDArray[np.float32]:
        """Return one vector."""
        vector: NDArray[np.float32] = self.values[position]
        return vector

    def name(self, position: int) -> str:
        """Return the vector."""
        return str(self.values[position].tolist())

    def content(self, position: int) -> bytes:
        """Return the numbers."""
        return bytes(self.values[position].tobytes())


class QuestionIds(RowIds):
    """Row names such as `test/17/relational/3`: the split's picture, and the question's kind and number.

    Args:
        prefix: What stands before the picture.
        numbers: One number a row.
    """

    def __init__(self, prefix: str, numbers: NDArray[np.int64]) -> None:
        super().__init__(numbers)
        self.prefix = prefix

    def name(self, number: int) -> str:
        """Return picture, kind and number."""
        picture, asked = divmod(number, 2 * ASKED)
        kind, question = divmod(asked, ASKED)
        return f"{self.prefix}/{picture}/{KINDS[kind]}/{question}"


class SortOfCLEVR(PairedDataModule):
    """Modalities `image` and `question`, task `answer`, kinds of rows `relational` and `non_relational`.

    Of each picture 10 questions of either kind are asked: which shape has the object of a colour, is it in the left
    half, in the upper half; which shape has the object closest to it, furthest from it, how many have its shape (with
    itself). No two objects overlap, and none has two closest or two furthest ones. In training the questions about a
    picture share a batch.

    Args:
        batch_size: Rows a batch, 20 a picture.
        num_workers: Processes that read ahead.
        seed: Of the pictures, the questions and the validation split; of the order of the rows together with
            `seed_everything`.
        train_images: Pictures that are trained and validated on.
        test_images: Pictures that are tested on.
        val_fraction: Share of the training pictures that, with all their questions, validate instead.
        questions: `vector` (the colour, the kind and which question of that kind, one-hot side by side: 11 numbers)
            or `text`, in English.

    Raises:
        ValueError: Too few pictures, or a fraction outside 0 to 1.
    """

    def __init__(
        self,
        *,
        batch_size: int = 640,
        num_workers: int = 0,
        seed: int = 0,
        train_images: int = 9800,
        test_images: int = 200,
        val_fraction: float = 0.1,
        questions: Literal["vector", "text"] = "vector",
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        if train_images < 2 or test_images < 1:
            raise ValueError(
                f"train_images ({train_images}) must be at least 2, of which one validates, "
                f"test_images ({test_images}) at least 1"
            )
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, not {val_fraction}")
        self.train_images = train_images
        self.test_images = test_images
        self.val_fraction = val_fraction
        self.questions: Literal["vector", "text"] = questions

    @property
    def outputs(self) -> dict[str, list[str]]:
        """The 10 answers."""
        return {"answer": list(ANSWERS)}

    def load(self, split: Split) -> PairedRows | None:
        """Return a split's rows; `val` is cut off the training pictures, by picture."""
        if split == "predict":
            return None
        if split == "test":
            return self._drawn("test", self.test_images)
        rows = self._training
        order = np.random.default_rng([self.seed, 2]).permutation(self.train_images)
        validates = np.zeros(self.train_images, dtype=bool)
        validates[order[: min(max(1, round(self.val_fraction * self.train_images)), self.train_images - 1)]] = True
        return rows.select(np.flatnonzero(validates[rows.index["image"]] == (split == "val")))

    @cached_property
    def _training(self) -> PairedRows:
        return self._drawn("train", self.train_images)

    def _drawn(self, prefix: Literal["train", "test"], count: int) -> PairedRows:
        draw = np.random.default_rng([self.seed, ("train", "test").index(prefix)])
        centres_SO2 = _centres(draw, count)
        shapes_SO = draw.integers(len(SHAPES), size=(count, len(COLOURS)))
        kind_A = np.arange(2 * ASKED) // ASKED
        colour_SA = draw.integers(len(COLOURS), size=(count, len(kind_A)))
        subtype_SA = draw.integers(3, size=(count, len(kind_A)))
        scene_S1 = np.arange(count)[:, None]
        answer_SA = _answers(centres_SO2, shapes_SO)[scene_S1, colour_SA, kind_A, subtype_SA]
        question_SA = np.ravel_multi_index((colour_SA, np.broadcast_to(kind_A, colour_SA.shape), subtype_SA), (6, 2, 3))
        image_R = np.repeat(np.arange(count), len(kind_A))
        is_relational_R = np.tile(kind_A == KINDS.index("relational"), count)
        return PairedRows(
            sources={"image": Drawings(_draw(centres_SO2, shapes_SO), prefix), "question": self._questions()},
            index={"image": image_R, "question": question_SA.ravel()},
            targets={"answer": torch.from_numpy(answer_SA.ravel())},
            ids=QuestionIds(prefix, np.arange(len(image_R))),
            groups=image_R,
            kinds={"relational": is_relational_R, "non_relational": ~is_relational_R},
        )

    def _questions(self) -> Source:
        if self.questions == "text":
            names = list(COLOURS)
            return Texts([SUBTYPES[KINDS[kind]][subtype].format(names[colour]) for colour, kind, subtype in QUESTIONS])
        one_hot = [
            np.eye(size)[list(column)] for size, column in zip((6, 2, 3), zip(*QUESTIONS, strict=True), strict=True)
        ]
        return Vectors(np.concatenate(one_hot, axis=1).astype(np.float32))


def _centres(draw: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Draw where the objects of scenes lie, across and down: int64, shape (S, O, 2)."""
    kept = [np.empty((0, len(COLOURS), 2), np.int64)]
    while (missing := count - sum(map(len, kept))) > 0:
        # about one layout in six is allowed
        centres_SO2 = draw.integers(RADIUS, SIZE - RADIUS, size=(8 * missing, len(COLOURS), 2))
        kept.append(centres_SO2[_allowed(centres_SO2)][:missing])
    return np.concatenate(kept)


def _allowed(centres_SO2: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which layouts have no objects that overlap, and none with two closest or two furthest ones."""
    apart_SOO = np.abs(centres_SO2[:, :, None] - centres_SO2[:, None]).max(-1)
    overlaps_SOO = (apart_SOO <= 2 * RADIUS) & ~np.eye(len(COLOURS), dtype=bool)
    distance_SOO = np.sort(_distances(centres_SO2), axis=-1)  # the first is the object's own
    closest_tie_SO = distance_SOO[..., 1] == distance_SOO[..., 2]
    furthest_tie_SO = distance_SOO[..., -1] == distance_SOO[..., -2]
    allowed_S: NDArray[np.bool_] = ~(overlaps_SOO.any((1, 2)) | closest_tie_SO.any(1) | furthest_tie_SO.any(1))
    return allowed_S


def _distances(centres_SO2: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the squared distances of objects, shape (S, O, O)."""
    squared_SOO: NDArray[np.int64] = ((centres_SO2[:, :, None] - centres_SO2[:, None]) ** 2).sum(-1)
    return squared_SOO


def _draw(centres_SO2: NDArray[np.int64], shapes_SO: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draw scenes: pixels of shape (S, SIZE, SIZE, 3)."""
    pixels = np.full((len(centres_SO2), SIZE, SIZE, 3), BACKGROUND, np.uint8)
    down, across = np.mgrid[-RADIUS : RADIUS + 1, -RADIUS : RADIUS + 1]
    for number, colour in enumerate(COLOURS.values()):
        for shape, within in enumerate((down == down, down**2 + across**2 <= RADIUS * (RADIUS + 1))):
            scenes_S = np.flatnonzero(shapes_SO[:, number] == shape)
            x_S1, y_S1 = (centres_SO2[scenes_S, number, axis, None] for axis in (0, 1))
            pixels[scenes_S[:, None], y_S1 + down[within], x_S1 + across[within]] = colour
    return pixels


def _answers(centres_SO2: NDArray[np.int64], shapes_SO: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of the answers to all questions, shape (S, O, kinds, subtypes)."""
    answer = {name: number for number, name in enumerate(ANSWERS)}
    of_shape = np.array([answer[shape] for shape in SHAPES])
    half_SO2 = np.where(2 * centres_SO2 < SIZE, answer["yes"], answer["no"])
    distance_SOO = _distances(centres_SO2)
    furthest_SO = distance_SOO.argmax(-1)
    closest_SO = (distance_SOO + np.eye(len(COLOURS), dtype=np.int64) * 2 * SIZE**2).argmin(-1)
    same_SO = (shapes_SO[:, :, None] == shapes_SO[:, None]).sum(-1)
    non_relational = [of_shape[shapes_SO], half_SO2[..., 0], half_SO2[..., 1]]
    related = [of_shape[np.take_along_axis(shapes_SO, other_SO, 1)] for other_SO in (closest_SO, furthest_SO)]
    relational = [*related, answer["1"] - 1 + same_SO]
    return np.stack([np.stack(non_relational, -1), np.stack(relational, -1)], axis=2)
