"""With MNIST's files made up: each image says its number."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from datamodules.digit_domains import DOMAINS, HALF, IMAGES, LABELS, OF_MNIST, DigitDomains
from datamodules.digit_pictures import thick_negative
from datamodules.paired import Split
from datamodules.rows import PairedRows

PACKAGES = {"scikit_learn": "sklearn", "photo": "skimage", "print": "matplotlib"}


def needs(*domains: str) -> pytest.MarkDecorator:
    absent = [PACKAGES[name] for name in domains if name in PACKAGES and find_spec(PACKAGES[name]) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    found = tmp_path_factory.mktemp("mnist")
    numbers = np.arange(2 * HALF)
    images = np.zeros((len(numbers), 28, 28), np.uint8)
    images[:, 10, 10], images[:, 10, 14] = numbers // 256, numbers % 256  # far enough not to touch when thickened
    images[:, 20:24, 20:24] = 200
    (found / IMAGES).write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", *images.shape) + images.tobytes())
    digits = (numbers % 10).astype(np.uint8)
    (found / LABELS).write_bytes(b"\0\0\x08\x01" + struct.pack(">I", len(digits)) + digits.tobytes())
    return str(found)


def rows(data: DigitDomains, split: Split) -> PairedRows:
    found = data.rows(split)
    assert found is not None
    return found


def pixels(of: PairedRows, kind: str) -> np.ndarray:
    own = np.flatnonzero(of.kinds[kind])
    return np.stack([np.asarray(of.sources["image"].load(int(of.index["image"][row]))) for row in own])


def numbers(grey_UHW: np.ndarray) -> list[int]:
    return (grey_UHW[:, 12, 12].astype(int) * 256 + grey_UHW[:, 12, 16]).tolist()


def test_no_image_is_in_two_domains_or_splits_and_each_keeps_its_digit(folder: str) -> None:
    data = DigitDomains(mnist=folder, domains=["mnist", "negative"], rows_per_domain=2000)
    seen: list[int] = []
    for split in ("train", "val", "test"):
        of = rows(data, split)
        for kind in ("mnist", "negative"):
            found = pixels(of, kind)
            assert found.shape[1:] == (32, 32, 3)
            own = numbers(found[..., 0] if kind == "mnist" else 255 - found[..., 0])
            assert all((number < HALF) == (split != "test") for number in own)
            digits = of.targets["digit"].numpy()[of.kinds[kind]]
            assert [number % 10 for number in own] == digits.tolist()
            seen += own
    assert len(seen) == len(set(seen)) == 2 * (1667 + 1000) - 1  # all images that there are, of 1,000 in the test


def test_which_images_a_domain_has_does_not_depend_on_other_domains(folder: str) -> None:
    few = rows(DigitDomains(mnist=folder, domains=["negative"]), "train")
    more = rows(DigitDomains(mnist=folder, domains=["mnist", "negative"]), "train")
    one, other = pixels(few, "negative"), pixels(more, "negative")
    assert {picture.tobytes() for picture in one} & {picture.tobytes() for picture in other}
    whole = [
        DigitDomains(mnist=folder, domains=names)._made("negative", "train", 50) for names in (OF_MNIST, OF_MNIST[2:])
    ]
    assert np.array_equal(whole[0][0], whole[1][0])


def test_the_domain_that_is_left_out_has_labels_in_the_test_alone(folder: str) -> None:
    data = DigitDomains(mnist=folder, domains=["mnist", "negative"], left_out="negative", rows_per_domain=100)
    assert data.sources == ["mnist"]
    for split, count in (("train", 90), ("val", 10)):
        of = rows(data, split)
        assert (len(of), of.kinds["mnist"].sum(), of.kinds["negative"].sum()) == (count, count, 0)
    assert rows(data, "test").kinds["negative"].sum() == 1000
    unlabelled = data.unlabelled()
    assert unlabelled is not None
    assert not unlabelled.targets
    assert (len(unlabelled), unlabelled.kinds["negative"].sum()) == (90, 90)
    told = set(numbers(255 - pixels(unlabelled, "negative")[..., 0]))
    assert not told & set(numbers(pixels(rows(data, "train"), "mnist")[..., 0]))
    assert DigitDomains(mnist=folder, domains=["mnist"]).unlabelled() is None


def test_thickened_is_thickened_and_inverted() -> None:
    grey = np.zeros((1, 5, 5), np.uint8)
    grey[0, 2, 2] = 200
    expected = np.full((1, 5, 5), 255)
    expected[0, 1:4, 1:4] = 55
    assert np.array_equal(thick_negative(grey), expected)


@needs(*DOMAINS)
def test_all_domains_are_made_with_a_seed(folder: str) -> None:
    settings = {"mnist": folder, "rows_per_domain": 60, "test_rows_per_domain": 40}
    first, again, other = (DigitDomains(**settings, seed=seed) for seed in (1, 1, 2))  # type: ignore[arg-type]
    for kind in DOMAINS:
        of = rows(first, "train")
        assert of.kinds[kind].sum() == 54
        assert rows(first, "test").kinds[kind].sum() == 40
        assert np.array_equal(pixels(of, kind), pixels(rows(again, "train"), kind))
        assert not np.array_equal(pixels(of, kind), pixels(rows(other, "train"), kind))
        assert np.ptp(pixels(of, kind), axis=(1, 2)).max(-1).min() > 20  # no picture is empty
    coloured = {kind for kind in DOMAINS if np.ptp(pixels(of, kind).astype(int), axis=-1).max() > 50}
    assert coloured == {"photo", "print"}


@needs("scikit_learn")
def test_of_scikit_learn_there_are_two_thirds_to_train_and_one_to_test() -> None:
    data = DigitDomains(domains=["scikit_learn"], rows_per_domain=5000)
    counts = {split: len(rows(data, split)) for split in ("train", "val", "test")}
    assert counts == {"train": 1078, "val": 120, "test": 599}
    mean = {
        digit: pixels(rows(data, "test"), "scikit_learn")[rows(data, "test").targets["digit"] == digit].mean(0)
        for digit in (0, 1)
    }
    assert mean[0][16, 16].mean() < 60 < 150 < mean[1][16, 16].mean()  # a hole, a stroke


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"left_out": "svhn"}, "left_out: there is no domain 'svhn'; there are mnist"),
        ({"domains": ["usps"]}, "domains: there is no domain 'usps'"),
        ({"domains": ["print"], "left_out": "mnist"}, "left_out: there is no domain 'mnist'; there are print"),
        ({"domains": ["print"], "left_out": "print"}, "there must be one to train with"),
        ({"val_fraction": 1.0}, "val_fraction .1.0. between 0 and 1"),
        ({"domains": ["mnist"], "mnist": "nowhere"}, "cannot read nowhere"),
    ],
)
def test_mistakes_are_told_in_a_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitDomains(**arguments).rows("train")  # type: ignore[arg-type]


def test_where_mnist_is_must_be_told(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.delenv("CROSSMODAL_DATA", raising=False)
    with pytest.raises(ValueError, match=r"give data\.init_args\.mnist"):
        DigitDomains(domains=["mnist"]).rows("train")
    (Path(folder).parent / "mnist").mkdir(exist_ok=True)
    monkeypatch.setenv("CROSSMODAL_DATA", str(Path(folder).parent))
    with pytest.raises(ValueError, match="cannot read"):
        DigitDomains(domains=["mnist"]).rows("train")


def test_a_package_that_is_absent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.digit_pictures.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"the fonts of DigitDomains are in a package; run: pip install 'crossmodal"):
        DigitDomains(domains=["print"]).rows("train")
