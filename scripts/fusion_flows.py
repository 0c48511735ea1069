"""Who attends to whom in each fusion, with its defaults, as a drawing of boxes and arrows."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from crossmodal.check.charts import standalone

COLUMN, ROW = 142, 64  # pixels from box to box
BOX_WIDTH, BOX_HEIGHT = 114, 42
EDGE = 4


@dataclass(frozen=True)
class Box:
    """A step of the way.

    Args:
        column: 0 to 5.
        row: 0 to 2.
        text: Its lines.
        kind: `image`, `question`, `slots` or `step`.
    """

    column: int
    row: float
    text: str
    kind: str = "step"


KINDS = {"image": "l0", "question": "l1", "slots": "l2", "step": ""}
INPUTS = {
    "image": Box(0, 0, "image\ntokens", "image"),
    "question": Box(0, 2, "question\ntokens", "question"),
}
MEANS = {**INPUTS, "image mean": Box(1, 0, "mean"), "question mean": Box(1, 2, "mean")}
TO_MEANS = ["image > image mean", "question > question mean"]

FLOWS: dict[str, tuple[dict[str, Box], list[str]]] = {
    "mean": (
        {**MEANS, "both": Box(2, 1, "mean of the\nmodalities"), "out": Box(3, 1, "1 token", "slots")},
        [*TO_MEANS, "image mean > both", "question mean > both", "both > out"],
    ),
    "concat": (
        {
            **MEANS,
            "both": Box(2, 1, "side by side"),
            "network": Box(3, 1, "two layers"),
            "out": Box(4, 1, "1 token", "slots"),
        },
        [*TO_MEANS, "image mean > both", "question mean > both", "both > network", "network > out"],
    ),
    "gated": (
        {
            **MEANS,
            "image feature": Box(2, 0, "features\n(tanh)"),
            "gates": Box(2, 1, "gates that\nsee all means"),
            "question feature": Box(2, 2, "features\n(tanh)"),
            "sum": Box(3, 1, "sum, each\nchannel weighed"),
            "out": Box(4, 1, "1 token", "slots"),
        },
        [
            *(*TO_MEANS, "image mean > image feature", "question mean > question feature"),
            *("image mean > gates", "question mean > gates", "gates > sum"),
            *("image feature > sum", "question feature > sum", "sum > out"),
        ],
    ),
    "low-rank": (
        {
            **MEANS,
            "image factor": Box(2, 0, "4 linear maps"),
            "question factor": Box(2, 2, "4 linear maps"),
            "product": Box(3, 1, "products,\nchannel by\nchannel"),
            "sum": Box(4, 1, "sum of the 4"),
            "out": Box(5, 1, "1 token", "slots"),
        },
        [
            *(*TO_MEANS, "image mean > image factor", "question mean > question factor"),
            *("image factor > product", "question factor > product", "product > sum", "sum > out"),
        ],
    ),
    "hierarchical": (
        {
            **INPUTS,
            "image summary": Box(1, 0.5, "summary: mean\nthat attends"),
            "question summary": Box(1, 1.5, "summary: mean\nthat attends"),
            "pair": Box(2, 1, "pair (tanh)"),
            "read": Box(3, 1, "attends to the\ntokens of both"),
            "all": Box(4, 1, "all pairs (tanh)\nattends to all"),
            "out": Box(5, 1, "1 token", "slots"),
        },
        [
            *("image > image summary", "question > question summary", "image summary > pair"),
            *("question summary > pair", "pair > read", "read > all", "all > out"),
            *("image ~ read", "question ~ read", "image ~ all", "question ~ all"),
        ],
    ),
    "bottleneck": (
        {
            **INPUTS,
            "slots": Box(0, 1, "4 slots", "slots"),
            "image 1": Box(1, 0, "image and slots\nattend (layer 1)"),
            "question 1": Box(1, 2, "question and slots\nattend (layer 1)"),
            "mean 1": Box(2, 1, "slots: mean of\nboth versions", "slots"),
            "image 2": Box(3, 0, "layer 2"),
            "question 2": Box(3, 2, "layer 2"),
            "mean 2": Box(4, 1, "slots: mean of\nboth versions", "slots"),
            "out": Box(5, 1, "4 tokens", "slots"),
        },
        [
            *("image > image 1", "question > question 1", "slots > image 1", "slots > question 1"),
            *("image 1 > mean 1", "question 1 > mean 1", "image 1 > image 2", "question 1 > question 2"),
            *("mean 1 > image 2", "mean 1 > question 2", "image 2 > mean 2", "question 2 > mean 2", "mean 2 > out"),
        ],
    ),
    "mixture of experts": (
        {
            **INPUTS,
            "slots": Box(0, 1, "4 slots", "slots"),
            "attend 1": Box(1, 1, "all attend\nto all"),
            "experts 1": Box(2, 1, "1 of 4 feed-\nforwards a token"),
            "attend 2": Box(3, 1, "all attend\nto all"),
            "experts 2": Box(4, 1, "1 of 4 feed-\nforwards a token"),
            "out": Box(5, 1, "the 4 slots", "slots"),
        },
        [
            *("image > attend 1", "question > attend 1", "slots > attend 1", "attend 1 > experts 1"),
            *("experts 1 > attend 2", "attend 2 > experts 2", "experts 2 > out"),
        ],
    ),
    "perceiver": (
        {
            **INPUTS,
            "latents": Box(0, 1, "8 latents", "slots"),
            "read 1": Box(1, 1, "latents attend\nto all tokens", "slots"),
            "self 1": Box(2, 1, "latents attend\nto each other", "slots"),
            "read 2": Box(3, 1, "latents attend\nto all tokens", "slots"),
            "self 2": Box(4, 1, "latents attend\nto each other", "slots"),
            "out": Box(5, 1, "8 tokens", "slots"),
        },
        [
            *("image > read 1", "question > read 1", "latents > read 1", "read 1 > self 1", "self 1 > read 2"),
            *("image ~ read 2", "question ~ read 2", "read 2 > self 2", "self 2 > out"),
        ],
    ),
    "workspace": (
        {
            **INPUTS,
            "slots": Box(0, 1, "4 slots", "slots"),
            "write 1": Box(1, 1, "the best 4 tokens\nof a head write", "slots"),
            "image told": Box(2, 0, "tokens attend\nto the slots", "image"),
            "question told": Box(2, 2, "tokens attend\nto the slots", "question"),
            "write 2": Box(3, 1, "the best 4 tokens\nof a head write", "slots"),
            "out": Box(4, 1, "4 tokens", "slots"),
        },
        [
            *("image > write 1", "question > write 1", "slots > write 1", "write 1 > image told"),
            *("write 1 > question told", "image > image told", "question > question told", "write 1 > write 2"),
            *("image told > write 2", "question told > write 2", "write 2 > out"),
        ],
    ),
    "associative": (
        {
            **INPUTS,
            "slots": Box(0, 1, "4 priors,\n32 numbers each", "slots"),
            "write 1": Box(1, 1, "the best 4 tokens\nof a head write", "slots"),
            "image told": Box(2, 0, "tokens retrieve\n(Hopfield)", "image"),
            "question told": Box(2, 2, "tokens retrieve\n(Hopfield)", "question"),
            "write 2": Box(3, 1, "written again", "slots"),
            "more": Box(4, 1, "retrieved and\nwritten once more", "slots"),
            "out": Box(5, 1, "4 tokens", "slots"),
        },
        [
            *("image > write 1", "question > write 1", "slots > write 1", "write 1 > image told"),
            *("write 1 > question told", "image > image told", "question > question told", "write 1 > write 2"),
            *("image told > write 2", "question told > write 2", "write 2 > more", "more > out"),
            *("image told ~ more", "question told ~ more"),
        ],
    ),
}


def draw_flow(name: str) -> str:
    """Return a fusion's flow as SVG; `~` in an arrow is a long one, drawn thin."""
    boxes, arrows = FLOWS[name]
    drawn = Markup(
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    drawn += Markup().join(_arrow(boxes, arrow) for arrow in arrows)
    drawn += Markup().join(_box(box) for box in boxes.values())
    columns = max(box.column for box in boxes.values())
    return standalone(drawn, 2 * ROW + BOX_HEIGHT + 2 * EDGE, width=columns * COLUMN + BOX_WIDTH + 2 * EDGE)


def _corner(box: Box) -> tuple[float, float]:
    return EDGE + box.column * COLUMN, EDGE + box.row * ROW


def _box(box: Box) -> Markup:
    x, y = _corner(box)
    drawn = Markup('<rect class="box {}" x="{}" y="{}" width="{}" height="{}" rx="6"/>').format(
        KINDS[box.kind], x, y, BOX_WIDTH, BOX_HEIGHT
    )
    lines = box.text.split("\n")
    for number, line in enumerate(lines):
        down = y + BOX_HEIGHT / 2 + 4 + 13 * (number - (len(lines) - 1) / 2)
        drawn += Markup('<text class="small" x="{}" y="{:.0f}" text-anchor="middle">{}</text>').format(
            x + BOX_WIDTH / 2, down, line
        )
    return drawn


def _arrow(boxes: dict[str, Box], arrow: str) -> Markup:
    is_long = " ~ " in arrow
    start, end = (boxes[name] for name in arrow.split(" ~ " if is_long else " > "))
    (from_x, from_y), (to_x, to_y) = _corner(start), _corner(end)
    from_x, from_y, to_y = from_x + BOX_WIDTH, from_y + BOX_HEIGHT / 2, to_y + BOX_HEIGHT / 2
    if is_long:  # along the edge of the picture, then in from above or below
        to_x, to_y = to_x + BOX_WIDTH / 2, to_y + (-1 if start.row < end.row else 1) * BOX_HEIGHT / 2
        path = f"M{from_x} {from_y}H{to_x - 14}Q{to_x} {from_y} {to_x} {from_y + (14 if to_y > from_y else -14)}V{to_y}"
    else:
        path = f"M{from_x} {from_y}L{to_x} {to_y}"
    return Markup('<path class="{}" d="{}" marker-end="url(#a)"/>').format("dashes" if is_long else "line", path)
