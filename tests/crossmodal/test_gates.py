"""What gates learn from: the inputs of a training split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossmodal import gates
from crossmodal.gates import mean_tokens
from datamodules.faults import Quarantine
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import ImageFiles
from datamodules.synthetic import Dots
from experts.base import Expert
from experts.image import ImageExpert


class Photos(PairedDataModule):
    """Files, one a row."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = paths

    @property
    def outputs(self) -> dict[str, list[str]]:
        return {"answer": ["yes"]}

    def load(self, split: Split) -> PairedRows | None:
        rows = np.arange(len(self.paths))
        return PairedRows(
            sources={"image": ImageFiles(self.paths)},
            index={"image": rows},
            targets={"answer": torch.zeros(len(rows), dtype=torch.int64)},
            ids=NumberedIds(split, rows),
        )


def expert_of(**arguments: object) -> Expert:
    return ImageExpert("test_efficientnet", pretrained=False, image_size=32, **arguments)  # type: ignore[arg-type]


def test_without_a_store_only_some_inputs_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "MOST_ENCODED", 30)
    expert = expert_of(freeze=False, augment=True)
    data = Dots(num_pictures=100)
    data.connect({"image": expert.transform})
    found = [mean_tokens(expert, data, "image", batch_size=8) for _ in range(2)]
    assert found[0].shape == (30, expert.width)
    assert torch.equal(*found)  # neither dropout nor random crops


def test_inputs_in_quarantine_are_left_out(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 32), (20 * number, 0, 0)).save(path)
    paths[3].write_bytes(b"no picture")
    expert = expert_of()
    data = Photos(paths)
    data.connect({"image": expert.transform})
    with pytest.raises(ValueError, match=r"3\.png"):
        mean_tokens(expert, data, "image", batch_size=4)
    data.quarantine = Quarantine(limit=1.0)
    assert mean_tokens(expert, data, "image", batch_size=4).shape == (9, expert.width)


def test_a_modality_that_no_row_has_is_told() -> None:
    expert = expert_of()
    data = Dots(num_pictures=4)
    data.connect({"thermal": expert.transform}, optional=["thermal"])
    with pytest.raises(ValueError, match="no row of the training split of Dots has this input"):
        mean_tokens(expert, data, "thermal", batch_size=4)


def test_a_modality_that_few_rows_have_is_not_missed() -> None:
    data = Dots(num_pictures=200, absent=0.2)
    data.connect({"image": expert_of().transform})
    before = data.rows("train")
    assert before is not None
    data.limit_inputs("train", ["question", "image"], 30)
    rows = data.rows("train")
    assert rows is not None
    assert set(rows.used("question")) == set(before.used("question"))
    assert len(rows.used("image")) >= 30
    assert len(rows) <= 30 + len(before.used("question"))
