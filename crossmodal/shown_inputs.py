"""Raw inputs as a page shows them, in itself: pictures small, sounds drawn and to be played, texts to be read."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import soundfile
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from crossmodal.check.charts import waveform

THUMBNAIL = 144  # pixels
MOST_ITEMS = 4  # that are shown of a sequence
MOST_CHARACTERS = 300
MOST_SECONDS = 10.0  # that are played
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def shown(modality: str, raw: Any, *, plays: bool = False) -> Markup:
    """Return a raw input as HTML.

    Args:
        modality: Its name.
        raw: As the data has it; None where a row lacks it.
        plays: Whether sounds can be played.
    """
    match raw:
        case None:
            return Markup('<p class="quiet">no {}</p>').format(modality)
        case Image.Image():
            return Markup('<img alt="{}" src="{}">').format(modality, _thumbnail(raw))
        case str():
            text = raw if len(raw) <= MOST_CHARACTERS else f"{raw[:MOST_CHARACTERS]}…"
            return Markup("<p>{}</p>").format(text)
        case (np.ndarray() as samples_TC, int() | np.integer() as rate):
            drawn = waveform(samples_TC.reshape(len(samples_TC), -1).mean(1))
            player = _player(samples_TC, int(rate)) if plays else ""
            return Markup("{}{}<p class='quiet'>{:.2f} s, {:,} Hz</p>").format(
                drawn, player, len(samples_TC) / rate, int(rate)
            )
        case np.ndarray():
            return Markup("<p class='quiet'>{} {}</p>").format(modality, " x ".join(map(str, raw.shape)))
        case dict():
            cells = (
                Markup("<dt>{}</dt><dd>{}</dd>").format(key, "" if value is None else _cell(value))
                for key, value in raw.items()
            )
            return Markup("<dl>{}</dl>").format(Markup().join(cells))
        case list() | tuple():
            items = Markup().join(shown(modality, item, plays=plays) for item in raw[:MOST_ITEMS])
            more = Markup("<p class='quiet'>and {} more</p>").format(len(raw) - MOST_ITEMS)
            return items + more if len(raw) > MOST_ITEMS else items
    return Markup("<p class='quiet'>{}: {}</p>").format(modality, type(raw).__name__)


def _cell(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _thumbnail(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _player(samples_TC: NDArray[np.float32], rate: int) -> Markup:
    stream = io.BytesIO()
    kind = "MP3" if rate in MP3_RATES else "WAV"
    mono_T = samples_TC.reshape(len(samples_TC), -1).mean(1)[: int(MOST_SECONDS * rate)]
    soundfile.write(stream, mono_T, rate, format=kind)
    address = f"data:audio/{'mpeg' if kind == 'MP3' else 'wav'};base64,{base64.b64encode(stream.getvalue()).decode()}"
    return Markup('<audio controls preload="metadata" src="{}"></audio>').format(address)
