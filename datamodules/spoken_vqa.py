"""easy-VQA whose questions are also spoken, by voices that are not the same in training, validation and test."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.audio_decoding import num_samples
from datamodules.batch import ABSENT
from datamodules.easy_vqa import EasyVQA
from datamodules.noise import NUM_TALKERS, Noise, NoisyAudio
from datamodules.paired import Split
from datamodules.recordings import file_name, recordings
from datamodules.rows import PairedRows
from datamodules.sources import AudioFiles, Source, Texts
from datamodules.speech import VARIANTS, Voice, draw_voices

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class SpokenVQA(EasyVQA):
    """Modalities `image`, `question` and `speech`, tasks `answer` and `question`.

    Each voice is another of eSpeak NG's variants, that is another speaker, with an accent, a rate and a pitch drawn by
    the seed: no speaker stands in two splits, accents do. Each voice records each of the 107 questions, once, when
    speech is first read: one channel of 16 kHz, FLAC, some 200 MB by 65 voices.

    Args:
        folder: Where the recordings are kept.
        row: `question` is a row of easy-VQA, its question spoken by a voice drawn from those of its split;
            `recording` is a row for each recording, which has no image and no answer.
        questions: `spoken` leaves the texts out, `written` the recordings; so rows have one or `both`.
        train_share: Share of the training rows that there are; what a smaller share has, a larger one has too.
        tasks: `answer`, and `question`: which of the 107 it is.
        train_voices: Another number leaves the other splits' voices, and the first of these, as they are.
        val_voices: A recording is of one of them.
        test_voices: A recording is of one of them.
        snr: Of validation and test: ratio of the powers of speech and noise in dB; no noise if null.
        train_snr: Lowest and highest in training; each recording has one, and always the same noise.
        noise: `pink`, or `babble` of three other voices of the split.
        unseen_questions: Share of the 107 questions that training and validation lack.
        test_questions: Of which the test split is: `all`, those that are `seen` in training, or the `unseen` ones.
        batch_size: Rows a batch.
        num_workers: Processes that read ahead.
        seed: Of the voices, the noise, the unseen questions and the validation split; of the order of the rows together
            with `seed_everything`.
        val_fraction: Share of the training images that, with all their questions, validate instead.

    Raises:
        ValueError: The package is not installed, or an argument is out of range or does not fit the others.
    """

    def __init__(
        self,
        *,
        folder: str | Path = "data/spoken_vqa",
        row: Literal["question", "recording"] = "question",
        questions: Literal["both", "spoken", "written"] = "both",
        train_share: float = 1.0,
        tasks: Sequence[Literal["answer", "question"]] = ("answer",),
        train_voices: int = 50,
        val_voices: int = 5,
        test_voices: int = 10,
        snr: float | None = None,
        train_snr: tuple[float, float] | None = None,
        noise: Noise = "pink",
        unseen_questions: float = 0.0,
        test_questions: Literal["all", "seen", "unseen"] = "all",
        batch_size: int = 256,
        num_workers: int = 0,
        seed: int = 0,
        val_fraction: float = 0.1,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed, val_fraction=val_fraction)
        self.folder = Path(folder)
        self.row = row
        self.questions = questions
        self.train_share = train_share
        self.tasks = tasks
        self.noise = noise
        self.unseen_questions = unseen_questions
        self.test_questions = test_questions
        self.snr = {"train": train_snr, "val": _range_of(snr), "test": _range_of(snr)}
        self.num_voices = {"train": train_voices, "val": val_voices, "test": test_voices}
        self._check()

    def _check(self) -> None:
        counts = list(self.num_voices.values())
        if min(counts) < 1 or sum(counts) > len(VARIANTS):
            raise ValueError(
                "train_voices, val_voices and test_voices must be at least 1 each, and at most "
                f"{len(VARIANTS)} together, not {', '.join(map(str, counts))}"
            )
        if not 0 < self.train_share <= 1:
            raise ValueError(f"train_share must be above 0 and at most 1, not {self.train_share}")
        if not 0 <= self.unseen_questions < 1:
            raise ValueError(f"unseen_questions must be at least 0 and below 1, not {self.unseen_questions}")
        if self.test_questions == "unseen" and not self.unseen_questions:
            raise ValueError("test_questions: there are unseen ones only if unseen_questions is above 0")
        if self.row == "recording" and "answer" in self.tasks:
            raise ValueError("tasks: a recording has no answer; for row: recording, give tasks: [question]")
        for split, snr in self.snr.items():
            argument = "train_snr" if split == "train" else "snr"
            if snr is None:
                continue
            if not all(map(math.isfinite, snr)) or snr[0] > snr[1]:
                raise ValueError(
                    f"{argument} must be in dB, the lowest first, not {', '.join(map(str, dict.fromkeys(snr)))}"
                )
            if self.noise == "babble" and self.num_voices[split] <= NUM_TALKERS:
                raise ValueError(
                    f"{split}_voices must be at least {NUM_TALKERS + 1} for noise: babble, not {self.num_voices[split]}"
                )

    @cached_property
    def texts(self) -> list[str]:
        """The 107 questions."""
        files = [self.root / folder / "questions.json" for folder in ("train", "test")]
        return sorted({text for file in files for text, _, _ in json.loads(file.read_text())})

    @property
    def outputs(self) -> dict[str, list[str]]:
        """The 13 answers, the 107 questions."""
        names = {**super().outputs, "question": self.texts}
        return {task: names[task] for task in self.tasks}

    @cached_property
    def voices(self) -> dict[Split, list[Voice]]:
        """Those of each split."""
        drawn = iter(draw_voices(self.seed))
        # the training split comes last, so that more of its voices leave the others' alone
        found = {split: [next(drawn) for _ in range(self.num_voices[split])] for split in reversed(SPLITS)}
        return {split: found[split] for split in SPLITS}

    @cached_property
    def is_unseen(self) -> NDArray[np.bool_]:
        """Of each of the 107 questions, whether training lacks it."""
        is_unseen = np.zeros(len(self.texts), dtype=bool)
        if self.unseen_questions:
            count = min(max(1, round(self.unseen_questions * len(self.texts))), len(self.texts) - 1)
            is_unseen[np.random.default_rng([self.seed, 1]).permutation(len(self.texts))[:count]] = True
        return is_unseen

    def load(self, split: Split) -> PairedRows | None:
        """Return a split's rows; the recordings that they need are made, unless no expert hears them."""
        if split == "predict":
            return None
        which = self.test_questions if split == "test" else "seen"
        asked = np.ones(len(self.texts), dtype=bool) if which == "all" else self.is_unseen == (which == "unseen")
        rows, voice_R = self._recorded(split, asked) if self.row == "recording" else self._asked(split, asked)
        if split == "train" and self.train_share < 1:
            order = np.random.default_rng([self.seed, 3]).permutation(len(rows))
            kept = np.sort(order[: max(1, round(self.train_share * len(rows)))])
            rows, voice_R = rows.select(kept), voice_R[kept]
        question_R = rows.index["question"]
        if self.questions == "spoken":
            rows = replace(rows, index={**rows.index, "question": np.full(len(rows), ABSENT)})
        if self.transforms and "speech" not in self.base_transforms:
            return rows
        if self.questions == "written":
            return rows.lacking({"speech"})
        paths = self._paths(split)
        position_R = voice_R * len(self.texts) + question_R
        sizes = None
        if self.row == "recording" and split == "train":
            sizes = np.array([num_samples(paths[position]) for position in position_R], dtype=np.int64)
        return replace(
            rows,
            sources={**rows.sources, "speech": self._speech(split, paths)},
            index={**rows.index, "speech": position_R},
            sizes=sizes,
        )

    def _asked(self, split: Split, asked: NDArray[np.bool_]) -> tuple[PairedRows, NDArray[np.int64]]:
        """Return the rows of easy-VQA with these questions, and the voice that speaks each."""
        rows = super().load(split)
        assert rows is not None
        own = rows.sources["question"]
        position = np.array([self.texts.index(own.load(number)) for number in range(len(own))])
        question_R = position[rows.index["question"]]
        rows = replace(
            rows,
            sources={**rows.sources, "question": Texts(self.texts)},
            index={**rows.index, "question": question_R},
            targets=self._targets({**rows.targets, "question": torch.from_numpy(question_R)}),
        )
        draw = np.random.default_rng([self.seed, 2, SPLITS.index(split)])
        voice_R = draw.integers(self.num_voices[split], size=len(rows))  # before some are left out: theirs is the same
        kept = np.flatnonzero(asked[question_R])
        return rows.select(kept), voice_R[kept]

    def _recorded(self, split: Split, asked: NDArray[np.bool_]) -> tuple[PairedRows, NDArray[np.int64]]:
        """Return a row for each recording of these questions, and its voice."""
        voice_R, number_R = np.divmod(np.arange(self.num_voices[split] * asked.sum()), asked.sum())
        question_R = np.flatnonzero(asked)[number_R]
        names = [file_name(text) for text in self.texts]
        ids = [
            f"{self.voices[split][voice].name}/{names[question]}"
            for voice, question in zip(voice_R, question_R, strict=True)
        ]
        rows = PairedRows(
            sources={"question": Texts(self.texts)},
            index={"question": question_R},
            targets=self._targets({"question": torch.from_numpy(question_R)}),
            ids=ids,
        )
        return rows, voice_R

    def _targets(self, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {task: targets[task] for task in self.tasks}

    def _paths(self, split: Split) -> list[Path]:
        """Return the recordings of a split, those of its first voice first; what lacks is made."""
        everyone = [voice for voices in self.voices.values() for voice in voices]
        paths = recordings(self.folder, everyone, self.texts)
        first = sum(self.num_voices[other] for other in SPLITS[: SPLITS.index(split)]) * len(self.texts)
        return paths[first : first + self.num_voices[split] * len(self.texts)]

    def _speech(self, split: Split, paths: list[Path]) -> Source:
        sounds = AudioFiles(paths)
        snr = self.snr[split]
        if snr is None:
            return sounds
        speakers = np.repeat(np.arange(self.num_voices[split]), len(self.texts))
        return NoisyAudio(sounds, noise=self.noise, snr=snr, speakers=speakers, seed=self.seed)


def _range_of(snr: float | None) -> tuple[float, float] | None:
    return None if snr is None else (snr, snr)
