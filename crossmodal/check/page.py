"""What a check of the data found, as one page that needs no network and no JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from crossmodal.check.charts import bars, histogram
from crossmodal.check.report import TOP_CLASSES, combinations, verdict
from crossmodal.shown_inputs import shown
from datamodules.checking import DataCheck

SAMPLES = 12  # of each split
LISTED = 20  # rows of each kind of fault

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ f.experiment }}: data check</title>
<style>
:root { --back: #fff; --card: #f6f7f9; --line: #dcdfe4; --text: #1c2128; --quiet: #5d6673; --bad: #b3261e;
  --warn: #8a5a00; --good: #1a7340; --c0: #3b6fd4; --c1: #d9822b; --c2: #2e9c72; --c3: #9359b8; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15181d; --card: #1f242b; --line: #363d47; --text: #e6e9ee; --quiet: #9aa4b2; --bad: #ff8a80;
    --warn: #f0b64f; --good: #67d391; --c0: #7aa5f5; --c1: #f0a55b; --c2: #5fc79d; --c3: #c092e0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1080px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .8rem; }
h3 { font-size: .95rem; margin: 0 0 .6rem; } p { margin: .3rem 0; }
.quiet { color: var(--quiet); } .bad { color: var(--bad); } .warn { color: var(--warn); } .good { color: var(--good); }
.verdict { font-size: 1.1rem; font-weight: 600; }
table { border-collapse: collapse; } details table { width: 100%;
  min-width: 640px; table-layout: fixed; }
th, td { padding: .35rem 1.2rem .35rem 0; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--quiet); font-weight: 600; font-size: .85rem; } tr + tr td { border-top: 1px solid var(--line); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; overflow-wrap: normal; }
td.w { white-space: nowrap; }
details { margin: 0 0 .6rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
summary { cursor: pointer; padding: .6rem 1rem; font-weight: 600; }
details > div { padding: 0 1rem .6rem; overflow-x: auto; }
details table { font-size: .88rem; } summary .n { float: right; font-weight: 400; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(380px, 1fr)); gap: 1rem;
  align-items: start; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; min-width: 0; }
svg { max-width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--text); }
svg text.n { fill: var(--quiet); }
.c0 { fill: var(--c0); background: var(--c0); } .c1 { fill: var(--c1); background: var(--c1); }
.c2 { fill: var(--c2); background: var(--c2); } .c3 { fill: var(--c3); background: var(--c3); }
.key i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .35em 0 1em; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: .8rem;
  align-items: start; }
.samples .card { padding: .6rem; font-size: .85rem; overflow-wrap: anywhere; }
.samples img { display: block; max-width: 100%; margin: 0 0 .4rem; border-radius: 4px; image-rendering: auto; }
.samples .target { font-weight: 600; margin-top: .4rem; } .samples .name { font-size: .75rem; }
dl { margin: 0; display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; } dd { margin: 0; }
dt { color: var(--quiet); }
</style>
</head>
<body>
<h1>{{ f.experiment }}</h1>
<p class="verdict {{ 'bad' if f.faults else 'good' }}">
{{- verdict|capitalize }}</p>
<p class="quiet">{{ "{:,}".format(f.inputs) }} inputs were read and transformed in {{ "%.1f"|format(f.seconds) }} s,
{{ "{:,.0f}".format(f.inputs_per_second) }} a second.</p>

{% if f.faults %}<h2>Faults</h2>
{% for kind, of in f.faults.items() %}<details{{ " open" if loop.index <= 5 }}>
<summary><span class="{{ 'bad' if of.stops_training else 'warn' }}">{{ kind }}</span>
<span class="n quiet">
{%- if of.rows or not of.of_no_row %}{{ "{:,}".format(of.rows) }} row{{ "s" if of.rows != 1 }}
{%- else %}of no row{% endif %}
{%- if of.inputs %}, {{ "{:,}".format(of.inputs) }} input{{ "s" if of.inputs != 1 }}{% endif %};
{{ "stops training" if of.stops_training else "training goes on" }}</span></summary>
<div><table><colgroup><col style="width: 8%"><col style="width: 18%"><col style="width: 13%"><col style="width: 28%">
<col></colgroup><tr><th>split</th><th>row</th><th>column</th><th>value</th><th>cause</th></tr>
{% for one in of.listed[:listed] %}<tr><td>{{ one.split }}</td><td>{{ one.row }}</td><td>{{ one.column }}</td>
<td>{{ one.value }}</td><td>{{ one.cause }}</td></tr>
{% endfor %}</table>
{% if of.rows > listed %}<p class="quiet">and {{ "{:,}".format(of.rows - listed) }} more: see check.json</p>{% endif %}
</div></details>
{% endfor %}{% endif %}

<h2>Splits</h2>
<table><tr><th>split</th><th class="n">rows</th><th class="n">usable</th></tr>
{% for split, of in f.splits.items() %}<tr><td>{{ split }}</td><td class="n">{{ "{:,}".format(of.rows) }}</td>
<td class="n">{{ "{:,}".format(of.usable) }}</td></tr>
{% endfor %}</table>
<p class="quiet">Counts below are of usable rows.</p>

<h2>What there is</h2>
<p class="key quiet">{% for split in f.splits %}<i class="c{{ loop.index0 }}"></i>{{ split }}{% endfor %}</p>
<div class="charts">
{% for title, chart in charts if chart %}<div class="card"><h3>{{ title }}</h3>{{ chart }}</div>
{% endfor %}</div>

<h2>Sizes of inputs</h2>
<table><tr><th>input</th><th></th><th class="n">least</th><th class="n">median</th><th class="n">most</th></tr>
{% for modality, sizes in f.sizes.items() %}{% for name, of in sizes.items() %}<tr><td>{{ modality }}</td>
<td>{{ name }}</td>{% for key in ("min", "median", "max") %}<td class="n">{{ "{:,.10g}".format(of[key]) }}</td>
{% endfor %}</tr>
{% endfor %}{% endfor %}</table>

{% for split, samples in samples.items() %}<h2>Samples: {{ split }}</h2>
<div class="samples">
{% for row, shown, targets in samples %}<div class="card">
{% for modality, html in shown %}{{ html }}
{% endfor %}{% for task, target in targets.items() %}<p class="target">
{%- if targets|length > 1 %}<span class="quiet">{{ task }}</span> {% endif %}{{ target }}</p>
{% endfor %}<p class="name quiet">{{ row }}</p></div>
{% endfor %}</div>
{% endfor %}
</body>
</html>
"""


