"""How replicas trained: which rows lay where, who talked to whom, who trained when."""

from __future__ import annotations

import math
from typing import Any

from crossmodal.media import read_media
from crossmodal.report.page import Section
from crossmodal.report.plots import Plot, heat_map
from crossmodal.run_folder import RunFolder

TITLES = {
    "replicas/partition": ("Which rows lie at which node", "Of the training split, by what the partition goes by."),
    "replicas/path": ("Who trained in which round", ""),
    "replicas/segments": ("Which segment a node was in", ""),
}
TOPOLOGY = "replicas/topology"


def replicas(run: RunFolder) -> Section | None:
    """Return what a run tells of its replicas; nothing of one model.

    Args:
        run: Its folder.
    """
    last = {line["name"]: line for line in read_media(run.path) if str(line["name"]).startswith("replicas/")}
    plots = [
        heat_map(
            title,
            last[name]["values"],
            rows=last[name]["rows"],
            columns=last[name]["columns"],
            row_title=last[name]["row_title"],
            column_title=last[name]["column_title"],
            note=note,
        )
        for name, (title, note) in TITLES.items()
        if name in last
    ]
    if TOPOLOGY in last:
        plots.append(graph("Who talks to whom", last[TOPOLOGY]["rows"], last[TOPOLOGY]["values"]))
    return Section("Replicas", plots=plots) if plots else None


def graph(title: str, names: list[str], weights: list[list[float]]) -> Plot:
    """Draw a graph of nodes in a circle.

    Args:
        title: Above it.
        names: Of the nodes.
        weights: Of each to each; above 0 where there is an edge.
    """
    places = [
        (math.sin(2 * math.pi * number / len(names)), math.cos(2 * math.pi * number / len(names)))
        for number in range(len(names))
    ]
    edges: list[dict[str, Any]] = [
        {"x": places[i][0], "y": places[i][1], "x2": places[j][0], "y2": places[j][1], "weight": weights[i][j]}
        for i in range(len(names))
        for j in range(i)
        if weights[i][j] > 0
    ]
    nodes: list[dict[str, Any]] = [{"x": x, "y": y, "name": name} for (x, y), name in zip(places, names, strict=True)]
    axis = {"axis": None, "scale": {"domain": [-1.3, 1.3]}, "type": "quantitative"}
    x, y = {"field": "x", **axis}, {"field": "y", **axis}
    spec = {
        "height": 300,
        "layer": [
            {
                "data": {"values": edges},
                "mark": {"type": "rule", "color": "var(--quiet)"},
                "encoding": {
                    "x": x,
                    "y": y,
                    "x2": {"field": "x2"},
                    "y2": {"field": "y2"},
                    "strokeWidth": {
                        "field": "weight",
                        "type": "quantitative",
                        "legend": None,
                        "scale": {"range": [1, 4]},
                    },
                },
            },
            {
                "data": {"values": nodes},
                "mark": {"type": "circle", "size": 160, "color": "var(--c0)", "opacity": 1, "tooltip": True},
                "encoding": {"x": x, "y": y, "tooltip": {"field": "name", "type": "nominal"}},
            },
            {
                "data": {"values": [{**one, "x": 1.17 * one["x"], "y": 1.17 * one["y"]} for one in nodes]},
                "mark": {"type": "text", "color": "var(--text)"},
                "encoding": {"x": x, "y": y, "text": {"field": "name", "type": "nominal"}},
            },
        ],
    }
    told = f"{len(names)} nodes and {len(edges)} edges"
    pairs = [[f"{names[i]}, {names[j]}", f"{weights[i][j]:.3f}"] for i in range(len(names)) for j in range(i)]
    rows = [pair for pair in pairs if pair[1] != "0.000"]
    return Plot(title, f"A graph of {told}.", spec, ["edge", "weight"], rows)
