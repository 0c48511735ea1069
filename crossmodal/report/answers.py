"""What a report shows of a run's answers: noise, weights, confusion, calibration, and rows to look at.

Legend: R rows, C classes, M members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal.calibration import reliability, sure_of_labels
from crossmodal.confusion import confusion
from crossmodal.heads import ClassificationHead, MultiLabelHead
from crossmodal.report.comparison import Interval, bootstrap
from crossmodal.report.contributions import interactions, shapley, under_absence
from crossmodal.report.drawing import NOISE
from crossmodal.report.evaluation import NOISY_ROWS, Evaluation, Opened, TaskEvaluation
from crossmodal.report.page import Section, ShownRow
from crossmodal.report.plots import Plot, diagonal, heat_map, intervals, lines, shown
from crossmodal.shown_inputs import shown as shown_input
from datamodules.checking import in_words, read_sample

SHOWN = 6  # rows of each kind
MOST_CLASSES = 40  # of a confusion matrix
ABSENCE = (0.0, 0.25, 0.5, 0.75, 1.0)
ABSENCE_NOTE = "In the mean over rows, of which this share lacks the input. It follows from the subsets above."
ROBUSTNESS_NOTE = (
    f"Noise on the tokens of one expert at a time, in units of their standard deviation; about {NOISY_ROWS:,} rows."
)


def contributions(evaluation: Evaluation) -> Section:
    """Return what each modality adds, and how well each subset of them does."""
    plots: list[Plot] = []
    for task, one in evaluation.tasks.items():
        worth, modalities = _worth(one), evaluation.modalities
        score, rows = one.score_name, len(next(iter(one.by_subset.values())))
        axis = score if one.higher_is_better else f"less {score}"
        if len(worth) == 2 ** len(modalities):
            values = {name: bootstrap(of_R) for name, of_R in shapley(worth, modalities).items()}
            note = f"They sum to what all together are worth above the answer without any; {rows:,} rows."
            title = _title(evaluation, task, f"Shapley values of {score}")
            plots.append(intervals(title, _bars(values), axis=axis, note=note))
            pairs = {f"{a} and {b}": bootstrap(of_R) for (a, b), of_R in interactions(worth, modalities).items()}
            if pairs:
                note = "Above 0 two are worth more together than apart; below 0 they say the same."
                title = _title(evaluation, task, "How modalities work together")
                plots.append(intervals(title, _bars(pairs), axis=f"interaction in {axis}", note=note))
        few = {0, 1, len(modalities) - 1, len(modalities)}  # of many subsets, those that tell most
        found = {
            _named(some, modalities): bootstrap(of_R)
            for some, of_R in one.by_subset.items()
            if len(some) in few or len(modalities) < 4
        }
        title = _title(evaluation, task, f"{score} by these modalities alone")
        note = "As if rows had no others. Without any the answer is the most frequent one of training."
        plots.append(intervals(title, _bars(found), axis=score, note=note))
    return Section("What each modality contributes", plots=plots)


def _worth(one: TaskEvaluation) -> dict[frozenset[str], NDArray[np.float64]]:
    return one.by_subset if one.higher_is_better else {some: -of_R for some, of_R in one.by_subset.items()}


def _bars(values: Mapping[str, Interval]) -> list[tuple[str, str, float, float, float]]:
    return [(name, "", one.value, one.low, one.high) for name, one in values.items()]


def _named(some: frozenset[str], modalities: Sequence[str]) -> str:
    if len(some) == len(modalities) > 2:
        return "all"
    if len(some) == len(modalities) - 1 and len(some) > 1:
        return f"all but {next(name for name in modalities if name not in some)}"
    return " + ".join(name for name in modalities if name in some) or "none"


def robustness(evaluation: Evaluation) -> Section:
    """Return how answers get worse with noise on what an expert says."""
    plots = []
    for task, one in evaluation.tasks.items():
        title = _title(evaluation, task, f"{one.score_name} under noise")
        plots.append(lines(title, robustness_of(one), x="noise", y=one.score_name, note=ROBUSTNESS_NOTE))
        title = _title(evaluation, task, f"{one.score_name} where inputs are absent")
        plots.append(
            lines(title, absence_of(one, evaluation.modalities), x="rate", y=one.score_name, note=ABSENCE_NOTE)
        )
    return Section("Robustness", plots=[plot for plot in plots if plot is not None])


def robustness_of(one: TaskEvaluation) -> dict[str, list[tuple[float, float]]]:
    """Return by modality the mean score at each strength of noise, the first of which is none."""
    return {modality: [*zip(NOISE, scores, strict=True)] for modality, scores in one.under_noise.items()}


def absence_of(one: TaskEvaluation, modalities: Sequence[str]) -> dict[str, list[tuple[float, float]]]:
    """Return by modality, and for any of them, the mean score by how often it is absent."""
    everything = frozenset(modalities)
    found = {name: [name] for name in modalities if everything - {name} in one.by_subset}
    if len(one.by_subset) == 2 ** len(modalities):
        found["any, each by itself"] = list(modalities)
    return {name: [(rate, under_absence(one.by_subset, of, rate)) for rate in ABSENCE] for name, of in found.items()}


def routing(evaluation: Evaluation) -> Section:
    """Return whom a mixture listens to, by what is to be said, and what is written to a workspace."""
    plots = []
    if evaluation.weights_RM is not None:
        mean_M = evaluation.weights_RM.mean(0)
        for task, one in evaluation.tasks.items():
            if not isinstance(one.head, ClassificationHead):
                continue
            classes = [number for number in range(len(one.names)) if bool((one.targets == number).any())][:MOST_CLASSES]
            means = [evaluation.weights_RM[one.targets == number].mean(0).tolist() for number in classes]
            plots.append(
                heat_map(
                    _title(evaluation, task, "Mean weight of each member"),
                    [*means, mean_M.tolist()],
                    rows=[*(one.names[number] for number in classes), "all rows"],
                    columns=[*evaluation.members],
                    row_title="target",
                    column_title="member",
                    note="Weights of a row sum to 1; “fusion” is the joint answer of all experts.",
                )
            )
    if evaluation.writing is not None and evaluation.writing[0]:
        rows, columns, values = evaluation.writing
        plots.append(
            heat_map(
                "What is written to the workspace",
                values,
                rows=rows,
                columns=columns,
                row_title="slot",
                column_title="modality",
                note="How each slot divides what it reads among the modalities, in the mean over rows and heads.",
            )
        )
    return Section("Whom it listens to", plots=plots)


def judged(evaluation: Evaluation) -> Section:
    """Return which classes are taken for which, and whether it is as sure as it is right."""
    plots: list[Plot] = []
    for task, one in evaluation.tasks.items():
        if isinstance(one.head, ClassificationHead):
            plots.append(_confusion(evaluation, task, one))
            sure_R, right_R = one.activated_RC.max(1).values, one.score_R
            plots.append(_reliability(evaluation, task, sure_R, right_R))
        elif isinstance(one.head, MultiLabelHead):
            plots += [
                _of_labels(evaluation, task, one),
                _reliability(evaluation, task, *sure_of_labels(one.activated_RC, one.targets)),
            ]
    return Section("Right, wrong and sure", plots=plots)


def _confusion(evaluation: Evaluation, task: str, one: TaskEvaluation) -> Plot:
    count = len(one.names)
    chosen, counts_CC = confusion(one.targets, one.activated_RC.argmax(1), count, most=MOST_CLASSES)
    shares_CC = counts_CC / torch.bincount(one.targets, minlength=count)[chosen, None].clamp_min(1)
    note = "Rows of each target by what was said; the darker, the greater the share of the target's rows."
    if count > MOST_CLASSES:
        note += f" The {MOST_CLASSES} classes of {count:,} with most mistakes."
    return heat_map(
        _title(evaluation, task, "Confusion"),
        counts_CC.tolist(),
        rows=[one.names[number] for number in chosen.tolist()],
        columns=[one.names[number] for number in chosen.tolist()],
        row_title="target",
        column_title="prediction",
        shade=shares_CC.tolist(),
        note=note,
    )


def _of_labels(evaluation: Evaluation, task: str, one: TaskEvaluation) -> Plot:
    said_RC, is_RC = one.activated_RC > 0.5, one.targets > 0.5
    right_C, found_C, are_C = (some.sum(0).tolist() for some in (said_RC & is_RC, said_RC, is_RC))
    order = sorted(range(len(one.names)), key=lambda number: right_C[number] / max(1, are_C[number]))[:MOST_CLASSES]
    values = [
        [right_C[number] / max(1, of[number]) if of[number] else None for of in (are_C, found_C)] for number in order
    ]
    note = "The share of a label's rows that it is said of, and of the rows that it is said of the share that have it."
    if len(one.names) > MOST_CLASSES:
        note += f" The {MOST_CLASSES} labels of {len(one.names):,} that are missed most."
    title = _title(evaluation, task, "Recall and precision")
    names, columns = [one.names[number] for number in order], ["recall", "precision"]
    return heat_map(title, values, rows=names, columns=columns, row_title="label", column_title="share", note=note)


def _reliability(evaluation: Evaluation, task: str, sure_R: Tensor, right_R: Tensor) -> Plot:
    curve = reliability(sure_R, right_R)
    return diagonal(
        _title(evaluation, task, "Calibration"),
        curve.confidence,
        curve.accuracy,
        note=f"Expected calibration error {shown(curve.error)}, over {len(curve.rows)} bins of as many answers each.",
    )


def examples(evaluation: Evaluation, opened: Opened) -> Section:
    """Return the rows that it answers worst and best, with their inputs."""
    samples = []
    for task, one in evaluation.tasks.items():
        worst_first = one.losses_R.argsort(descending=True, stable=True)
        for title, order in (("Worst", worst_first), ("Best", worst_first.flip(0))):
            rows = [
                row
                for number in _various(one, order)
                if (row := _shown_row(evaluation, task, one, opened, number)) is not None
            ]
            samples.append((_title(evaluation, task, title), rows))
    return Section(
        "Examples", ["The rows with the highest and the lowest loss, of each answer at most two."], samples=samples
    )


def _various(one: TaskEvaluation, order: Tensor) -> list[int]:
    """Return the first rows of an order, at most two that say the same of the same."""
    chosen: list[int] = []
    told: dict[tuple[str, str], int] = {}
    for number in order.tolist():
        pair = (str(one.predictions[number]), _target(one, number))
        told[pair] = told.get(pair, 0) + 1
        if told[pair] <= 2:
            chosen.append(number)
        if len(chosen) == SHOWN:
            break
    return chosen


def _target(one: TaskEvaluation, number: int) -> str:
    return in_words(one.targets[number].cpu().numpy(), one.names)


def _shown_row(evaluation: Evaluation, task: str, one: TaskEvaluation, opened: Opened, number: int) -> ShownRow | None:
    rows = opened.data.rows(evaluation.split)
    assert rows is not None
    name = evaluation.ids[number]
    place = opened.places(evaluation.split, evaluation.ids)[number]
    sample = read_sample(rows, place, list(opened.data.base_transforms), opened.data.outputs)
    if sample is None:
        return None
    is_class = isinstance(one.head, ClassificationHead)
    sure = (
        f"sure to {float(one.activated_RC[number].max()):.0%}"
        if is_class
        else f"loss {float(one.losses_R[number]):.3g}"
    )
    members = {member: str(said[number]) for member, said in one.members.items() if said[number] is not None}
    if one.disagreement_R is not None:
        members["disagreement"] = f"{float(one.disagreement_R[number]):.2f}"
    return ShownRow(
        name,
        [shown_input(modality, raw, plays=True) for modality, raw in sample.inputs.items()],
        _target(one, number),
        _said(one.predictions[number]),
        bool(one.score_R[number] == 1) if one.higher_is_better else None,
        sure,
        members,
    )


def _said(prediction: object) -> str:
    if isinstance(prediction, list):
        return ", ".join(_said(part) for part in prediction) or "no label"
    return f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)


def _title(evaluation: Evaluation, task: str, title: str) -> str:
    return title[0].upper() + title[1:] if len(evaluation.tasks) == 1 else f"{task}: {title[0].lower()}{title[1:]}"
