from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.sources import ImageFiles


class Cropped(ImageFiles):
    """Reads a part of what the file holds."""

    def load(self, position: int) -> Image.Image:
        return super().load(position).crop((0, 0, 4, 4))


class Named(ImageFiles):
    """Reads what ImageFiles reads."""

    def name(self, position: int) -> str:
        return "a picture"


def test_keys_are_equal_where_content_and_reading_are(tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "red"), ("c", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / f"{name}.png")
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    whole, cropped, named = (kind(paths).keys(np.arange(3)) for kind in (ImageFiles, Cropped, Named))
    assert whole.dtype == "S16"
    assert whole[0] == whole[1] != whole[2]
    assert not set(whole) & set(cropped)
    assert (whole == named).all()
