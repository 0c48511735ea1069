"""What a run's files say of its training: curves, cost, and how to repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from crossmodal.arguments import flattened, read_yaml
from crossmodal.metrics_file import History, read_history
from crossmodal.report.page import Section, Table
from crossmodal.report.plots import Plot, curves, shown
from crossmodal.run_folder import RunFolder
from crossmodal.sweep.search import BEGUN

MOST_CURVES = 10  # in a plot
MOST_FIGURES = 4
STAGES = ("train", "val")


MEMORY = {"memory/process_mib": "process", "memory/gpu_mib": "GPU"}


@dataclass(frozen=True)
class Record:
    """What a run left.

    Args:
        run: Its folder.
        name: Such as `easy_vqa/0`.
        config: The complete configuration.
        history: Of `metrics.csv`.
        figures: Of `metrics.json`; none of a run that has not ended.
        environment: Of `environment.json`, if there is one.
    """

    run: RunFolder
    name: str
    config: dict[str, Any]
    history: History
    figures: dict[str, Any]
    environment: dict[str, Any]

    @classmethod
    def read(cls, run: RunFolder) -> Record:
        """Read it.

        Raises:
            ValueError: A file is no JSON.
        """
        config = read_yaml(run.config)
        name = f"{config.get('name') or run.path.resolve().parent.name}/{run.path.resolve().name}"
        figures, environment = (_read_json(run.path / file) for file in ("metrics.json", "environment.json"))
        return cls(run, name, config, read_history(run.path / "metrics.csv"), figures, environment)

    def test_figures(self) -> list[tuple[str, str]]:
        """Return what was measured on the test split, or else on the val split, losses last."""
        found = {name: value for name, value in self.figures.items() if isinstance(value, int | float)}
        stage = "test" if any(name.startswith("test/") for name in found) else "val"
        chosen = {name.partition("/")[2]: value for name, value in found.items() if name.startswith(f"{stage}/")}
        tasks = list((self.config.get("model") or {}).get("heads") or {})
        # of several tasks each figure is named after its own; the first that each has is what it is judged by
        of_tasks = [[name for name in chosen if name.startswith(f"{task}/") and name.count("/") == 1] for task in tasks]
        names = [name for name in chosen if "/" not in name]
        if len(tasks) > 1:
            names += [name for of in zip_longest(*of_tasks) for name in of if name is not None]
        names.sort(key=lambda name: name.endswith("loss"))
        return [(f"{stage}/{name}", shown(chosen[name])) for name in (names or list(chosen))[:MOST_FIGURES]]

    def headline(self) -> list[tuple[str, str]]:
        """Return the figures that matter most."""
        return [*self.test_figures(), *costs(self.figures)[:3]]

    def cost(self) -> Section:
        """Return what it took."""
        rows = [[title, value] for title, value in costs(self.figures)]
        memory = {name: points for name, points in self.history.items() if name.startswith("memory/")}
        rows += [
            [f"memory of the {MEMORY.get(name, name)}, at most (MiB)", shown(max(value for _, value in of))]
            for name, of in memory.items()
        ]
        waiting = self.history.get("train/waiting")
        if waiting:
            rows.append(["share of time waiting for data", shown(sum(value for _, value in waiting) / len(waiting))])
        return Section("Cost", tables=[("", [], rows)] if rows else [])

    def reproduction(self, own_command: str) -> Section:
        """Return how to repeat the run, and the report."""
        texts = []
        about = self.environment
        rows = [["seed", str(self.config.get("seed_everything"))]]
        for key in ("commit", "command", "python", "platform", "accelerator", "threads"):
            # a trial's would put a run among the trials
            if about.get(key) is not None and not (key == "command" and _is_trial(self.run)):
                rows.append([key, str(about[key])])
        rows += [[name, str(version)] for name, version in dict(about.get("versions") or {}).items() if version]
        if not about:
            texts.append("There is no environment.json: what the run was trained with is not known.")
        command = repeating(self.run, self.config.get("name"))
        if not self.figures:
            texts.append("The run has not come to its end: it was stopped, or trains still. The first command goes on.")
            command = f"{shlex.join([*going_on(self.run)])}\n{command}"
        command = f"{command}\n{own_command}"
        return Section("How to reproduce", texts, tables=[("", [], rows)], listings=[("Commands", command)])


def training(records: Mapping[str, Record]) -> Section:
    """Return the curves of one run, or of several beside each other."""
    histories = {name: record.history for name, record in records.items()}
    several = len(records) > 1
    drawn = [name for history in histories.values() for name, points in history.items() if len(points) > 1]
    names = sorted({name for name in drawn if not several or drawn.count(name) > 1})  # alone it compares nothing
    groups: dict[str, list[str]] = {}
    for name in names:
        stage, _, rest = name.partition("/")
        if stage in STAGES:
            groups.setdefault(_group(stage, rest), []).append(name)
    plots: list[Plot | None] = []
    for title in sorted(groups, key=_rank):
        of = groups[title]
        note = "" if len(of) <= MOST_CURVES else f"{len(of) - MOST_CURVES} more are in metrics.csv."
        if several:  # a colour for each run
            plots += [curves(name, histories, [name]) for name in of[:MOST_CURVES]]
        else:
            plots.append(curves(title, histories, of[:MOST_CURVES], note=note))
    texts = [] if plots else ["metrics.csv has no two points of any figure, or is not there: there are no curves."]
    return Section("Training", texts, plots=[plot for plot in plots if plot is not None])


def _group(stage: str, rest: str) -> str:
    if rest == "loss":
        return "Loss"
    first, _, more = rest.partition("/")
    if more:
        return f"{stage}: {first.replace('_', ' ')}"
    return f"{stage}: {first.replace('_', ' ')}" if stage == "train" else "On the validation split"


def _rank(title: str) -> tuple[int, str]:
    first = ("Loss", "On the validation split")
    return (first.index(title) if title in first else len(first), title)


def costs(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a run took, as far as its figures say."""
    said = {
        "seconds/fit": ("training", _seconds),
        "seconds/encode": ("of it encoding", _seconds),
        "parameters/trained": ("trained parameters", lambda value: f"{value:,}"),
        "parameters/all": ("all parameters", lambda value: f"{value:,}"),
        "epoch": ("epochs", lambda value: f"{value:,}"),
        "step": ("steps", lambda value: f"{value:,}"),
    }
    return [(title, show(figures[key])) for key, (title, show) in said.items() if figures.get(key)]


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{value:.1f} s"


