"""easy-VQA: 5,000 pictures of one shape, 48,248 questions about them, 13 answers.

The data lies in the package `easy-vqa` (Victor Zhou, https://github.com/vzhou842/easy-VQA).
"""

from __future__ import annotations

import json
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import ImageFiles, Texts


class EasyVQA(PairedDataModule):
    """Modalities `image` and `question`, task `answer`.

    Args:
        batch_size: Rows a batch.
        num_workers: Processes that read ahead.
        seed: Of the validation split; of the order of the rows together with `seed_everything`.
        val_fraction: Share of the training images that, with all their questions, validate instead.

    Raises:
        ValueError: The package is not installed, or a fraction outside 0 to 1.
    """

    def __init__(
        self, *, batch_size: int = 256, num_workers: int = 0, seed: int = 0, val_fraction: float = 0.1
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction must lie between 0 and 1, not {val_fraction}")
        self.val_fraction = val_fraction
        # the package's own functions would read all it has; its layout is as fixed as they are
        spec = find_spec("easy_vqa")
        if spec is None or spec.origin is None:
            raise ValueError("the data of EasyVQA is in a package; run: pip install easy-vqa")
        self.root = Path(spec.origin).parent / "data"

    @cached_property
    def outputs(self) -> dict[str, list[str]]:
        """The 13 answers."""
        return {"answer": (self.root / "answers.txt").read_text().split()}

    def load(self, split: Split) -> PairedRows | None:
        """Return a split's rows; `val` is cut off the training images, by image."""
        if split == "predict":
            return None
        rows = self._read("test" if split == "test" else "train")
        if split == "test":
            return rows
        num_images = len(rows.sources["image"])
        order = np.random.default_rng(self.seed).permutation(num_images)
        validates = np.zeros(num_images, dtype=bool)
        count = min(max(1, round(self.val_fraction * num_images)), num_images - 1)
        validates[order[:count]] = True
        return rows.select(np.flatnonzero(validates[rows.index["image"]] == (split == "val")))

    def _read(self, folder: str) -> PairedRows:
        questions = json.loads((self.root / folder / "questions.json").read_text())
        texts = sorted({text for text, _, _ in questions})
        text_position = {text: position for position, text in enumerate(texts)}
        answer_position = {answer: position for position, answer in enumerate(self.outputs["answer"])}
        paths = sorted((self.root / folder / "images").glob("*.png"), key=lambda path: int(path.stem))
        image_position = {int(path.stem): position for position, path in enumerate(paths)}
        return PairedRows(
            sources={"image": ImageFiles(paths), "question": Texts(texts)},
            index={
                "image": np.array([image_position[image] for _, _, image in questions], dtype=np.int64),
                "question": np.array([text_position[text] for text, _, _ in questions], dtype=np.int64),
            },
            targets={"answer": torch.tensor([answer_position[answer] for _, answer, _ in questions])},
            ids=NumberedIds(folder, np.arange(len(questions))),
        )
