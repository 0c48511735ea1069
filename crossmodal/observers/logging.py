"""How observers log: to all loggers of the run, at the step that Lightning logs at, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loggers import WandbLogger

from crossmodal.media import MediaLog


@dataclass(frozen=True)
class When:
    """A moment of training.

    Args:
        step: That Lightning logs at.
        epoch: From 0.
    """

    step: int
    epoch: int

    @classmethod
    def now(cls, trainer: Trainer) -> When:
        """Return this moment."""
        return cls(int(trainer.fit_loop.epoch_loop._batches_that_stepped), trainer.current_epoch)


def log(trainer: Trainer, figures: Mapping[str, float], when: When | None = None) -> None:
    """Log figures, by default of now; they are neither monitored nor shown while training."""
    when = when or When.now(trainer)
    for logger in trainer.loggers if figures else ():
        logger.log_metrics({**figures, "epoch": when.epoch}, step=when.step)


def is_look(number: int) -> bool:
    """Return whether a validation, the first of which is 1, is one after which there is a closer look."""
    return number & (number - 1) == 0  # a power of two


def add_media(
    trainer: Trainer,
    media: MediaLog,
    name: str,
    kind: str,
    *,
    tracked: bool = True,
    when: When | None = None,
    **content: Any,
) -> None:
    """Write media, by default of now, to the run's folder, and to wandb where the run has it and they are tracked."""
    when = when or When.now(trainer)
    line = media.add(name, kind, step=when.step, epoch=when.epoch, **content)
    for logger in trainer.loggers if tracked else ():
        if isinstance(logger, WandbLogger):
            columns, rows = _table(line, media)
            logger.log_table(key=name, columns=columns, data=rows, step=when.step)


def _table(line: Mapping[str, Any], media: MediaLog) -> tuple[list[str], list[list[Any]]]:
    if line["kind"] == "matrix":
        title = f"{line['row_title']} \\ {line['column_title']}"
        named = zip(line["rows"], line["values"], strict=True)
        return [title, *line["columns"]], [[name, *values] for name, values in named]
    if line["kind"] == "curve":
        return [line["x_title"], line["y_title"]], [list(pair) for pair in zip(line["x"], line["y"], strict=True)]
    modalities = list(dict.fromkeys(name for row in line["rows"] for name in row["inputs"]))
    experts = list(dict.fromkeys(name for row in line["rows"] for name in row["experts"]))
    columns = ["id", *modalities, "target", "prediction", *(f"prediction/{name}" for name in experts), "disagreement"]
    rows = [
        [
            row["id"],
            *(_shown(row["inputs"].get(name, {"kind": "absent"}), media) for name in modalities),
            *(row["target"], row["prediction"]),
            *(row["experts"].get(name) for name in experts),
            row["disagreement"],
        ]
        for row in line["rows"]
    ]
    return columns, rows


def _shown(kept: Mapping[str, Any], media: MediaLog) -> Any:
    import wandb

    if kept["kind"] == "image":
        return wandb.Image(str(media.folder / kept["file"]))
    if kept["kind"] == "audio":
        return wandb.Audio(str(media.folder / kept["file"]))
    if kept["kind"] == "absent":
        return None
    return kept.get("text") or str(kept.get("cells"))