def repeating(run: RunFolder, name: object) -> str:
    """Return the command that repeats a run.

    Args:
        run: Its folder.
        name: Its experiment's; a sweep's trial is repeated outside of the sweep, whose folder has trials alone.
    """
    named = ["--name", str(name).removesuffix("/sweep")] if _is_trial(run) else []
    return shlex.join(["crossmodal", "fit", "--config", str(run.config), *named])


def going_on(run: RunFolder) -> list[str]:
    """Return the command that goes on with a run."""
    return ["crossmodal", "fit", "--config", str(run.config), "--ckpt_path", str(run.path)]


def _is_trial(run: RunFolder) -> bool:
    return (run.path.parent / BEGUN).is_file()


def settings_that_differ(records: Mapping[str, Record]) -> Table | None:
    """Return the keys of the configurations in which runs differ, with each one's value."""
    flat = {name: dict(flattened(record.config)) for name, record in records.items()}
    keys = sorted({key for of in flat.values() for key in of} - {"name", "config", "ckpt_path"})
    rows = []
    for key in keys:
        values = [json.dumps(of.get(key), default=str) if key in of else "" for of in flat.values()]
        if len(set(values)) > 1:
            rows.append([key, *values])
    return ("Settings that differ", ["key", *flat], rows) if rows else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON ({error}); it may have been cut off: delete it, and the page does without"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object; it is not as `crossmodal fit` wrote it")
    return found