def render(figures: dict[str, Any], check: DataCheck) -> str:
    """Return the page.

    Args:
        figures: As `report.figures_of` gives them.
        check: Gives samples, and the sizes of all inputs.
    """
    samples = {
        split: [
            (one.row, [(name, shown(name, raw)) for name, raw in one.inputs.items()], one.targets)
            for one in check.samples(split, SAMPLES)
        ]
        for split in check.rows
    }
    page = Environment(autoescape=True, trim_blocks=False).from_string(PAGE)
    return page.render(
        f=figures, verdict=verdict(figures), listed=LISTED, charts=list(_charts(figures, check)), samples=samples
    )


def _charts(figures: dict[str, Any], check: DataCheck) -> Iterator[tuple[str, Markup | None]]:
    splits = list(figures["splits"])
    for task, classes in figures["classes"].items():
        ordered = sorted(classes.items(), key=lambda item: -sum(item[1].values()))
        more = f", the {TOP_CLASSES} most frequent of {len(ordered):,}" if len(ordered) > TOP_CLASSES else ""
        yield f"{task}: rows of each class{more}", bars(dict(ordered[:TOP_CLASSES]), splits)
    for task, names in check.data.outputs.items():
        if task not in figures["classes"]:
            for number, name in enumerate(names):
                yield name if name == task else f"{task}: {name}", _quantities(check, task, number)
    having = {
        modality: {
            split: sum(one["rows"] for one in figures["presence"][split] if modality in one["modalities"])
            for split in splits
        }
        for modality in check.data.base_transforms
    }
    yield "rows that have each modality", bars(having, splits)
    if len(found := combinations(figures)) > 1:
        yield "rows that have just these", bars(dict(list(found.items())[:TOP_CLASSES]), splits)
    for modality, sizes in check.sizes.items():
        for name, values in sizes.values().items():
            yield f"{modality}: {name}", histogram(values)


def _quantities(check: DataCheck, task: str, number: int) -> Markup | None:
    """Draw one of the numbers that are to be predicted, of usable rows of all splits."""
    values = [
        rows.targets[task].numpy()[check.usable(split), number]
        for split, rows in check.rows.items()
        if task in rows.targets and rows.targets[task].ndim == 2
    ]
    return histogram(np.concatenate(values)) if sum(map(len, values)) else None
