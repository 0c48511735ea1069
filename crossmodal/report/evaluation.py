"""What a trained run says of a split's rows: as they are, and with noise on what its experts say.

Legend: U distinct inputs, N tokens, D width, R rows, B rows of a batch, C outputs, M members.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmodal.checkpoints import load_weights
from crossmodal.experiment_cli import DataAndModel
from crossmodal.fusion import WorkspaceFusion
from crossmodal.gates import store_split
from crossmodal.heads import Head
from crossmodal.mixture import Answers
from crossmodal.model import CrossModalModel
from crossmodal.module import CrossModalModule
from crossmodal.observers.workspace import Writing
from crossmodal.report.drawing import NOISE, Drawn
from crossmodal.reports import Prediction, report
from crossmodal.run_folder import RunFolder
from crossmodal.subsets import few_subsets
from datamodules.batch import PairedBatch
from datamodules.paired import PairedDataModule, Split

# that are drawn: to be answered at each of these, and by each subset of the modalities
NOISY_ROWS, SUBSET_ROWS = 1000, 4000
MOST_MODALITIES = 6  # of whose 2^M subsets all are answered by


@dataclass
class TaskEvaluation:
    """What is said of a task.

    Args:
        head: The task's.
        names: Of its outputs.
        activated_RC: The outputs as the head activates them.
        targets: Of the rows, as the data has them.
        losses_R: Of each row.
        score_R: Of each row, what the task's first metric is the mean of.
        predictions: In words or numbers.
        members: What each member of a mixture says, in words or numbers.
        disagreement_R: Of a mixture's experts.
        under_noise: By modality, the mean score at each strength of `NOISE`.
        by_subset: The score of some rows, answered by a subset of the modalities alone; of few modalities all subsets.
    """

    head: Head
    names: list[str]
    activated_RC: Tensor
    targets: Tensor
    losses_R: Tensor
    score_R: Tensor
    predictions: list[object]
    members: dict[str, list[object]] = field(default_factory=dict)
    disagreement_R: Tensor | None = None
    under_noise: dict[str, list[float]] = field(default_factory=dict)
    by_subset: dict[frozenset[str], NDArray[np.float64]] = field(default_factory=dict)

    @property
    def score_name(self) -> str:
        """What the score is."""
        return self.head.opinions().score

    @property
    def higher_is_better(self) -> bool:
        """Whether the score is."""
        return self.head.opinions().higher_is_better


@dataclass
class Evaluation:
    """What a run says of rows.

    Args:
        split: Theirs.
        ids: Their names.
        tasks: By name.
        weights_RM: Of a mixture's members.
        members: Their names.
        modalities: Those of the experts.
        writing: Of a workspace its slots in each round, the modalities, and how each slot divides what it reads among
            them.
    """

    split: Split
    ids: list[str]
    tasks: dict[str, TaskEvaluation]
    weights_RM: Tensor | None
    members: list[str]
    modalities: list[str]
    writing: tuple[list[str], list[str], list[list[float]]] | None = None


class Opened:
    """A trained run with its data, from which it was trained.

    Args:
        run: Its folder.
        checkpoint: Whose weights are used.

    Raises:
        ValueError: The configuration cannot be built, or the checkpoint does not fit it.
    """

    def __init__(self, run: RunFolder, checkpoint: Path) -> None:
        self.run = run
        self.checkpoint = checkpoint
        experiment = DataAndModel(["--config", str(run.config)])
        self.module: CrossModalModule = experiment.model
        self.data: PairedDataModule = experiment.datamodule
        self.name = f"{experiment.settings.name}/{run.path.resolve().name}"
        load_weights(self.module, checkpoint)
        self.module.eval()
        self._limited = False
        self.total = 0  # rows of the split that was read
        self._places: dict[Split, list[int]] = {}

    @property
    def model(self) -> CrossModalModel:
        """The model itself."""
        return self.module.model

    def split(self) -> Split:
        """Return the test split, or the validation split where there is none.

        Raises:
            ValueError: There is neither.
        """
        for split in ("test", "val"):
            if self.data.rows(split) is not None:
                return split
        raise ValueError(f"{self.run.config}: {type(self.data).__name__} has neither a test nor a val split")

    def read(self, split: Split, *, rows: int) -> Iterator[PairedBatch]:
        """Yield batches of tokens; what the feature store lacks is encoded first.

        Args:
            split: Whose rows.
            rows: How many at most, drawn from all.
        """
        if not self._limited:
            all_rows = self.data.rows(split)
            assert all_rows is not None
            self.total = len(all_rows)
            self.data.limit(split, rows, drawn=True)
            store_split(self.module, self.module.experts, self.data, split)
            self._limited = True
        loader = self.data.dataloader(split)
        assert loader is not None
        with torch.inference_mode():
            for batch in loader:
                if len(batch):
                    yield replace(batch, inputs={**batch.inputs, **self.model.encode(batch)})

    def answer(self, batch: PairedBatch) -> tuple[dict[str, Tensor], Answers | None]:
        """Return each task's raw outputs, and what a mixture gives them by."""
        tokens, given, _ = self.model.observe(batch)
        return self.model.answer(tokens, given)

    def places(self, split: Split, ids: Sequence[str]) -> list[int]:
        """Return the numbers of a split's rows by their names; rows of one name are taken in order."""
        if split not in self._places:
            rows = self.data.rows(split)
            assert rows is not None
            left: dict[str, list[int]] = {}
            for number in reversed(range(len(rows))):
                left.setdefault(rows.ids[number], []).append(number)
            self._places[split] = [left[name].pop() for name in ids]
        return self._places[split]


