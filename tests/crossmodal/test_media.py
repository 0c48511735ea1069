from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from crossmodal.media import FILE, MOST_SECONDS, MediaLog, read_media


def test_each_raw_input_is_kept_so_that_it_can_be_shown(tmp_path: Path) -> None:
    log = MediaLog(tmp_path)
    image = Image.new("L", (1000, 500), 128)
    kept = log.keep(image)
    assert kept["kind"] == "image"
    with Image.open(tmp_path / kept["file"]) as found:
        assert (found.size, found.format) == ((512, 256), "PNG")
    assert log.keep(image) == kept
    samples = np.sin(np.linspace(0, 100, 4000, dtype=np.float32))
    kept = log.keep((samples, 8000))
    found_samples, rate = soundfile.read(tmp_path / kept["file"])
    assert (rate, kept["rate"], kept["seconds"]) == (8000, 8000, 0.5)
    np.testing.assert_allclose(found_samples, samples, atol=1e-4)
    assert log.keep(None) == {"kind": "absent"}
    assert log.keep("what?") == {"kind": "text", "text": "what?"}
    assert log.keep({"age": 3.5, "box": None, 7: np.float32(2)}) == {
        "kind": "table",
        "cells": {"age": 3.5, "box": None, "7": 2.0},
    }
    assert log.keep([image, image]) == {"kind": "other", "text": "a sequence of 2"}
    assert log.keep(np.zeros((3, 4))) == {"kind": "other", "text": "3 x 4 numbers"}
    assert len(list((tmp_path / "media").iterdir())) == 2


def test_of_a_long_recording_the_first_seconds_are_kept(tmp_path: Path) -> None:
    samples = np.linspace(0, 0.5, 100 * 40, dtype=np.float32)  # 40 s
    kept = MediaLog(tmp_path).keep((samples, 100))
    found, _ = soundfile.read(tmp_path / kept["file"])
    assert (len(found), kept["seconds"]) == (100 * MOST_SECONDS, 40)


def test_a_run_that_goes_on_writes_no_line_twice(tmp_path: Path) -> None:
    log = MediaLog(tmp_path)
    for step in (9, 19, 29):
        log.add("val/x", "curve", step=step, epoch=0, x=[step])
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 39, "na')  # killed
    again = MediaLog(tmp_path, first_step=20)
    again.add("val/x", "curve", step=29, epoch=0, x=[0])
    assert [(line["step"], line["x"]) for line in read_media(tmp_path)] == [(9, [9]), (19, [19]), (29, [0])]


@pytest.mark.parametrize(
    "damage", [b"\x89PNG\0\n", b"[1, 2]\n", b'{"step": "x", "name": "a", "kind": "b"}\n', b"null\n"]
)
def test_what_is_no_line_of_ours_is_left_out(tmp_path: Path, damage: bytes) -> None:
    line = json.dumps({"step": 1, "epoch": 0, "name": "a", "kind": "curve"}).encode() + b"\n"
    (tmp_path / FILE).write_bytes(line + damage + line)
    assert [found["step"] for found in read_media(tmp_path)] == [1, 1]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    MediaLog(tmp_path).add("val/x", "matrix", step=0, epoch=0, values=[[1.0, float("nan")], [float("inf"), 2]])
    assert "NaN" not in (tmp_path / FILE).read_text()
    assert [line["values"] for line in read_media(tmp_path)] == [[[1.0, None], [None, 2]]]


def test_a_run_without_media_has_none(tmp_path: Path) -> None:
    assert list(read_media(tmp_path)) == []
