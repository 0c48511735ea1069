from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.batch import ABSENT
from datamodules.easy_vqa import EasyVQA
from datamodules.noise import NoisyAudio
from datamodules.paired import Split
from datamodules.recordings import file_name
from datamodules.rows import PairedRows
from datamodules.sources import AudioFiles, Texts
from datamodules.spoken_vqa import SpokenVQA
from tests.transforms import Listed

SPLITS: tuple[Split, ...] = ("train", "val", "test")
FEW = {"train_voices": 2, "val_voices": 1, "test_voices": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spoken")


def spoken(folder: Path, **arguments: Any) -> SpokenVQA:
    return SpokenVQA(folder=folder, **{**FEW, **arguments})


def load(data: SpokenVQA, split: Split) -> PairedRows:
    rows = data.load(split)
    assert rows is not None
    return rows


def files(rows: PairedRows) -> list[Path]:
    """The recording of each row."""
    source = rows.sources["speech"]
    sounds = source.sounds if isinstance(source, NoisyAudio) else source
    assert isinstance(sounds, AudioFiles)
    return [sounds.paths[position] for position in rows.index["speech"]]


def asked(rows: PairedRows) -> list[str]:
    """The question of each row."""
    source = rows.sources["question"]
    assert isinstance(source, Texts)
    return [source.texts[position] for position in rows.index["question"]]


def test_questions_are_written_or_spoken_or_both(folder: Path) -> None:
    both, spoken_alone, written = (
        load(spoken(folder, questions=questions), "test") for questions in ("both", "spoken", "written")
    )
    assert (both.index["question"] >= 0).all()
    assert (both.index["speech"] >= 0).all()
    assert np.array_equal(spoken_alone.index["speech"], both.index["speech"])
    assert (spoken_alone.index["question"] == ABSENT).all()
    assert np.array_equal(written.index["question"], both.index["question"])
    assert (written.index["speech"] == ABSENT).all()
    assert list(both.ids) == list(spoken_alone.ids) == list(written.ids)


def test_a_share_of_the_training_rows(folder: Path) -> None:
    whole, tenth, hundredth = (load(spoken(folder, train_share=share), "train") for share in (1.0, 0.1, 0.01))
    assert [len(tenth), len(hundredth)] == [round(len(whole) / 10), round(len(whole) / 100)]
    assert set(hundredth.ids) < set(tenth.ids) < set(whole.ids)
    place = {name: row for row, name in enumerate(whole.ids)}
    rows = [place[name] for name in tenth.ids]
    assert np.array_equal(tenth.index["speech"], whole.index["speech"][rows])
    assert len(load(spoken(folder, train_share=0.01), "val")) == len(load(spoken(folder), "val"))


def test_written_questions_need_no_recordings(tmp_path: Path) -> None:
    load(spoken(tmp_path / "none", questions="written"), "train")
    assert not (tmp_path / "none").exists()


def test_rows_are_those_of_easy_vqa_and_say_their_question(folder: Path) -> None:
    data = spoken(folder)
    for split in SPLITS:
        rows, plain = load(data, split), EasyVQA().load(split)
        assert plain is not None
        assert list(rows.ids) == list(plain.ids)
        assert np.array_equal(rows.index["image"], plain.index["image"])
        assert rows.targets["answer"].equal(plain.targets["answer"])
        assert asked(rows) == [plain.sources["question"].load(position) for position in plain.index["question"]]
        assert [path.name for path in files(rows)] == [file_name(text) for text in asked(rows)]
        samples, rate = rows.sources["speech"].load(int(rows.index["speech"][0]))
        assert samples.shape[1] == 1
        assert rate == 16_000
    assert len(list(folder.rglob("*.flac"))) == 7 * 107
    assert data.load("predict") is None


def test_no_speaker_stands_in_two_splits(folder: Path) -> None:
    data = spoken(folder)
    speakers = [{path.parent.name for path in files(load(data, split))} for split in SPLITS]
    assert [len(names) for names in speakers] == [2, 1, 4]
    variants = [re.split(r"[+-]", name.partition("+")[2])[0] for names in speakers for name in names]
    assert len(set(variants)) == 7
    voices = SpokenVQA().voices
    assert {split: len(of) for split, of in voices.items()} == {"train": 50, "val": 5, "test": 10}
    assert len({voice.variant for of in voices.values() for voice in of}) == 65


def test_more_training_voices_leave_the_others() -> None:
    few, many = SpokenVQA(train_voices=3).voices, SpokenVQA(train_voices=60).voices
    assert few["train"] == many["train"][:3]
    assert (few["val"], few["test"]) == (many["val"], many["test"])


def test_seed_decides_who_speaks(folder: Path) -> None:
    first, again = (files(load(spoken(folder), "train")) for _ in range(2))
    assert first == again
    assert SpokenVQA(seed=1).voices != SpokenVQA().voices
    assert SpokenVQA(seed=1).voices == SpokenVQA(seed=1).voices


@pytest.mark.parametrize("which", ["all", "seen", "unseen"])
def test_training_lacks_the_unseen_questions(folder: Path, which: Any) -> None:
    data = spoken(folder, unseen_questions=0.2, test_questions=which)
    unseen = {text for text, is_unseen in zip(data.texts, data.is_unseen, strict=True) if is_unseen}
    assert len(unseen) == 21
    for split in ("train", "val"):
        rows = load(data, split)
        assert not unseen & set(asked(rows))
        assert not {file_name(text) for text in unseen} & {path.name for path in files(rows)}
    of_test = set(asked(load(data, "test")))
    assert of_test == {"all": set(data.texts), "seen": set(data.texts) - unseen, "unseen": unseen}[which]


def test_rows_that_are_left_keep_their_voice(folder: Path) -> None:
    voices = dict(zip((whole := load(spoken(folder), "test")).ids, files(whole), strict=True))
    part = load(spoken(folder, unseen_questions=0.2, test_questions="unseen"), "test")
    assert 0 < len(part) < len(whole)
    assert [voices[row] for row in part.ids] == files(part)


def test_a_row_for_each_recording(folder: Path) -> None:
    data = spoken(folder, row="recording", tasks=["question"], unseen_questions=0.2, test_questions="unseen")
    assert {task: len(names) for task, names in data.outputs.items()} == {"question": 107}
    for split, count in zip(SPLITS, (2 * 86, 86, 4 * 21), strict=True):
        rows = load(data, split)
        assert len(rows) == count == len(set(files(rows))) == len(set(rows.ids))
        assert set(rows.sources) == {"question", "speech"}
        assert [data.outputs["question"][target] for target in rows.targets["question"]] == asked(rows)
        assert [f"{path.parent.name}/{path.name}" for path in files(rows)] == list(rows.ids)


def test_recordings_of_a_like_length_share_a_batch_in_training(folder: Path) -> None:
    data = spoken(folder, row="recording", tasks=["question"], train_snr=(5, 20))
    rows = load(data, "train")
    source = rows.sources["speech"]
    lengths = [len(source.load(int(position))[0]) for position in rows.index["speech"]]
    assert rows.sizes is not None
    assert rows.sizes.tolist() == lengths
    assert load(data, "test").sizes is None
    assert load(spoken(folder), "train").sizes is None


def test_tasks_are_those_that_are_asked_for(folder: Path) -> None:
    data = spoken(folder, tasks=["answer", "question"])
    rows = load(data, "val")
    assert {task: len(names) for task, names in data.outputs.items()} == {"answer": 13, "question": 107}
    assert rows.targets.keys() == {"answer", "question"}
    assert [data.outputs["question"][target] for target in rows.targets["question"]] == asked(rows)


def test_makes_no_recordings_that_nobody_hears(tmp_path: Path) -> None:
    data = spoken(tmp_path / "none")
    data.connect({"question": Listed()})
    rows = data.rows("val")
    assert rows is not None
    assert "speech" not in rows.sources
    assert not (tmp_path / "none").exists()


def test_speech_and_questions_need_no_images(folder: Path) -> None:
    data = spoken(folder, row="recording", tasks=[], batch_size=8)
    data.connect({"question": Listed(), "speech": Listed()})
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.keys() == {"question", "speech"}
    assert batch.targets == {}
    data = spoken(folder, row="recording", tasks=[])
    data.connect({"image": Listed()})
    with pytest.raises(ValueError, match=r"experts\.image: SpokenVQA has no such modality"):
        data.rows("train")


def test_noise_is_of_the_split(folder: Path) -> None:
    data = spoken(folder, snr=0, train_snr=(5, 20), noise="pink")
    for split, snr in zip(SPLITS, [(5, 20), (0, 0), (0, 0)], strict=True):
        source = load(data, split).sources["speech"]
        assert isinstance(source, NoisyAudio)
        assert source.snr == snr
    source = load(spoken(folder, train_snr=None, snr=3, noise="babble", val_voices=4), "test").sources["speech"]
    assert isinstance(source, NoisyAudio)
    talkers = {source.sounds.paths[talker].parent.name for talker in source._talkers(5)}
    assert len(talkers) == 3
    assert source.sounds.paths[5].parent.name not in talkers
    assert isinstance(load(spoken(folder, snr=3), "train").sources["speech"], AudioFiles)


def test_names_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ValueError, match=r"^speech is made .* pip install espeakng-loader$"):
        spoken(tmp_path).load("train")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"train_voices": 0}, "train_voices, val_voices and test_voices must be at least 1 each.* not 0, 5, 10"),
        ({"test_voices": 30}, "at most 83 together, not 50, 5, 30"),
        ({"unseen_questions": 1}, "unseen_questions must be at least 0 and below 1, not 1"),
        ({"unseen_questions": float("nan")}, "unseen_questions .*nan"),
        ({"test_questions": "unseen"}, "test_questions: .* only if unseen_questions is above 0"),
        ({"row": "recording"}, r"tasks: .* give tasks: \[question\]"),
        ({"snr": float("inf")}, "^snr must be in dB.* inf"),
        ({"train_snr": (10, 5)}, "^train_snr must be in dB, the lowest first, not 10, 5"),
        ({"snr": 0, "noise": "babble", "val_voices": 3}, "^val_voices must be at least 4 for noise: babble, not 3"),
        ({"val_fraction": 2}, "val_fraction"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_refuses_an_argument(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        SpokenVQA(**arguments)
    assert "\n" not in str(caught.value)
