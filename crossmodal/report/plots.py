"""The report's plots, as Vega-Lite says them (Satyanarayan et al. 2017), each with its words for who cannot see it.

Colours are the page's own (`var(--c0)` and so on), so that a plot is right by day, by night and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import commonpath
from typing import Any

from crossmodal.metrics_file import History

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name; nothing is loaded from there
COLOURS = [f"var(--c{number})" for number in range(8)]
LABELLED = 14  # rows and columns of a heat map up to which its cells are labelled
ROW = 26  # pixels
MOST_POINTS = 400  # of a curve; more cannot be told apart in a page, and make it large
CONFIG = {
    "background": "transparent",
    "font": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--quiet)",
        "titleColor": "var(--quiet)",
        "titleFontWeight": "normal",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelLimit": 150,
    },
    "legend": {"labelColor": "var(--text)", "title": None, "orient": "top", "labelLimit": 260, "columns": 3},
    "range": {"category": COLOURS},
}


@dataclass(frozen=True)
class Plot:
    """A plot.

    Args:
        title: Above it.
        alt: What it shows, in words.
        spec: For Vega-Lite, without the configuration that all share.
        header: Of the table that says the same.
        rows: Of that table.
        note: Beneath it.
        is_wide: Whether it has all the page's width.
    """

    title: str
    alt: str
    spec: dict[str, Any]
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    note: str = ""
    is_wide: bool = False


def curves(title: str, histories: Mapping[str, History], names: Iterable[str], *, note: str = "") -> Plot | None:
    """Draw figures over the steps; of several runs each in a colour of its own.

    Args:
        title: Above it.
        histories: By run.
        names: Of the figures, by their full names.
        note: Beneath it.
    """
    values, said, rows = [], [], []
    names = list(names)
    shared = f"{commonpath(names)}/" if len(names) > 1 else ""
    for run, history in histories.items():
        for name in names:
            if not (points := history.get(name)):
                continue
            label = name.removeprefix(shared)
            if len(histories) > 1:
                label = run if len(names) == 1 else f"{run}: {label}"
            values += [{"step": step, "value": value, "name": label} for step, value in thinned(points)]
            best = [min(value for _, value in points), max(value for _, value in points)]
            said.append(f"{label} goes from {shown(points[0][1])} to {shown(points[-1][1])}")
            rows.append([label, *map(shown, (points[0][1], points[-1][1], *best)), f"{points[-1][0]:,}"])
    if not values:
        return None
    spec = {
        "data": {"values": values},
        "mark": {"type": "line", "point": len(values) < 60, "interpolate": "monotone", "tooltip": True},
        "encoding": {
            "x": _number("step", "step", zero=False),
            "y": {**_number("value", None, zero=False)},
            "color": _colour("name", [row[0] for row in rows]),
        },
        "height": 210,
    }
    header = ["figure", "first", "last", "least", "most", "last step"]
    return Plot(title, f"Over {values[-1]['step']:,} steps: {'; '.join(said)}.", spec, header, rows, note)


def intervals(
    title: str, values: Sequence[tuple[str, str, float, float, float]], *, axis: str, note: str = "", bars: bool = True
) -> Plot:
    """Draw a bar for each name and series, with its confidence interval.

    Args:
        title: Above it.
        values: Name, series, value, and the ends of the interval.
        axis: What is drawn, in which unit.
        note: Beneath it.
        bars: Whether there are bars, else dots.
    """
    data = [dict(zip(("name", "series", "value", "low", "high"), one, strict=True)) for one in values]
    series = list(dict.fromkeys(one[1] for one in values))
    order = list(dict.fromkeys(one[0] for one in values))
    y = {"field": "name", "type": "nominal", "title": None, "sort": order}
    offset = {"yOffset": {"field": "series", "sort": series}} if len(series) > 1 else {}
    mark = (
        {"type": "bar", "tooltip": True, "cornerRadius": 2} if bars else {"type": "point", "filled": True, "size": 60}
    )
    ends = {
        "x": {"field": "low", "type": "quantitative"},
        "x2": {"field": "high"},
    }
    spec = {
        "data": {"values": data},
        "height": len(order) * (ROW if len(series) == 1 else 18 * len(series)),
        "encoding": {"y": y, **offset},
        "layer": [
            {
                "mark": mark,
                "encoding": {
                    "x": _number("value", axis, zero=True),
                    "color": _colour("series", series),
                },
            },
            {"mark": {"type": "rule", "color": "var(--text)", "strokeWidth": 1.5}, "encoding": ends},
            {"mark": {"type": "rule", "color": "var(--quiet)"}, "encoding": {"x": {"datum": 0}, "y": None}},
        ],
    }
    said = [f"{name}{f', {of}' if len(series) > 1 else ''}: {shown(value)}" for name, of, value, _, _ in values]
    rows = [[name, of, shown(value), f"{shown(low)} to {shown(high)}"] for name, of, value, low, high in values]
    return Plot(title, f"{axis}. {'; '.join(said)}.", spec, ["", "", axis, "95 % interval"], rows, note)


def lines(
    title: str, values: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, note: str = ""
) -> Plot | None:
    """Draw a line for each name.

    Args:
        title: Above it.
        values: By name its points.
        x: The axis of the first numbers.
        y: The axis of the second.
        note: Beneath it.
    """
    data = [{"x": one, "y": other, "name": name} for name, points in values.items() for one, other in points]
    if not data:
        return None
    spec = {
        "data": {"values": data},
        "mark": {"type": "line", "point": True, "tooltip": True},
        "encoding": {
            "x": _number("x", x, zero=False),
            "y": _number("y", y, zero=False),
            "color": _colour("name", list(values)),
        },
        "height": 230,
    }
    said = [f"{name}: {', '.join(f'{shown(b)} at {shown(a)}' for a, b in points)}" for name, points in values.items()]
    rows = [[name, shown(a), shown(b)] for name, points in values.items() for a, b in points]
    return Plot(title, f"{y} by {x}. {'; '.join(said)}.", spec, ["", x, y], rows, note)


def heat_map(
    title: str,
    values: Sequence[Sequence[float | None]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str,
    column_title: str,
    shade: Sequence[Sequence[float | None]] | None = None,
    note: str = "",
) -> Plot:
    """Draw a matrix; the darker a cell, the more.

    Args:
        title: Above it.
        values: By row and column.
        rows: Their names.
        columns: Their names.
        row_title: What rows are.
        column_title: What columns are.
        shade: How dark each cell is, where it is not by its value.
        note: Beneath it.
    """
    shade = shade or values
    data: list[dict[str, Any]] = [
        {"row": row, "column": column, "value": value, "shade": dark}
        for row, of_row, dark_of_row in zip(rows, values, shade, strict=True)
        for column, value, dark in zip(columns, of_row, dark_of_row, strict=True)
        if value is not None
    ]
    most = max((one["shade"] or 0.0 for one in data), default=1.0) or 1.0
    axes = {
        "x": {"field": "column", "type": "nominal", "sort": None, "title": column_title, "axis": {"labelAngle": -40}},
        "y": {"field": "row", "type": "nominal", "sort": None, "title": row_title},
    }
    cell: dict[str, Any] = {
        "mark": {"type": "rect", "tooltip": True, "color": "var(--c0)", "cornerRadius": 2},
        "encoding": {
            "opacity": {
                "field": "shade",
                "type": "quantitative",
                "scale": {"domain": [0, most], "range": [0.04, 1]},
                "legend": None,
            },
            "tooltip": [
                {"field": "row", "title": row_title},
                {"field": "column", "title": column_title},
                {"field": "value", "title": "value"},
            ],
        },
    }
    layers = [cell]
    if max(len(rows), len(columns)) <= LABELLED:
        is_whole = all(float(one["value"]).is_integer() for one in data)
        dark = f"datum.shade > {0.55 * most}"
        text = {
            "mark": {"type": "text", "fontSize": 11 if len(columns) < 9 else 9},
            "encoding": {
                "text": {"field": "value", "format": "," if is_whole else ".2f", "type": "quantitative"},
                "color": {"condition": {"test": dark, "value": "var(--card)"}, "value": "var(--text)"},
            },
        }
        layers.append(text)
    spec = {
        "data": {"values": data},
        "encoding": axes,
        "layer": layers,
        "height": len(rows) * (ROW if len(rows) < 30 else 9),
    }
    table = [
        [name, *("" if one is None else shown(one) for one in of_row)]
        for name, of_row in zip(rows, values, strict=True)
    ]
    alt = f"A matrix of {row_title} by {column_title}, {len(rows)} by {len(columns)}."
    return Plot(title, alt, spec, [f"{row_title} \\ {column_title}", *columns], table, note)


def diagonal(title: str, confidence: Sequence[float], accuracy: Sequence[float], *, note: str = "") -> Plot:
    """Draw how often answers of some confidence are right, beside the diagonal of who is as sure as right."""
    data = [{"confidence": a, "right": b} for a, b in zip(confidence, accuracy, strict=True)]
    low = min([*confidence, *accuracy, 1.0])
    spec = {
        "layer": [
            {
                "data": {"values": [{"a": low, "b": low}, {"a": 1, "b": 1}]},
                "mark": {"type": "line", "color": "var(--quiet)", "strokeDash": [4, 4], "strokeWidth": 1},
                "encoding": {"x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "quantitative"}},
            },
            {
                "data": {"values": data},
                "mark": {"type": "line", "point": True, "tooltip": True, "color": "var(--c0)"},
                "encoding": {
                    "x": _number("confidence", "confidence", zero=False),
                    "y": _number("right", "share that is right", zero=False),
                },
            },
        ],
        "height": 230,
    }
    rows = [[shown(a), shown(b)] for a, b in zip(confidence, accuracy, strict=True)]
    said = "; ".join(f"{shown(b)} at {shown(a)}" for a, b in zip(confidence, accuracy, strict=True))
    return Plot(
        title, f"Share of answers that are right, by confidence: {said}.", spec, ["confidence", "right"], rows, note
    )


def thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return at most so many points that they can be told apart, the last among them, each the mean of its like."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / MOST_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def shown(value: float) -> str:
    """Return a number as a page shows it."""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1 else f"{value:.4g}"


def _number(name: str, title: str | None, *, zero: bool) -> dict[str, Any]:
    return {"field": name, "type": "quantitative", "title": title, "scale": {"zero": zero, "nice": True}}


def _colour(name: str, order: Sequence[str]) -> dict[str, Any]:
    domain = list(dict.fromkeys(order))
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(domain))]
    legend = {} if len(domain) > 1 else {"legend": None}
    return {"field": name, "type": "nominal", "scale": {"domain": domain, "range": colours}, **legend}
