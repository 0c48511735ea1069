"""What is taken for what over the validation split, and whether it is as sure as it is right.

Legend: R rows, B rows of a batch, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from crossmodal.calibration import reliability
from crossmodal.heads import ClassificationHead
from crossmodal.media import MediaLog
from crossmodal.module import CrossModalModule
from crossmodal.observers.logging import add_media, is_look, log

MOST_CLASSES = 30  # of which each is told by itself


class AnswersInWhole(Callback):
    """Logs after each validation, of tasks with classes: confusion, recall of each class, and calibration.

    Args:
        media: Where matrices and curves go.
    """

    def __init__(self, media: MediaLog) -> None:
        self._media = media
        self._counts: dict[str, Tensor] = {}
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
        self._counts, self._sure = {}, {}

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
            if not isinstance(head, ClassificationHead) or task not in targets:
                continue
            count = head.num_outputs
            sure_B, said_B = head.activate(outputs["outputs"][task]).max(-1)
            self._sure.setdefault(task, []).append((sure_B.float(), said_B == targets[task]))
            if count <= MOST_CLASSES:
                counts_CC = torch.bincount(targets[task] * count + said_B, minlength=count**2).view(count, count)
                self._counts[task] = self._counts.get(task, 0) + counts_CC

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
            if task in self._counts:
                counts_CC, names = self._counts[task].cpu(), pl_module.outputs[task]
                of_class = zip(names, counts_CC.diag().tolist(), counts_CC.sum(1).tolist(), strict=True)
                figures |= {f"{prefix}recall/{name}": right / count for name, right, count in of_class if count}
                add_media(
                    *(trainer, self._media, f"{prefix}confusion", "matrix"),
                    rows=names,
                    columns=names,
                    values=counts_CC.tolist(),
                    row_title="target",
                    column_title="prediction",
                    tracked=tracked,
                )
            log(trainer, figures)
        self._counts, self._sure = {}, {}
