"""The page about a sweep, from its `sweep.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crossmodal.report.page import Page, Section
from crossmodal.report.plots import lines, shown
from crossmodal.report.sweep_plots import Axis, Tried, bars, parallel_coordinates, slice_plot
from crossmodal.report.training import repeating
from crossmodal.run_folder import RunFolder
from crossmodal.sweep.search import SUMMARY, short_names, written

MOST_ROWS = 50
MOST_SLICES = 12
CLASS = re.compile(r"([a-z_]\w*\.)+[A-Z]\w*")  # with its module


def report(folder: Path) -> Page:
    """Return the page about a sweep.

    Args:
        folder: Of the sweep, with `sweep.json`.

    Raises:
        ValueError: The file is damaged, or has no trial.
    """
    path = folder / SUMMARY
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not found["trials"]:
            raise ValueError("it has no trial")
        return _page(folder, found)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: is not as `crossmodal sweep` wrote it ({error!r}); the same sweep command writes it anew"
        ) from error


def _page(folder: Path, found: Mapping[str, Any]) -> Page:
    metric, trials = str(found["metric"]), found["trials"]
    sign = 1.0 if found["goal"] == "maximize" else -1.0
    tried = [
        Tried(one["number"], one["value"], one["state"] == "complete", one["settings"])
        for one in trials
        if one["value"] is not None
    ]
    tried.sort(key=lambda one: (one.is_complete, sign * one.value))
    best = next((one for one in tried if one.number == found["best"]), None)
    states = [one["state"] for one in trials]
    counts = [(state, states.count(state)) for state in ("complete", "pruned", "failed", "running")]
    words = {"complete": "trained to the end", "pruned": "stopped early", "failed": "failed", "running": "not done"}
    headline = [(words[state], f"{count:,}") for state, count in counts if count]
    seconds = sum(one["seconds"] or 0.0 for one in trials)
    subtitle = f"{len(trials):,} trials in {seconds / 60:,.1f} min, to {found['goal']} {metric}"
    sections = []
    if best is not None:
        headline = [(metric, shown(best.value)), ("best trial", str(best.number)), *headline]
        sections = [
            _settings(found, tried, best),
            _progress(tried, metric, sign),
        ]
    sections += [_trials(trials, sign), _commands(folder, found["name"], best)]
    return Page(str(found["name"]), subtitle, headline, sections)


def _axes(parameters: Mapping[str, Mapping[str, Any]], importance: Mapping[str, float]) -> list[Axis]:
    """Return the keys as axes, what matters most first."""
    axes = []
    names = short_names(parameters)
    for key in sorted(parameters, key=lambda key: -importance.get(key, 0.0)):
        one, title = parameters[key], names[key]
        if "values" in one:
            # as a trial's settings have them, so that a class is one, too
            axes.append(Axis(title, key, list(_short(one["values"]).values())))
        else:
            axes.append(Axis(title, key, (), one["low"], one["high"], bool(one["log"])))
    return axes


def _settings(found: Mapping[str, Any], tried: Sequence[Tried], best: Tried) -> Section:
    axes = _axes(found["parameters"], found["importance"])
    metric = str(found["metric"])
    values = [one.value for one in tried]
    last = Axis(metric, None, (), min(values), max(values))
    as_texts = [
        Tried(one.number, one.value, one.is_complete, _as_texts(one.settings, found["parameters"])) for one in tried
    ]
    the_best = next(one for one in as_texts if one.number == best.number)
    plots = [
        parallel_coordinates(
            as_texts,
            [*axes, last],
            the_best,
            note="A line for each trial; the better, the darker. Those stopped early end at what they had come to.",
        )
    ]
    texts = []
    if not found["importance"]:
        texts.append("Which settings matter is told from 10 trials on that were trained to the end.")
    else:
        names = short_names(found["parameters"])
        shares = {names[key]: value for key, value in found["importance"].items()}
        plots.append(
            bars(
                "Which settings matter",
                shares,
                axis="share of importance",
                note="For being among the best tenth of the trials that were trained to the end (PED-ANOVA, Watanabe "
                "et al. 2023).",
            )
        )
    plots += [slice_plot(as_texts, axis, metric=metric) for axis in axes[:MOST_SLICES]]
    return Section("Settings", texts, plots=plots)


def _as_texts(settings: Mapping[str, Any], parameters: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        key: _short(one["values"])[written(settings[key])] if "values" in one else settings[key]
        for key, one in parameters.items()
    }


def _short(values: Sequence[Any]) -> dict[str, str]:
    """Return a choice's values as texts, and as a page shows them: classes without their modules, where that tells all.

    What else has dots, as a timm model or a file has, stays as it is.
    """
    texts = [written(value) for value in values]
    short = [text.rpartition(".")[2] if CLASS.fullmatch(text) else text for text in texts]
    return dict(zip(texts, short if len(set(short)) == len(set(texts)) else texts, strict=True))


def _progress(tried: Sequence[Tried], metric: str, sign: float) -> Section:
    complete = sorted((one for one in tried if one.is_complete), key=lambda one: one.number)
    best: list[tuple[float, float]] = []
    for one in complete:
        best.append((one.number, max(one.value, best[-1][1] if best else one.value, key=lambda value: sign * value)))
    plot = lines(
        "Over the trials",
        {"trained to the end": [(one.number, one.value) for one in complete], "the best until then": best},
        x="trial",
        y=metric,
    )
    return Section("Progress", plots=[plot] if plot else [])


def _trials(trials: Sequence[Mapping[str, Any]], sign: float) -> Section:
    def rank(one: Mapping[str, Any]) -> tuple[bool, float]:
        return (one["state"] != "complete", -sign * one["value"] if one["value"] is not None else float("inf"))

    keys = list(dict.fromkeys(key for one in trials for key in one["settings"]))
    header = ["trial", "result", *short_names(keys).values(), "epochs", "seconds"]
    short = {key: _short([one["settings"][key] for one in trials if key in one["settings"]]) for key in keys}
    rows = []
    for one in sorted(trials, key=rank)[:MOST_ROWS]:
        value = "" if one["value"] is None else shown(one["value"])
        words = {"complete": "", "pruned": f"stopped {'at' if value else 'early'}"}.get(one["state"], one["state"])
        result = f"{words} {value}".strip()
        settings = [short[key][written(one["settings"][key])] if key in one["settings"] else "" for key in keys]
        settings = [shown(float(text)) if _is_number(text) else text for text in settings]
        rows.append([str(one["number"]), result, *settings, str(one["epochs"]), shown(one["seconds"] or 0.0)])
    texts = [f"The best {MOST_ROWS} of {len(trials):,}."] if len(trials) > MOST_ROWS else []
    failed: dict[str, list[str]] = {}
    for one in trials:
        if one["error"]:
            failed.setdefault(str(one["error"]), []).append(str(one["number"]))
    tables: list[Any] = [("", header, rows)]
    if failed:
        rows = [[", ".join(numbers), error] for error, numbers in failed.items()]
        tables.append(("What failed", ["trials", "why"], rows[:MOST_ROWS]))
    return Section("Trials", texts, tables=tables)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _commands(folder: Path, name: object, best: Tried | None) -> Section:
    commands = []
    if best is not None:
        commands = [
            f"crossmodal report {folder / str(best.number)}",
            repeating(RunFolder(folder / str(best.number)), name),
        ]
    return Section("How to go on", listings=[("The best trial", "\n".join(commands))] if commands else [])
