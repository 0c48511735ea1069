"""Speaks into files: real sound for tests."""

from __future__ import annotations

from pathlib import Path

import soundfile

from datamodules.speech import SPEECH_RATE, ESpeak


def speak_to(path: Path, text: str, voice: str = "en-us", *, words_a_minute: int = 175) -> Path:
    """Write a sound file."""
    with ESpeak() as espeak:
        soundfile.write(path, espeak.speak(text, voice, words_a_minute=words_a_minute), SPEECH_RATE)
    return path
