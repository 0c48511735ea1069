from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from datamodules import recordings as module
from datamodules.recordings import PEAK, RATE, as_recorded, recordings
from datamodules.sources import AudioFiles
from datamodules.speech import ESpeak, Voice

TEXTS = [
    f"is there a {colour} {shape} in the image?" for colour in ("red", "blue", "teal") for shape in ("circle", "box")
]
VOICES = [Voice("en-us", f"m{number}", 160, 45) for number in range(1, 9)]


def contents(folder: Path) -> dict[str, bytes]:
    """All that is there, less what nobody looks at."""
    paths = [
        path for path in folder.rglob("*") if path.is_file() and not path.relative_to(folder).parts[0].startswith(".")
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def making(folder: Path, texts: list[str]) -> subprocess.Popen[str]:
    program = (
        "from datamodules.recordings import Path, recordings\nfrom datamodules.speech import Voice\n"
        f"recordings(Path({str(folder)!r}), {VOICES!r}, {texts!r})"
    )
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    recordings(folder, VOICES, TEXTS)
    return folder


def test_files_are_by_voice_and_text(made: Path) -> None:
    paths = recordings(made, VOICES, TEXTS)
    assert len(set(paths)) == len(VOICES) * len(TEXTS) == len(list(made.rglob("*.flac")))
    assert paths[1] == made / "en-us+m1-160-45" / "is-there-a-red-box-in-the-image.flac"
    assert paths[len(TEXTS)].parent.name == "en-us+m2-160-45"


def test_a_file_decodes_to_what_was_spoken(made: Path) -> None:
    with ESpeak() as espeak:
        spoken = [
            espeak.speak(text, "en-us+m1", words_a_minute=160, pitch=45, volume=module.QUIET_VOLUME) for text in TEXTS
        ]
    sounds = AudioFiles(recordings(made, VOICES, TEXTS))
    for position, one in enumerate(spoken):
        samples, rate = sounds.load(position)
        assert rate == RATE
        assert samples.dtype == np.float32
        np.testing.assert_allclose(samples[:, 0], as_recorded(one), atol=2**-15)
        assert abs(len(samples) / RATE - len(one) / 22_050) < 0.02


def test_resampling_keeps_what_is_below_eight_kilohertz() -> None:
    seconds = np.arange(22_050) / 22_050
    tones = sum(np.sin(2 * np.pi * frequency * seconds) for frequency in (300, 7900, 9000))
    resampled = as_recorded((8000 * np.asarray(tones)).astype(np.int16))
    assert len(resampled) == 16_000
    power = np.abs(np.fft.rfft(resampled)) ** 2
    assert set(np.flatnonzero(power > 0.01 * power.max())) == {300, 7900}
    assert power[300] == pytest.approx(power[7900], rel=0.01)


def test_no_recording_is_silent_or_clipped(made: Path) -> None:
    for path in made.rglob("*.flac"):
        samples, _ = soundfile.read(path)
        assert 0.5 < len(samples) / RATE < 4
        assert np.sqrt(np.mean(samples**2)) == pytest.approx(0.05, rel=0.01)
        assert np.abs(samples).max() < 1
    click = np.zeros(22_050, np.int16)
    click[100] = 30_000
    assert np.abs(as_recorded(click)).max() == pytest.approx(PEAK)


def test_what_was_made_is_not_made_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)  # nor is eSpeak NG needed
    assert len(recordings(made, VOICES[2:], TEXTS)) == 6 * len(TEXTS)


def test_goes_on_after_a_kill(made: Path, tmp_path: Path) -> None:
    many = [f"{text[:-1]} number {number}?" for text in TEXTS for number in range(5)]
    process = making(tmp_path, many)
    while sum(path.is_dir() for path in tmp_path.glob("en-*")) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.kill()
    process.communicate()  # its workers hold the pipe, and end with their voice
    left = contents(tmp_path)
    voices = {path.name for path in tmp_path.glob("en-*")}
    assert 2 <= len(voices) < len(VOICES)
    assert len(left) == len(voices) * len(many) + 1
    recordings(tmp_path, VOICES, many)
    whole = contents(tmp_path)
    assert len(whole) == len(VOICES) * len(many) + 1
    assert left.items() <= whole.items()
    assert not list(tmp_path.glob(".*"))


def test_two_at_once_make_the_same(made: Path, tmp_path: Path) -> None:
    processes = [making(tmp_path / "new", TEXTS) for _ in range(2)]
    for process in processes:
        said = process.communicate()[1]
        assert process.returncode == 0, said
    assert contents(tmp_path / "new") == contents(made)
    assert not list((tmp_path / "new").glob(".*"))


def test_says_that_it_works(made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    recordings(tmp_path, VOICES[:2], TEXTS)
    assert capfd.readouterr().err == f"{tmp_path}: 2 voices record 6 sentences, once\n"
    recordings(tmp_path, VOICES[:2], TEXTS)
    assert capfd.readouterr().err == ""


def test_refuses_a_folder_of_other_recordings(made: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"{made / 'recordings.json'}: the recordings there were made") + ".*texts"
    ):
        recordings(made, VOICES, TEXTS[:3])
    recordings(tmp_path, VOICES[:1], TEXTS)
    about = tmp_path / "recordings.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "espeak": "1.0"}))
    recordings(tmp_path, VOICES[:1], TEXTS)  # another version is no matter until more are made
    with pytest.raises(ValueError, match=r"made otherwise \(espeak\)"):
        recordings(tmp_path, VOICES[:2], TEXTS)
    about.write_text("{")
    with pytest.raises(ValueError, match=r"made otherwise \(all\)"):
        recordings(tmp_path, VOICES[:1], TEXTS)


@pytest.mark.parametrize("texts", [["Is it 5?", "is it -5"], ["yes", "?!"]])
def test_texts_that_would_share_a_file_are_refused(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(ValueError, match="no file could be named after"):
        recordings(tmp_path, VOICES, texts)
    assert not list(tmp_path.iterdir())


def test_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"^{folder}: recordings cannot be kept there: [^\n]*$"):
            recordings(folder, VOICES, TEXTS)


@pytest.mark.skipif(sys.platform != "linux", reason="what is replaced is inherited by forking")
def test_an_error_in_a_worker_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_record", is_full)
    with pytest.raises(ValueError, match=f"^{tmp_path}: recordings cannot be kept there: No space left on device$"):
        recordings(tmp_path, VOICES, TEXTS)
    monkeypatch.setattr(module, "_record", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ValueError, match=f"^{tmp_path}: a process that made recordings ended with status -9"):
        recordings(tmp_path, VOICES, TEXTS)
