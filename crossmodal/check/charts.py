"""Small charts as SVG, to stand in a page, or each in a file.

In a page colours are its own: `--c0` to `--c3`, and that of its text. In a file they are the same, by day and by night.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

WIDTH = 460
BAR, GAP, LABEL = 16, 6, 170  # pixels
DAY = {"text": "#1c2128", "quiet": "#5d6673", "card": "#f6f7f9", "c0": "#3b6fd4", "c1": "#d9822b", "c2": "#2e9c72"}
NIGHT = {"text": "#e6e9ee", "quiet": "#9aa4b2", "card": "#1f242b", "c0": "#7aa5f5", "c1": "#f0a55b", "c2": "#5fc79d"}


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


def whiskers(
    values: Mapping[str, Mapping[str, tuple[float, float]]], series: Sequence[str], *, low: float, high: float
) -> str:
    """Draw, as a file, a line for each name: a dot for each of the series, and whiskers of a deviation.

    Args:
        values: By name and series: mean and deviation.
        series: At most three, in the order of the colours.
        low: Where the axis begins; what lies below is drawn there.
        high: Where it ends.
    """
    left, room, step = 220, 480, 24
    bottom = len(values) * step

    def place(value: float) -> float:
        return left + room * (min(max(value, low), high) - low) / (high - low)

    drawn = Markup()
    for tick in np.linspace(low, high, 6).tolist():
        line = (
            '<path class="thin" d="M{0:.1f} 0V{1}"/><text class="n" x="{0:.1f}" y="{2}" text-anchor="{3}">{4:g}</text>'
        )
        drawn += Markup(line).format(place(tick), bottom, bottom + 16, "middle", round(tick, 2))
    for number, (name, of) in enumerate(values.items()):
        y = number * step + step // 2
        drawn += Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(left - 12, y + 4, _short(name, 32))
        for colour, one in enumerate(series):
            mean, deviation = of[one]
            ends = place(mean - deviation), place(mean + deviation)
            dot = '<path class="l{0}" d="M{1:.1f} {2}H{3:.1f}"/><circle class="c{0}" cx="{4:.1f}" cy="{2}" r="4"/>'
            drawn += Markup(dot).format(colour, ends[0], y, ends[1], place(mean))
    x = left
    for colour, one in enumerate(series):
        key = '<circle class="c{}" cx="{}" cy="{}" r="4"/><text x="{}" y="{}">{}</text>'
        drawn += Markup(key).format(colour, x, bottom + 34, x + 10, bottom + 38, one)
        x += 40 + 7 * len(one)
    return standalone(drawn, bottom + 46, width=720)


def standalone(drawn: Markup, height: int, *, width: int) -> str:
    """Return a picture that is a file of its own, legible on a light and on a dark page.

    Args:
        drawn: With the classes `c0` to `c2` (areas), `l0` to `l2` (lines), `n` (quiet text), `small` (text), `box`, and
            of paths `line`, `dashes`, `thin` and `tip`.
        height: In pixels.
        width: In pixels.
    """
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    style = (
        "text{font:12px system-ui,'Segoe UI','DejaVu Sans',sans-serif}text.small{font-size:11px}path{fill:none}"
        f".thin{{opacity:.35}}.dashes{{stroke-dasharray:4 3}}{_rules(DAY)}"
    )
    return f"{head}<style>{style}@media (prefers-color-scheme:dark){{{_rules(NIGHT)}}}</style>{drawn}</svg>\n"


def _rules(colours: Mapping[str, str]) -> str:
    quiet = colours["quiet"]
    areas = "".join(f".c{n}{{fill:{colours[f'c{n}']}}}.l{n}{{stroke:{colours[f'c{n}']}}}" for n in range(3))
    lines = f".line,.dashes,.thin{{stroke:{quiet}}}.tip{{fill:{quiet}}}.box{{fill:{colours['card']};stroke:{quiet}}}"
    return (
        f"text{{fill:{colours['text']}}}text.n{{fill:{quiet}}}{lines}{areas}rect.l0,rect.l1,rect.l2{{stroke-width:1.5}}"
    )


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
