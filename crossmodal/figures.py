"""What is measured on a validation or a test split.

Legend: B rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torchmetrics import MetricCollection

from crossmodal.heads import Head
from crossmodal.kind_figures import KindFigures
from crossmodal.mixture import Answers
from crossmodal.mixture_figures import MixtureFigures
from crossmodal.selector import Choice
from datamodules.batch import PairedBatch

STAGES = ("val", "test")


class Measuring(Protocol):
    """What measures something of its own as rows pass."""

    def begin(self) -> None:
        """Forget what was measured on a split that was not measured to its end."""

    def figures(self) -> Mapping[str, Any]:
        """Return what was measured, by name, and begin anew."""


class Figures(nn.Module):
    """The metrics of each task, those of kinds of rows, what a mixture tells, and what others measure.

    Args:
        heads: By task.
        others: They are given rows elsewhere.
    """

    def __init__(self, heads: Mapping[str, Head], *others: Measuring) -> None:
        super().__init__()
        self._others = others
        # `test/accuracy` says enough where there is one task
        self.prefixes = {task: "" if len(heads) == 1 else f"{task}/" for task in heads}
        self._heads = dict(heads)  # the model's
        self._mixture = MixtureFigures()
        self._kinds = KindFigures()
        self.metrics = nn.ModuleDict()
        for stage in STAGES:
            of_stage = {name: head.metrics().clone(f"{stage}/{self.prefixes[name]}") for name, head in heads.items()}
            self.metrics[stage] = nn.ModuleDict(of_stage)

    def begin(self, stage: str) -> None:
        """Forget what was measured on a split that was not measured to its end.

        Args:
            stage: `val` or `test`.
        """
        self._mixture, self._kinds = MixtureFigures(), KindFigures()
        for one in self._others:
            one.begin()
        for metrics in self.metrics[stage].children():
            assert isinstance(metrics, MetricCollection)
            metrics.reset()

    def measure(
        self,
        stage: str,
        outputs: Mapping[str, Tensor],
        batch: PairedBatch,
        answers: Answers | None,
        choice: Choice | None,
    ) -> Iterator[MetricCollection]:
        """Take B rows into account; yield the metrics of each task that has targets.

        Args:
            stage: `val` or `test`.
            outputs: By task, raw, (B, C).
            batch: B rows.
            answers: Of a mixture.
            choice: Of a selector.
        """
        if answers is not None:
            self._mixture.measure(answers, self._heads, batch.targets, self.prefixes)
        if choice is not None:
            self._mixture.measure_choice(choice)
        self._kinds.measure(self._heads, outputs, batch, self.prefixes)
        for task, outputs_BC in outputs.items():
            if task not in batch.targets:
                continue
            metrics = self.metrics.get_submodule(f"{stage}.{task}")
            assert isinstance(metrics, MetricCollection)
            metrics.update(self._heads[task].activate(outputs_BC), batch.targets[task])
            yield metrics

    def figures(self) -> dict[str, Any]:
        """Return what was measured but for the metrics of each task, by name, and begin anew."""
        found: dict[str, Any] = {**self._mixture.figures(), **self._kinds.figures()}
        for one in self._others:
            found |= one.figures()
        return found
