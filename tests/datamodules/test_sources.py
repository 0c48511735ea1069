from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules.faults import InputError
from datamodules.sources import AnyFiles, ImageFiles


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


def test_a_file_of_any_kind_is_read_as_its_name_says(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.PNG")
    soundfile.write(tmp_path / "b.flac", np.zeros((100, 2)), 8000)
    np.save(tmp_path / "c.npy", np.arange(4.0))
    (tmp_path / "d.txt").write_text("\ufeffwhat colour is it?\r\n", encoding="utf-8")
    source = AnyFiles([tmp_path / name for name in ("a.PNG", "b.flac", "c.npy", "d.txt")])
    picture, (samples, rate), array, text = (source.load(position) for position in range(len(source)))
    assert (picture.size, samples.shape, rate) == ((8, 8), (100, 2), 8000)
    assert array.tolist() == [0, 1, 2, 3]
    assert text == "what colour is it?"
    assert source.name(3) == str(tmp_path / "d.txt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"no picture", "is no picture that Pillow knows"),
        ("a.wav", b"no sound", "Format not recognised"),
        ("a.npy", b"no array", "magic string"),
        ("a.txt", b"\xff\xfe\xfa", "is no text in UTF-8"),
        ("a.txt", b" \n", "has no text"),
        ("a.txt", b"", "is empty"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        AnyFiles([tmp_path / name]).load(0)
