from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.audio_decoding import decode_audio
from datamodules.decoding import as_vectors, decode_array, decode_image, parse_vectors, read_file
from datamodules.faults import InputError
from tests.datamodules import odd_files as odd

PICTURES = [
    odd.picture(),
    odd.picture("JPEG"),
    odd.picture("GIF", "P"),
    odd.picture("TIFF", compression="tiff_lzw"),
    odd.picture("WEBP"),
    odd.picture("BMP"),
    odd.gray16(),
    odd.rotated(),
]
SOUNDS = [
    odd.sound(frames=200),
    odd.sound(frames=200, subtype="FLOAT", channels=2),
    odd.sound("FLAC", frames=200),
    odd.sound("OGG", "VORBIS", frames=200),
    odd.sound("MP3", "MPEG_LAYER_III", frames=2_000),
    odd.sound("AIFF", frames=200),
]
ARRAYS = [
    (odd.npy(np.ones((2, 3))), ".npy"),
    (odd.npz(a=odd.npy([1.0, 2.0])), ".npz"),
    (odd.pt(torch.ones(3)), ".pt"),
    (odd.pt({"a": torch.ones(3)}), ".pt"),
    (odd.pt(torch.ones(3), _use_new_zipfile_serialization=False), ".pt"),
]
quick = settings(max_examples=150, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True, scope="module")
def _few_pixels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # else each picture with a changed size takes a second
        yield


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Change some bytes, and cut off the end."""
    spoilt = bytearray(content)
    # what matters most stands at the beginning
    place = st.one_of(st.integers(0, min(63, len(content) - 1)), st.integers(0, len(content) - 1))
    for position, byte in draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        spoilt[position] = byte
    return bytes(spoilt[: draw(st.one_of(st.just(len(spoilt)), st.integers(0, len(spoilt))))])


def value_of(decode: Callable[[], Any]) -> Any:
    """Return the value, or None; any other error than one about the input fails the test."""
    with warnings.catch_warnings(action="ignore"):
        try:
            return decode()
        except InputError as error:
            refusal = error
    assert refusal.kind
    assert 0 < len(str(refusal)) < 300
    assert "\n" not in str(refusal)
    return None


@quick
@given(st.one_of(st.binary(max_size=200), st.sampled_from(PICTURES).flatmap(damaged)))
def test_any_bytes_are_a_picture_or_refused(content: bytes) -> None:
    image = value_of(lambda: decode_image(content))
    assert image is None or image.convert("RGB").size == image.size


@quick
@given(st.one_of(st.binary(max_size=200), st.sampled_from(SOUNDS).flatmap(damaged)))
def test_any_bytes_are_a_sound_or_refused(content: bytes) -> None:
    sound = value_of(lambda: decode_audio(content))
    if sound is not None:
        samples_TC, rate = sound
        assert samples_TC.dtype == np.float32
        assert samples_TC.size
        assert np.isfinite(samples_TC).all()
        assert rate > 0


@quick
@given(
    st.one_of(
        st.tuples(st.binary(max_size=200), st.sampled_from([".npy", ".npz", ".pt", ""])),
        st.sampled_from(ARRAYS).flatmap(lambda one: st.tuples(damaged(one[0]), st.just(one[1]))),
    )
)
def test_any_bytes_are_an_array_or_refused(one: tuple[bytes, str]) -> None:
    array = value_of(lambda: decode_array(*one))
    assert array is None or (array.dtype == np.float32 and array.ndim in (1, 2) and np.isfinite(array).all())


@quick
@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
        lambda values: st.lists(values, max_size=4),
    )
)
def test_any_cell_is_an_array_or_refused(cell: Any) -> None:
    array = value_of(lambda: as_vectors(cell))
    assert array is None or (array.dtype == np.float32 and np.isfinite(array).all())


@quick
@given(st.text(alphabet='[],.0123456789eE+-" naNInfity', max_size=40))
def test_any_text_is_an_array_or_refused(text: str) -> None:
    value_of(lambda: parse_vectors(text))


def test_numbers_of_all_kinds_become_float32() -> None:
    for dtype in ("?", "i1", "u8", ">f8", "f2"):
        array = decode_array(odd.npy(np.array([0, 1], dtype)), ".npy")
        assert array.dtype == np.float32
        assert array.tolist() == [0, 1]
    assert parse_vectors("[[1, 2.5], [true, -3]]").tolist() == [[1, 2.5], [1, -3]]
    assert decode_array(odd.npy(np.asfortranarray([[1, 2], [3, 4]])), ".npy").tolist() == [[1, 2], [3, 4]]
    sparse = torch.tensor([[0.0, 2.0]]).to_sparse()
    assert decode_array(odd.pt(sparse), ".pt").tolist() == [[0, 2]]


@pytest.mark.parametrize(("value", "expected"), [(0x8000, 0x80), (0xFFFF, 0xFF), (200, 200)])
def test_sixteen_bits_become_eight(value: int, expected: int) -> None:
    assert decode_image(odd.gray16(value)).getpixel((0, 0)) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(orientation: int) -> None:
    image = decode_image(odd.rotated(orientation))
    assert image.size == ((64, 32) if orientation < 5 else (32, 64))
    # the half that is white as it is stored
    corner = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    place = {"left": (4, 16), "right": (60, 16), "top": (16, 4), "bottom": (16, 60)}[corner]
    assert min(image.convert("RGB").getpixel(place)) > 200


def test_an_upright_picture_is_not_turned_again() -> None:
    once = decode_image(odd.rotated())
    assert once.getexif().get(0x0112) is None


def test_the_samples_that_a_header_promises() -> None:
    with pytest.raises(InputError, match="has 8,000 of 500,000 samples"):
        decode_audio(odd.wav_of_size(1_000_000))
    for unknown in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000):
        samples_TC, _ = decode_audio(odd.wav_of_size(unknown))
        assert samples_TC.shape == (8_000, 1)


def test_a_url_is_fetched_and_told_of(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"hello")
    assert read_file(f"file://{tmp_path}/x.bin") == b"hello"
    for url, kind in (
        (f"file://{tmp_path}/none", "missing file"),
        (f"file://{tmp_path}", "unreadable file"),
        ("nonsense://x", "unreadable file"),
        ("http://127.0.0.1:9/x.png", "unreadable file"),
    ):
        with pytest.raises(InputError) as raised:
            read_file(url)
        assert raised.value.kind == kind


def test_a_fault_of_the_input_survives_pickling() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(InputError("truncated", "ends early")))
    assert (error.kind, str(error)) == ("truncated", "ends early")


def test_a_header_that_leads_before_the_file_prints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)  # of what is raised inside libsndfile's calls
    for content in SOUNDS:
        for place in range(4, min(64, len(content))):
            spoilt = content[:place] + b"\xff" * 4 + content[place + 4 :]
            value_of(partial(decode_audio, spoilt))
    assert not printed
