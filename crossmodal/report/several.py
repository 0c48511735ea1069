"""The page that compares runs, on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from crossmodal.report.answers import ROBUSTNESS_NOTE, robustness_of
from crossmodal.report.comparison import differences
from crossmodal.report.evaluation import Evaluation, Opened, evaluate
from crossmodal.report.page import Page, Section
from crossmodal.report.plots import Plot, intervals, lines
from crossmodal.report.training import Record, costs, repeating, settings_that_differ, training
from crossmodal.run_folder import RunFolder


def compare(runs: Sequence[tuple[RunFolder, Path]], *, rows: int, command: str) -> Page:
    """Return the page about several runs.

    Args:
        runs: Their folders, and the checkpoints whose weights answer; the others are compared with the first.
        rows: How many are answered at most.
        command: That made the page.

    Raises:
        ValueError: They were not trained on data that have rows in common.
    """
    records: dict[str, Record] = {}
    evaluations: dict[str, Evaluation] = {}
    for run, checkpoint in runs:
        record = Record.read(run)
        name = record.name
        if sum(one.path == run.path for one, _ in runs) > 1:
            name = f"{name} {checkpoint.stem}"
        if name in records:  # of another folder
            name = str(checkpoint)
        opened = Opened(run, checkpoint)
        records[name] = record
        evaluations[name] = evaluate(opened, opened.split(), rows=rows)
    first = next(iter(records))
    sections = [
        _figures(records),
        _differences(evaluations),
        training(records),
        _robustness(evaluations),
        Section("Settings", tables=[table for table in [settings_that_differ(records)] if table is not None]),
        Section("How to reproduce", listings=[("Commands", "\n".join([*_fits(records), command]))]),
    ]
    subtitle = f"{len(records)} runs; each is compared with the first, {first}, on the rows that both answered"
    return Page(" and ".join(records) if len(records) < 4 else f"{len(records)} runs", subtitle, [], sections)


def _fits(records: dict[str, Record]) -> list[str]:
    return list(dict.fromkeys(repeating(record.run, record.config.get("name")) for record in records.values()))


def _figures(records: dict[str, Record]) -> Section:
    found = {name: {**dict(record.test_figures()), **dict(costs(record.figures))} for name, record in records.items()}
    columns = list(dict.fromkeys(key for of in found.values() for key in of))
    rows = [[name, *(of.get(column, "") for column in columns)] for name, of in found.items()]
    return Section("Figures", tables=[("", ["run", *columns], rows)])


def _refuse_other_rows(evaluations: dict[str, Evaluation]) -> None:
    """Refuse runs whose rows have the same names, but are others."""
    first, *others = evaluations
    told = _targets(evaluations[first])
    for other in others:
        for row, target in _targets(evaluations[other]).items():
            if told.get(row, target) != target:
                raise ValueError(
                    f"{other} and {first}: row {row[1]} of task {row[0]} is {target} in one and {told[row]} in the "
                    "other, so that they are not of the same data; give runs that were trained on the same"
                )


def _targets(evaluation: Evaluation) -> dict[tuple[str, str], object]:
    return {
        (task, name): target
        for task, one in evaluation.tasks.items()
        for name, target in zip(evaluation.ids, one.targets.tolist(), strict=True)
    }


def _differences(evaluations: dict[str, Evaluation]) -> Section:
    _refuse_other_rows(evaluations)
    scores = {
        name: {task: (one.score_name, one.score_R.double().cpu().numpy()) for task, one in evaluation.tasks.items()}
        for name, evaluation in evaluations.items()
    }
    found = differences({name: evaluation.ids for name, evaluation in evaluations.items()}, scores)
    if not found:
        raise ValueError("the runs have no row, or no task, in common, so that there is nothing to compare")
    first, plots = next(iter(evaluations)), []
    for task, score in dict.fromkeys((one.task, one.score) for one in found):
        of_task = [one for one in found if (one.task, one.score) == (task, score)]
        values = [(one.run, score, one.interval.value, one.interval.low, one.interval.high) for one in of_task]
        better = "higher" if evaluations[first].tasks[task].higher_is_better else "lower"
        plots.append(
            intervals(
                f"{task}: difference in {score} from {first}",
                values,
                axis=f"difference in {score}",
                bars=False,
                note=f"Paired over {of_task[0].rows:,} rows, with 95 % intervals by bootstrap; {better} is better. "
                "An interval that has 0 in it does not tell the two apart.",
            )
        )
    return Section("Differences", plots=plots)


def _robustness(evaluations: dict[str, Evaluation]) -> Section:
    plots: list[Plot | None] = []
    for task in dict.fromkeys(task for evaluation in evaluations.values() for task in evaluation.tasks):
        of_runs = {name: one.tasks[task] for name, one in evaluations.items() if task in one.tasks}
        for modality in dict.fromkeys(modality for one in of_runs.values() for modality in one.under_noise):
            points = {
                name: robustness_of(one)[modality] for name, one in of_runs.items() if modality in one.under_noise
            }
            score = next(iter(of_runs.values())).score_name
            title = f"{task}: {score} under noise on {modality}"
            plots.append(lines(title, points, x="noise", y=score, note=ROBUSTNESS_NOTE))
    return Section("Robustness", plots=[plot for plot in plots if plot is not None])
