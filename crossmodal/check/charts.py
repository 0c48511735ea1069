"""Small charts as SVG, to stand in a page. Colours are the page's own: `--c0` to `--c3`, and that of its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

WIDTH = 460
BAR, GAP, LABEL = 16, 6, 170  # pixels


def bars(counts: Mapping[str, Mapping[str, int]], series: Sequence[str]) -> Markup:
    """Draw a bar for each name, made of a part for each of the series.

    Args:
        counts: By name and series.
        series: At most four, in the order of the colours.
    """
    longest = max((sum(of.values()) for of in counts.values()), default=0) or 1
    room = WIDTH - LABEL - 60
    drawn = Markup()
    for place, (name, of) in enumerate(counts.items()):
        top, left = place * (BAR + GAP), float(LABEL)
        drawn += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(LABEL - 8, top + 12, _short(name))
        for number, one in enumerate(series):
            width = room * of.get(one, 0) / longest
            drawn += Markup('<rect class="c{}" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
                number, left, top, width, BAR
            )
            left += width
        drawn += Markup('<text class="n" x="{:.1f}" y="{}">{:,}</text>').format(left + 6, top + 12, sum(of.values()))
    return _svg(drawn, len(counts) * (BAR + GAP))


def histogram(values: NDArray[np.float32], *, bins: int = 30) -> Markup | None:
    """Draw how often values are how large; nothing where all are the same."""
    height = 90
    low, high = float(values.min()), float(values.max())
    if low == high:
        return None
    whole = bool((values == np.round(values)).all()) and high - low < bins
    edges = np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high, bins + 1)
    counts, _ = np.histogram(values, edges)
    step = WIDTH / len(counts)
    drawn = Markup()
    for place, count in enumerate(counts.tolist()):
        tall = max(1.0, height * count / counts.max()) if count else 0.0
        drawn += Markup('<rect class="c0" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            place * step, height - tall, max(1.0, step - 2), tall
        )
    for x, anchor, value in ((0, "start", low), (WIDTH, "end", high)):
        drawn += Markup('<text x="{:.0f}" y="{}" text-anchor="{}">{:,.4g}</text>').format(x, height + 16, anchor, value)
    return _svg(drawn, height + 22)


def waveform(samples: NDArray[np.float32], *, points: int = 80) -> Markup:
    """Draw how loud a sound is over its time.

    Args:
        samples: Shape (samples,).
        points: Bars to draw.
    """
    parts = np.array_split(np.abs(samples), min(points, len(samples)))
    peaks = np.array([part.max() for part in parts])
    peaks = peaks / (peaks.max() or 1)
    drawn = Markup()
    for place, peak in enumerate(peaks.tolist()):
        tall = max(1.0, 44 * peak)
        drawn += Markup('<rect class="c0" x="{}" y="{:.1f}" width="1.4" height="{:.1f}"/>').format(
            place * 2, 24 - tall / 2, tall
        )
    return _svg(drawn, 48, width=2 * points)


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _svg(drawn: Markup, height: int, *, width: int = WIDTH) -> Markup:
    return Markup('<svg viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img">{2}</svg>').format(
        width, height, drawn
    )
