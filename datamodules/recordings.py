"""Recordings of sentences by many voices, made once and kept as FLAC in a folder.

`FOLDER/VOICE/SENTENCE.flac`; a voice's folder appears when it is complete, so that a killed run leaves none that is
not, and several may make the same ones.

Legend: T samples of sound.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from datamodules.speech import SPEECH_RATE, ESpeak, Voice

RATE = 16_000  # Hz, what speech models hear
QUIET_VOLUME = 20  # at which eSpeak NG clips none of the voices
LEVEL = 0.05  # root mean square, 26 dB below full scale: the usual level of speech (ITU-T P.56)
PEAK = 0.99  # at most; a few sounds with an echo would be clipped at that level, and stay below it
ABOUT = "recordings.json"
SUFFIX = ".flac"
REFRESH_SECONDS = 0.1


def recordings(folder: Path, voices: Sequence[Voice], texts: Sequence[str]) -> list[Path]:
    """Return the files of all texts by the first voice, then by the next; those that lack are made.

    A recording is one channel at 16 kHz and 16 bits, some 30 kB. All cores make them, a voice at a time.

    Raises:
        ValueError: Two texts would have one file, the folder has other recordings, or cannot be written, or eSpeak NG
            is missing.
    """
    names = Counter(map(file_name, texts))
    if same := [text for text in texts if names[file_name(text)] > 1 or file_name(text) == SUFFIX]:
        raise ValueError(
            f"no file could be named after {same[0]!r}: its letters are those of another text, or it has none"
        )
    missing = [voice for voice in voices if not (folder / voice.name).is_dir()]
    try:
        _check(folder, texts, is_complete=not missing)
        if missing:
            _make_all(folder, missing, texts)
    except OSError as error:
        raise ValueError(f"{folder}: recordings cannot be kept there: {error.strerror or error}") from None
    return [folder / voice.name / file_name(text) for voice in voices for text in texts]


def file_name(text: str) -> str:
    """Return the text without what a file's name should not have."""
    return re.sub(r"\W+", "-", text.lower()).strip("-") + SUFFIX


def _check(folder: Path, texts: Sequence[str], *, is_complete: bool) -> None:
    """Write down how the folder's recordings are made, or compare it with how they were."""
    about: dict[str, Any] = {"rate": RATE, "level": LEVEL, "texts": list(texts)}
    if not is_complete:
        with ESpeak() as espeak:
            about["espeak"] = espeak.version
    path = folder / ABOUT
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{uuid4().hex}"
        unfinished.write_text(json.dumps(about, indent=2))
        unfinished.replace(path)
        return
    try:
        found = json.loads(path.read_text())
        different = [key for key, value in about.items() if found[key] != value]
    except (ValueError, TypeError, KeyError):
        different = ["all"]
    if different:
        raise ValueError(
            f"{path}: the recordings there were made otherwise ({', '.join(different)}); name another `folder`, or "
            f"delete {folder}"
        )


def _make_all(folder: Path, voices: Sequence[Voice], texts: Sequence[str]) -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    faults = context.SimpleQueue()
    count, run = min(_num_cores(), len(voices)), uuid4().hex
    workers = [
        context.Process(target=_make, args=(folder, voices[first::count], texts, run, faults), daemon=True)
        for first in range(count)
    ]
    for worker in workers:  # before the bar has a thread, with whose locks they would be forked
        worker.start()
    try:
        with _progress(folder, len(voices), len(texts)) as show:
            while running := [worker.sentinel for worker in workers if worker.is_alive()]:
                wait(running, timeout=REFRESH_SECONDS)
                show(sum((folder / voice.name).is_dir() for voice in voices))
    finally:
        _end(workers)
        for unfinished in folder.glob(f".{run}.*"):
            shutil.rmtree(unfinished, ignore_errors=True)
    if not faults.empty():
        raise ValueError(faults.get())
    if failed := [worker for worker in workers if worker.exitcode]:
        raise ValueError(
            f"{folder}: a process that made recordings ended with status {failed[0].exitcode}; run the command again, "
            "it goes on where it was"
        )


def _end(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@contextmanager
def _progress(folder: Path, num_voices: int, num_texts: int) -> Iterator[Callable[[int], None]]:
    """Show a bar in a terminal, else a line; yield what sets it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"{folder}: {num_voices} voices record {num_texts} sentences, once", file=sys.stderr, flush=True)
        yield lambda _: None
        return
    columns = (TextColumn("recording voices"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=num_voices)
        yield lambda done: bar.update(task, completed=done)


def _make(folder: Path, voices: Sequence[Voice], texts: Sequence[str], run: str, faults: Any) -> None:
    """Record these voices, unless another process has by then; the work of one process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that waits for this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    try:
        for voice in voices:
            if parent is not None and not parent.is_alive():
                return
            if not (folder / voice.name).is_dir():
                _record(folder, voice, texts, run)
    except OSError as error:
        faults.put(f"{folder}: recordings cannot be kept there: {error.strerror or error}")
    except (ValueError, RuntimeError) as error:  # the latter is libsndfile's
        faults.put(f"{folder}: {error}")


def _record(folder: Path, voice: Voice, texts: Sequence[str], run: str) -> None:
    """Write a voice's recordings into a folder, which appears when it is complete."""
    import soundfile

    unfinished = folder / f".{run}.{voice.name}"
    unfinished.mkdir()
    try:
        with ESpeak() as espeak:
            for text in texts:
                spoken = espeak.speak(
                    text,
                    f"{voice.accent}+{voice.variant}",
                    words_a_minute=voice.words_a_minute,
                    pitch=voice.pitch,
                    volume=QUIET_VOLUME,
                )
                soundfile.write(unfinished / file_name(text), as_recorded(spoken), RATE, subtype="PCM_16")
        try:
            unfinished.rename(folder / voice.name)
        except OSError:
            if not (folder / voice.name).is_dir():  # else another process was faster; its folder holds the same
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def as_recorded(spoken_T: NDArray[np.int16]) -> NDArray[np.float64]:
    """Bring speech at 22,050 Hz to 16 kHz and to the level of all recordings.

    The spectrum above 8 kHz is cut off. It begins and ends in silence, so that it may be taken for periodic; and a
    process that needs only NumPy starts at once.
    """
    blocks = -(-len(spoken_T) // 441)  # of 20 ms, which both rates have whole samples in
    assert (SPEECH_RATE, RATE) == (50 * 441, 50 * 320)
    spectrum = np.fft.rfft(spoken_T, blocks * 441)
    samples_T: NDArray[np.float64] = np.fft.irfft(spectrum[: blocks * 160 + 1], blocks * 320)
    samples_T *= min(LEVEL / np.sqrt(np.mean(samples_T**2)), PEAK / np.abs(samples_T).max())
    return samples_T
