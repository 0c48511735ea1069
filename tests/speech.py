"""Speaks through eSpeak NG: real sound for tests."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile
from numpy.typing import NDArray

SYNCHRONOUS, UTF8, END_PAUSE = 2, 1, 0x1000
Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@cache
def _library() -> tuple[ctypes.CDLL, int]:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(SYNCHRONOUS, 0, str(espeakng_loader.get_data_path()).encode(), 0)
    assert rate > 0
    return library, rate


def speak(text: str, voice: str = "en-us", *, words_a_minute: int = 175) -> tuple[NDArray[np.int16], int]:
    """Return samples of shape (T,) and their rate in Hz."""
    library, rate = _library()
    parts: list[NDArray[np.int16]] = []

    @Callback
    def take(samples: object, count: int, _events: object) -> int:
        if count > 0:
            parts.append(np.ctypeslib.as_array(samples, (count,)).copy())  # type: ignore[call-overload]
        return 0

    library.espeak_SetSynthCallback(take)
    assert library.espeak_SetVoiceByName(voice.encode()) == 0, voice
    library.espeak_SetParameter(1, words_a_minute, 0)
    content = text.encode() + b"\0"
    assert library.espeak_Synth(content, len(content), 0, 0, 0, UTF8, None, None) == 0
    return np.concatenate(parts), rate


def speak_to(path: Path, text: str, voice: str = "en-us", *, words_a_minute: int = 175) -> Path:
    """Write a sound file."""
    samples, rate = speak(text, voice, words_a_minute=words_a_minute)
    soundfile.write(path, samples, rate)
    return path
