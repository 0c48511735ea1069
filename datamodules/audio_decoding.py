"""From the bytes of a file to sound; whatever is wrong with them is an InputError.

Legend: T samples of sound, C channels.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.decoding import MAX_BYTES, require_finite
from datamodules.faults import InputError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
UNKNOWN_LENGTH = 2**31 - 2**12  # and more is what programs write that stream sound into a pipe
NO_COUNT = 2**63 - 1  # of samples, in a FLAC file that was streamed
# libsndfile's log of a file whose samples should take more bytes than there are
CUT_SHORT = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)


class _Content(io.BytesIO):
    """Bytes in which libsndfile may go anywhere, as it does after a wrong header; an error there would be printed."""

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go somewhere, or stay where there is no such place."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def decode_audio(content: bytes) -> tuple[NDArray[np.float32], int]:
    """Return samples of shape (T, C), -1 to 1, and their rate in Hz.

    Raises:
        InputError: It cannot be decoded, has no samples, or some that are no numbers.
    """
    import soundfile

    try:
        with soundfile.SoundFile(_Content(content)) as file:
            frames, channels, rate, log = file.frames, file.channels, file.samplerate, file.extra_info
            if frames == NO_COUNT:
                raise InputError("undecodable", "does not say how many samples it has; convert it to a file that does")
            if 4 * frames * channels > MAX_BYTES:
                raise InputError("too large", f"has {frames:,} samples in {channels} channels")
            samples = _read_samples(file)
    except soundfile.LibsndfileError as error:
        raise InputError("undecodable", error.error_string.strip().rstrip(".")) from error
    if len(samples) == 0:
        raise InputError("zero-length audio", "has no samples")
    if (cut := CUT_SHORT.search(log)) and (claimed := int(cut[1])) < UNKNOWN_LENGTH:
        frames = max(frames, frames * claimed // max(1, int(cut[2])))
    if len(samples) < frames:
        raise InputError("truncated", f"has {len(samples):,} of {frames:,} samples")
    require_finite(samples)
    return samples, rate


def num_samples(path: Path) -> int:
    """Return how long a sound is, by its file's header; 0 if that cannot be read, which decoding then tells."""
    import soundfile

    try:
        return int(soundfile.info(str(path)).frames)
    except (soundfile.LibsndfileError, OSError):
        return 0


def _read_samples(file: Any) -> NDArray[np.float32]:
    import soundfile

    try:
        samples: NDArray[np.float32] = file.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise InputError(
            "truncated", f"ends early, or is damaged ({error.error_string.strip().rstrip('.')})"
        ) from error
    return samples