def evaluate(opened: Opened, split: Split, *, rows: int) -> Evaluation:
    """Let a run answer rows of a split.

    Args:
        opened: The run.
        split: Whose rows.
        rows: How many at most, drawn from all.

    Raises:
        ValueError: The model has no heads, or no row has a target.
    """
    heads = dict(opened.module.heads)
    if not heads:
        raise ValueError(f"{opened.run.path}: its model has no heads, so that it answers nothing; it was pretrained")
    modalities = list(opened.model.experts)
    collected = _Collected(opened.module.outputs, heads, modalities)
    drawn = Drawn(opened.data.seed)
    everything = frozenset(modalities)
    fusion = opened.model.fusion
    writing = Writing(fusion) if isinstance(fusion, WorkspaceFusion) else None
    for batch in opened.read(split, rows=rows):
        with writing.watched() if writing else nullcontext():
            outputs, answers = opened.answer(batch)
        collected.add(batch, outputs, answers)
        count = min(rows, opened.total)
        if len(some := drawn.rows(batch, SUBSET_ROWS / count)):
            collected.add_subset(everything, {task: of[some] for task, of in outputs.items()}, batch.take(some))
            for subset in collected.subsets:
                if subset == everything:
                    continue
                few = batch.take(some).without(*(everything - subset))
                collected.add_subset(subset, opened.answer(few)[0], few)
        if len(some := drawn.rows(batch, NOISY_ROWS / count)):
            noisy = batch.take(some)
            for modality in [name for name in modalities if name in noisy.inputs]:
                collected.add_noisy(modality, 0.0, {task: of[some] for task, of in outputs.items()}, noisy)
                for strength, tokens in drawn.noisy(modality, noisy.inputs[modality]):
                    changed = replace(noisy, inputs={**noisy.inputs, modality: tokens})
                    collected.add_noisy(modality, strength, opened.answer(changed)[0], noisy)
    return replace(collected.evaluation(split), writing=writing.matrix() if writing else None)


class _Collected:
    """What is said of batch after batch."""

    def __init__(self, names: Mapping[str, list[str]], heads: Mapping[str, Head], modalities: Sequence[str]) -> None:
        self.names, self.heads = dict(names), dict(heads)
        self.modalities = list(modalities)
        self.subsets = [frozenset[str](), *few_subsets(modalities, few=MOST_MODALITIES)]
        self.by_subset: dict[str, dict[frozenset[str], list[Tensor]]] = {task: {} for task in heads}
        self.ids: list[str] = []
        self.outputs: dict[str, list[Tensor]] = {task: [] for task in heads}
        self.targets: dict[str, list[Tensor]] = {task: [] for task in heads}
        self.said: dict[str, list[Prediction]] = {task: [] for task in heads}
        self.weights: list[Tensor] = []
        self.disagreement: dict[str, list[Tensor]] = {task: [] for task in heads}
        self.members: list[str] = []
        self.noisy: dict[str, dict[str, dict[float, list[Tensor]]]] = {task: {} for task in heads}

    def add(self, batch: PairedBatch, outputs: Mapping[str, Tensor], answers: Answers | None) -> None:
        self.ids += batch.ids
        for task, predicted in report(self.heads, self.names, outputs, answers).items():
            self.said[task].append(predicted)
            self.outputs[task].append(outputs[task].float())
            if task in batch.targets:
                self.targets[task].append(batch.targets[task])
        if answers is not None:
            self.weights.append(answers.weights_BM.float())
            for task, of_task_B in answers.disagreement.items():
                self.disagreement[task].append(of_task_B.float())

    def add_noisy(self, modality: str, strength: float, outputs: Mapping[str, Tensor], batch: PairedBatch) -> None:
        for task, score_B in self._scores(outputs, batch):
            self.noisy[task].setdefault(modality, {}).setdefault(strength, []).append(score_B)

    def add_subset(self, subset: frozenset[str], outputs: Mapping[str, Tensor], batch: PairedBatch) -> None:
        for task, score_B in self._scores(outputs, batch):
            self.by_subset[task].setdefault(subset, []).append(score_B)

    def _scores(self, outputs: Mapping[str, Tensor], batch: PairedBatch) -> Iterator[tuple[str, Tensor]]:
        for task, outputs_BC in outputs.items():
            if task in batch.targets:
                head = self.heads[task]
                yield task, head.opinions().scores(head.activate(outputs_BC), batch.targets[task])

    def evaluation(self, split: Split) -> Evaluation:
        tasks = {task: self._of_task(task, head) for task, head in self.heads.items() if self.targets[task]}
        if not tasks:
            raise ValueError(f"no row of the {split} split has a target to judge answers by")
        weights_RM = torch.cat(self.weights) if self.weights else None
        members = [*next(iter(self.said.values()))[0]["members"]]
        return Evaluation(split, self.ids, tasks, weights_RM, members, self.modalities)

    def _of_task(self, task: str, head: Head) -> TaskEvaluation:
        outputs_RC, targets = torch.cat(self.outputs[task]), torch.cat(self.targets[task])
        said = self.said[task]
        members = {name: [one for part in said for one in part["members"][name]] for name in said[0]["members"]}
        activated_RC, opinions = head.activate(outputs_RC), head.opinions()
        return TaskEvaluation(
            head,
            self.names[task],
            activated_RC,
            targets,
            opinions.losses(activated_RC, targets),
            opinions.scores(activated_RC, targets),
            [one for part in said for one in part["prediction"]],
            members,
            torch.cat(self.disagreement[task]) if self.disagreement[task] else None,
            {
                modality: [float(torch.cat(of[strength]).mean()) for strength in NOISE]
                for modality, of in self.noisy[task].items()
                if len(of) == len(NOISE)
            },
            {
                subset: torch.cat(self.by_subset[task][subset]).double().cpu().numpy()
                for subset in self.subsets
                if subset in self.by_subset[task]
            },
        )
