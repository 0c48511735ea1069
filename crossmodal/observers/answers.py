"""What is taken for what over the validation split, and whether it is as sure as it is right.

Legend: R rows, B rows of a batch, C classes or labels.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from crossmodal.calibration import reliability, sure_of_labels
from crossmodal.confusion import confusion
from crossmodal.heads import ClassificationHead, MultiLabelHead
from crossmodal.media import MediaLog
from crossmodal.module import CrossModalModule
from crossmodal.observers.logging import add_media, is_look, log

MOST_CLASSES = 30  # of which each is told by itself
MOST_ANSWERS = 20_000  # of a batch, a label of a row each, by which calibration is measured


class AnswersInWhole(Callback):
    """Logs after each validation, of tasks with classes or labels: recall of each, calibration, and confusion.

    Args:
        media: Where matrices and curves go.
    """

    def __init__(self, media: MediaLog) -> None:
        self._media = media
        self._classes: dict[str, list[tuple[Tensor, Tensor]]] = {}  # targets, and what was said
        self._labels: dict[str, Tensor] = {}  # how many rows have each, and how many of these are told
        self._sure: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._validations = 0

    def state_dict(self) -> dict[str, int]:
        """Return how many validations there were."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Count on from there."""
        self._validations = state_dict["validations"]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an interrupted validation has seen."""
        self._classes, self._labels, self._sure = {}, {}, {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count a batch."""
        assert isinstance(pl_module, CrossModalModule)
        if outputs is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        targets = outputs["batch"].targets
        for task, head in pl_module.heads:
            if task not in targets:
                continue
            given, activated_BC = targets[task], head.activate(outputs["outputs"][task])
            if isinstance(head, ClassificationHead):
                sure_B, said_B = activated_BC.max(-1)
                self._sure.setdefault(task, []).append((sure_B.float(), said_B == given))
                self._classes.setdefault(task, []).append((given, said_B))
            elif isinstance(head, MultiLabelHead):
                has_BC = given > 0.5
                told_2C = torch.stack([has_BC.sum(0), (has_BC & (activated_BC > 0.5)).sum(0)])
                self._labels[task] = self._labels.get(task, 0) + told_2C
                some = torch.arange(0, len(given), max(1, len(given) * head.num_outputs // MOST_ANSWERS))
                self._sure.setdefault(task, []).append(sure_of_labels(activated_BC[some], given[some]))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log it."""
        assert isinstance(pl_module, CrossModalModule)
        if not self._sure:
            return
        self._validations += 1
        tracked = is_look(self._validations)  # a table in wandb is a file and an artifact each time
        for task, pairs in self._sure.items():
            prefix = f"val/{pl_module.prefixes[task]}"
            sure_R, right_R = (torch.cat(parts).cpu() for parts in zip(*pairs, strict=True))
            curve = reliability(sure_R, right_R.float())
            figures = {f"{prefix}calibration_error": curve.error}
            add_media(
                *(trainer, self._media, f"{prefix}calibration", "curve"),
                x=curve.confidence,
                y=curve.accuracy,
                weight=curve.rows,
                x_title="confidence",
                y_title="accuracy",
                diagonal=True,
                tracked=tracked,
            )
            names = pl_module.outputs[task]
            if task in self._labels:
                are_C, told_C = self._labels[task].tolist()
            else:
                targets_R, said_R = (torch.cat(parts) for parts in zip(*self._classes[task], strict=True))
                are_C = torch.bincount(targets_R, minlength=len(names)).tolist()
                told_C = torch.bincount(targets_R[targets_R == said_R], minlength=len(names)).tolist()
                chosen, counts_CC = confusion(targets_R, said_R, len(names), most=MOST_CLASSES)
                add_media(
                    *(trainer, self._media, f"{prefix}confusion", "matrix"),
                    rows=[names[number] for number in chosen.tolist()],
                    columns=[names[number] for number in chosen.tolist()],
                    values=counts_CC.tolist(),
                    row_title="target",
                    column_title="prediction",
                    tracked=tracked,
                )
            if len(names) <= MOST_CLASSES:
                of_each = zip(names, told_C, are_C, strict=True)
                figures |= {f"{prefix}recall/{name}": told / count for name, told, count in of_each if count}
            log(trainer, figures)
        self._classes, self._labels, self._sure = {}, {}, {}
