"""The page about one run."""

from __future__ import annotations

from pathlib import Path

from crossmodal.report.answers import contributions, examples, judged, robustness, routing
from crossmodal.report.evaluation import Opened, evaluate
from crossmodal.report.page import Page
from crossmodal.report.replicas import replicas
from crossmodal.report.training import Record, training
from crossmodal.run_folder import RunFolder


def report(run: RunFolder, checkpoint: Path, *, rows: int, command: str) -> Page:
    """Return the page about a run.

    Args:
        run: Its folder.
        checkpoint: Whose weights answer.
        rows: How many are answered at most.
        command: That made the page.
    """
    record = Record.read(run)
    opened = Opened(run, checkpoint)
    subtitle, shown = str(checkpoint), []
    if not record.figures:
        subtitle += " (the run has not come to its end)"
    if opened.module.model.heads:
        split = opened.split()
        evaluation = evaluate(opened, split, rows=rows)
        count, total = len(evaluation.ids), opened.total
        subtitle += f" on {f'all {total:,}' if count == total else f'{count:,} of {total:,}'} rows of the {split} split"
        shown = [
            contributions(evaluation),
            robustness(evaluation),
            routing(evaluation),
            judged(evaluation),
            examples(evaluation, opened),
        ]
    sections = [
        training({record.name: record}),
        *filter(None, [replicas(run)]),
        *shown,  # without heads it answers nothing
        record.cost(),
        record.reproduction(command),
    ]
    return Page(record.name, subtitle, record.headline(), sections)
