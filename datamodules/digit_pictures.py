"""How the pictures of `digit_domains` are made.

Legend: U pictures, P photographs, F fonts, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

SIZE = 32
# coloured photographs that scikit-image's wheel has in itself, so that none is downloaded; others for the test
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "hubble_deep_field.jpg", "motorcycle_left.png", "retina.jpg")
TEST_PHOTOGRAPHS = ("coffee.png", "ihc.png", "rocket.jpg")
# of matplotlib's fonts those that have plain digits, and differ
FONTS = (
    *(f"DejaVuSans{cut}" for cut in ("", "-Bold", "-Oblique", "Mono", "Mono-Bold")),
    *(f"DejaVuSerif{cut}" for cut in ("", "-Bold", "-Italic")),
    *(f"STIXGeneral{cut}" for cut in ("", "Bol", "Italic", "BolIta")),
    *("cmr10", "cmss10", "cmtt10", "cmb10"),
)


def _package(name: str, gives: str) -> Path:
    """Return the folder of a package; it is not imported, which would take seconds.

    Raises:
        ValueError: It is not installed.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"{gives} of DigitDomains are in a package; run: pip install 'crossmodal[digits]'")
    return Path(spec.origin).parent


def of_scikit_learn(*, test: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return scikit-learn's digits as (U, 8, 8) of 0 to 255, and what they are: two thirds, or of the test the last.

    The file is in the order of the writers (30 of the training set of the 1,797), so that the test is of other hands.
    """
    file = _package("sklearn", "the digits of 8 x 8 pixels") / "datasets" / "data" / "digits.csv.gz"
    table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    table = table[len(table) * 2 // 3 :] if test else table[: len(table) * 2 // 3]
    grey_UHW = (table[:, :-1].reshape(-1, 8, 8) * 255 // 16).astype(np.uint8)
    return grey_UHW, table[:, -1]


def resized(grey_UHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge pictures to the size of all, with a margin as MNIST has it."""
    inner = SIZE - 4

    def enlarged(grey_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.asarray(Image.fromarray(grey_HW).resize((inner, inner), Image.Resampling.BICUBIC))

    return np.pad(np.stack([enlarged(one) for one in grey_UHW]), ((0, 0), (2, 2), (2, 2)))


def photographs(*, test: bool) -> list[NDArray[np.uint8]]:
    """Return photographs, (H, W, 3) each; those of the test are others."""
    folder = _package("skimage", "the photographs") / "data"
    names = TEST_PHOTOGRAPHS if test else PHOTOGRAPHS
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ValueError(f"this scikit-image has no {missing[0]}; install one that has: scikit-image>=0.25,<0.27")
    return [_photograph(folder / name) for name in names]


@cache
def _photograph(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def blended(
    grey_UHW: NDArray[np.uint8], photos: Sequence[NDArray[np.uint8]], draw: np.random.Generator
) -> NDArray[np.uint8]:
    """Return digits whose pixels are the difference from a patch of a photograph, as MNIST-M has it.

    Args:
        grey_UHW: Digits, light on dark.
        photos: P, (H, W, 3) each.
        draw: Where each patch lies.
    """
    found = np.empty((*grey_UHW.shape, 3), np.uint8)
    for number, grey_HW in enumerate(grey_UHW):
        photo = photos[int(draw.integers(len(photos)))]
        top, left = (int(draw.integers(length - SIZE + 1)) for length in photo.shape[:2])
        patch = photo[top : top + SIZE, left : left + SIZE].astype(np.int16)
        found[number] = np.abs(patch - grey_HW[..., None]).astype(np.uint8)
    return found


def thick_negative(grey_UHW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return digits a pixel thicker on each side, dark on light."""

    def one(grey_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
        thick = Image.fromarray(grey_HW).filter(ImageFilter.MaxFilter(3))
        return np.asarray(ImageOps.invert(thick))

    return np.stack([one(grey_HW) for grey_HW in grey_UHW])


def printed(digits_U: NDArray[np.int64], draw: np.random.Generator) -> NDArray[np.uint8]:
    """Return digits in fonts and colours that are drawn, turned, slanted and shifted, over others beside them, blurred.

    As in SVHN and the synthetic digits of Digit-Five a picture may show parts of neighbours; its own is in the middle.

    Args:
        digits_U: What each shows.
        draw: Of all else.
    """
    folder = _package("matplotlib", "the fonts") / "mpl-data" / "fonts" / "ttf"
    return np.stack([_printed(int(digit), folder, draw) for digit in digits_U])


def _printed(digit: int, folder: Path, draw: np.random.Generator) -> NDArray[np.uint8]:
    large = 2 * SIZE  # drawn large, so that turning it blurs less
    font = _font(str(folder / f"{FONTS[int(draw.integers(len(FONTS)))]}.ttf"), int(draw.integers(36, 57)))
    paper, ink = _two_colours(draw)
    mask = Image.new("L", (large, large))
    pen = ImageDraw.Draw(mask)
    middle = [large / 2 + float(draw.uniform(-5, 5)) for _ in range(2)]
    pen.text((middle[0], middle[1]), str(digit), fill=255, font=font, anchor="mm")
    for side in (-1, 1):
        if draw.random() < 0.4:
            beside = middle[0] + side * font.size * float(draw.uniform(0.75, 0.9))
            pen.text((beside, middle[1]), str(int(draw.integers(10))), fill=255, font=font, anchor="mm")
    angle, slant = np.deg2rad(draw.uniform(-20, 20)), float(draw.uniform(-0.3, 0.3))
    cos, sin, half = float(np.cos(angle)), float(np.sin(angle)), large / 2
    across, down = (cos, sin + slant * cos), (-sin, cos - slant * sin)
    shift = [half - half * (one[0] + one[1]) for one in (across, down)]
    turned = mask.transform(
        mask.size,
        Image.Transform.AFFINE,
        (*across, shift[0], *down, shift[1]),
        resample=Image.Resampling.BILINEAR,
    )
    small = turned.filter(ImageFilter.GaussianBlur(float(draw.uniform(0, 1.5)))).resize((SIZE, SIZE))
    share_HW1 = np.asarray(small, dtype=np.float64)[..., None] / 255
    colours_HW3 = share_HW1 * ink + (1 - share_HW1) * paper + draw.normal(0, 8, (SIZE, SIZE, 3))
    return colours_HW3.clip(0, 255).astype(np.uint8)


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _two_colours(draw: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two colours that can be told apart by their brightness."""
    while True:
        one_3, other_3 = draw.uniform(0, 255, (2, 3))
        if abs(one_3.mean() - other_3.mean()) > 60:
            return one_3, other_3
