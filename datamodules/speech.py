"""Speech that eSpeak NG makes: its library, and voices that sound different.

The library and its data lie in the package `espeakng-loader` (https://github.com/espeak-ng/espeak-ng).

Legend: T samples of sound.
"""

from __future__ import annotations

import ctypes
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

SPEECH_RATE = 22_050  # Hz, of all that eSpeak NG speaks
# of espeak_Initialize, espeak_Synth and espeak_SetParameter in speak_lib.h
SYNCHRONOUS, DO_NOT_EXIT, UTF8, WORDS_A_MINUTE, VOLUME, PITCH = 2, 0x8000, 1, 1, 2, 3
TakeSamples = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)

ACCENTS = ("en", "en-029", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us", "en-us-nyc")
# Of the 104 variants of eSpeak NG 1.52 those whose mean spectra lie at least 2 dB apart, all else equal; the others
# are one of these under another name (`max` is `RicishayMax`), or hard to understand.
SPEAKERS = """
    f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Hugo Jacky Lee Marco
    Mario Michael Mike Nguyen Reed RicishayMax RicishayMax2 Storm Tweaky adam anika announcer antonio aunty belinda
    boris caleb david ed edward grandma gustave ian iven iven3 iven4 john kaukovalta klatt klatt3 klatt4 linda marcelo
    michel miguel mike2 norbert pablo paul pedro quincy rob robosoft2 robosoft4 robosoft5 robosoft6 robosoft7
    robosoft8 sandro shelby steph steph2 travis victor whisper whisperf zac
"""
VARIANTS = tuple(SPEAKERS.split())
WORDS_A_MINUTE_OF_VOICES = range(130, 211, 10)
PITCHES_OF_VOICES = range(30, 71, 5)


@dataclass(frozen=True)
class Voice:
    """Someone who speaks.

    Args:
        accent: One of eSpeak NG's kinds of English.
        variant: The speaker: throat, pitch and breath.
        words_a_minute: How fast.
        pitch: 0 to 100; 50 is the variant's own.
    """

    accent: str
    variant: str
    words_a_minute: int = 175
    pitch: int = 50

    @property
    def name(self) -> str:
        """All that makes the voice, fit for a file's name."""
        return f"{self.accent}+{self.variant}-{self.words_a_minute}-{self.pitch}"


def draw_voices(seed: int) -> list[Voice]:
    """Return one voice for each variant, in an order and with an accent, a rate and a pitch drawn by the seed."""
    draw = np.random.default_rng(seed)
    count = len(VARIANTS)
    order, accents = draw.permutation(count), draw.integers(len(ACCENTS), size=count)
    rates, pitches = draw.choice(WORDS_A_MINUTE_OF_VOICES, count), draw.choice(PITCHES_OF_VOICES, count)
    return [
        Voice(ACCENTS[accent], VARIANTS[variant], int(rate), int(pitch))
        for variant, accent, rate, pitch in zip(order, accents, rates, pitches, strict=True)
    ]


class ESpeak:
    """eSpeak NG, loaded anew: the same sentences in the same order give the same samples, in every process.

    It keeps a state from sentence to sentence (of flutter and breath), which nothing resets but to load it anew. So
    it is a context, and a process has one at a time.

    Raises:
        ValueError: The package is not installed, or its library or data cannot be read.
    """

    def __init__(self) -> None:
        try:
            package = importlib.import_module("espeakng_loader")
        except ModuleNotFoundError:
            raise ValueError(
                "speech is made by eSpeak NG, which is in a package; run: pip install espeakng-loader"
            ) from None
        self.data = Path(package.__file__ or "").parent / "espeak-ng-data"
        try:
            self._library = ctypes.CDLL(package.get_library_path())
        except OSError as error:
            raise ValueError(f"eSpeak NG cannot be loaded: {error}") from None
        self._parts: list[NDArray[np.int16]] = []
        self._take = TakeSamples(self._keep)  # the library does not keep it alive

    def __enter__(self) -> Self:
        self._library.espeak_Initialize(SYNCHRONOUS, 0, str(self.data).encode(), DO_NOT_EXIT)
        if self._library.espeak_SetVoiceByName(ACCENTS[0].encode()) != 0:  # its own status is good nevertheless
            self.__exit__(None, None, None)
            raise ValueError(f"eSpeak NG cannot read {self.data}, perhaps because the path is longer than it allows")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else the time
        self._library.espeak_SetSynthCallback(self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.espeak_Terminate()
        _unload(self._library)

    @property
    def version(self) -> str:
        """Such as 1.52.0."""
        self._library.espeak_Info.restype = ctypes.c_char_p
        found: bytes = self._library.espeak_Info(None)
        return found.decode().split()[0]

    def speak(
        self, text: str, voice: str, *, words_a_minute: int = 175, pitch: int = 50, volume: int = 100
    ) -> NDArray[np.int16]:
        """Return samples of shape (T,) at 22,050 Hz.

        Args:
            text: A sentence.
            voice: An accent, such as `en-us`, or an accent and a variant, such as `en-us+f3`.
            words_a_minute: 80 to 450.
            pitch: 0 to 100; 50 is the voice's own.
            volume: 0 to 200; some variants are clipped from 40 on.

        Raises:
            ValueError: There is no such voice, or the text has nothing to be spoken.
        """
        _, plus, variant = voice.partition("+")
        # a variant that is not there would be left out without a word
        is_there = not plus or (bool(variant) and (self.data / "voices" / "!v" / variant).is_file())
        if not is_there or self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {voice!r}; accents are {', '.join(ACCENTS)}")
        for parameter, value in ((WORDS_A_MINUTE, words_a_minute), (PITCH, pitch), (VOLUME, volume)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._parts.clear()
        content = text.encode() + b"\0"
        status = self._library.espeak_Synth(content, ctypes.c_size_t(len(content)), 0, 0, 0, UTF8, None, None)
        samples_T = np.concatenate([np.empty(0, np.int16), *self._parts])
        if status != 0 or not samples_T.any():
            raise ValueError(f"eSpeak NG says nothing of {text!r}")
        return samples_T

    def _keep(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int) -> int:
        if count > 0:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def _unload(library: ctypes.CDLL) -> None:
    import _ctypes

    if sys.platform == "win32":
        _ctypes.FreeLibrary(library._handle)
    else:
        _ctypes.dlclose(library._handle)
