"""`crossmodal predict`: batch by batch, so that a long job that was killed goes on where it was.

Legend: B rows of a batch, C outputs of a task.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from crossmodal.callbacks import Interrupted
from crossmodal.checkpoints import FREE, differences
from crossmodal.module import CrossModalModule
from crossmodal.output import say, tell
from crossmodal.prediction_files import GROUP_CELLS, PredictionParts
from crossmodal.reports import reported_columns
from datamodules.batch import PairedBatch
from datamodules.paired import PairedDataModule
from datamodules.rows import PairedRows

FLUSH_SECONDS = 10.0  # what is lost at most when the job is killed


def predict(
    trainer: Trainer,
    model: CrossModalModule,
    data: PairedDataModule,
    path: Path,
    checkpoint: Path,
    *,
    settings: str = "",
    limit: int | None = None,
) -> None:
    """Write a checkpoint's predictions; go on after those that the same job left when it was killed.

    Args:
        trainer: That has predicted nothing yet.
        model: The checkpoint's.
        data: Connected to the model's experts; its rows are cut to those that are wanted.
        path: The file, .parquet or .csv.
        checkpoint: Whose weights are used.
        settings: The configuration as YAML: a job with other experts, data or model begins anew.
        limit: Only so many rows, the first.

    Raises:
        ValueError: The model has no heads, the file is of another kind, another process writes it, or there are no
            rows to predict.
        Interrupted: It was asked to end, by SIGTERM.
    """
    if not model.model.heads:
        raise ValueError(
            "model.heads: there is none, so there is nothing to predict; `crossmodal test` measures how well "
            "model.alignments do, and `crossmodal expert fit` keeps the expert that they trained"
        )
    members = [] if model.model.mixture is None else [*model.model.mixture.networks]
    columns = {task: reported_columns(head, model.outputs[task], members) for task, head in model.heads}
    rows = _rows_to_predict(trainer, data, limit)
    parts = PredictionParts(path)
    config = yaml.safe_load(settings) or {}
    job = {
        "checkpoint": _digest_of_file(checkpoint),
        "rows": [len(rows), _digest_of_rows(rows), data.version(data.predicted_split)],
        "batch_size": data.batch_size,
        "modalities": list(model.experts),
        "outputs": columns,
        **{key: config.get(key) for key in ("experts", "data", "model")},
        "trainer": {"precision": str(trainer.precision)},
    }
    _go_on(parts, json.loads(json.dumps(job)))
    if not parts.batches and data.quarantine is not None:
        data.quarantine.list_anew()
    if parts.rows:
        say(f"going on after {parts.rows:,} of {len(rows):,} rows")
    if parts.batches * data.batch_size < len(rows):
        writer = PredictionWriter(parts, list(model.experts), columns, num_rows=len(rows))
        trainer.callbacks.append(writer)  # type: ignore[attr-defined]
        try:
            trainer.predict(
                model, datamodule=data, ckpt_path=str(checkpoint), return_predictions=False, weights_only=True
            )
        except (RuntimeError, EOFError, ConnectionError):
            if trainer.received_sigterm:  # and so did the processes that read ahead, perhaps in the midst of a batch
                raise Interrupted(signal.SIGTERM) from None
            raise
    parts.merge()
    left_out = len(rows) - parts.rows
    if data.quarantine is not None:  # the table alone shows that some cannot be used
        left_out = max(left_out, data.quarantine.count(data.predicted_split))
    say(f"{parts.rows:,} predictions in {path}" + (f"; {left_out:,} rows are left out" if left_out else ""))
    tell({"rows": parts.rows, "left_out": left_out}, {"predictions": path})


def _rows_to_predict(trainer: Trainer, data: PairedDataModule, limit: int | None) -> PairedRows:
    """Cut the split to the rows that are wanted, so that no other's inputs are read; return them."""
    split = data.predicted_split
    rows = data.rows(split)
    if rows is None:
        raise ValueError(f"{type(data).__name__} has no {split} split")
    count = len(rows) if limit is None else min(limit, len(rows))
    batches = -(-count // data.batch_size)
    most = trainer.limit_predict_batches
    batches = min(batches, most) if isinstance(most, int) else int(batches * most)
    if batches == 0:
        raise ValueError(f"trainer.limit_predict_batches: {most} leaves nothing to predict")
    trainer.limit_predict_batches = 1.0  # of what is left to do it would be another share
    data.limit(split, min(count, batches * data.batch_size))
    limited = data.rows(split)
    assert limited is not None
    return limited


def _go_on(parts: PredictionParts, job: Any) -> None:
    """Keep the parts if they are of this job; else remove them, and say what differs."""
    before = parts.job()
    other = None if before is None else _difference(before, job)
    if other is not None:
        say(f"predicting from the beginning: not the same {other} as in {parts.folder}")
    if before is None or other is not None:
        parts.begin(job)
    parts.go_on()


class PredictionWriter(Callback):
    """Keeps predictions as they come: id, prediction, the modalities that the row has, and a column for each output.

    Args:
        parts: Where they go, and after which batches to go on.
        modalities: In the order in which they are named.
        columns: By task the names of the columns that its outputs go to.
        num_rows: That there will be.
    """

    def __init__(
        self, parts: PredictionParts, modalities: list[str], columns: dict[str, list[str]], *, num_rows: int
    ) -> None:
        self.parts = parts
        self.modalities = modalities
        self.columns = columns
        self.num_rows = num_rows
        self._waiting: list[tuple[pa.Table, int]] = []  # rows, and how many batches are done with them
        self._flushed = time.monotonic()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on after the last batch that is kept."""
        loader: Any = trainer.predict_dataloaders
        loader.load_state_dict({"epoch": 0, "batches": self.parts.batches})
        trainer.predict_loop.max_batches = [len(loader) - self.parts.batches]  # which progress bars show
        self._flushed = time.monotonic()

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: PairedBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take one batch; end, if asked to."""
        loader: Any = trainer.predict_dataloaders
        if len(batch):
            self._waiting.append((self._table(outputs, batch), loader.state_dict()["batches"]))
        cells = sum(table.num_rows * table.num_columns for table, _ in self._waiting)
        if cells >= GROUP_CELLS or time.monotonic() - self._flushed >= FLUSH_SECONDS:
            self._flush()
        if trainer.received_sigterm:  # which Lightning does not answer while it predicts
            raise Interrupted(signal.SIGTERM)

    def _table(self, outputs: Any, batch: PairedBatch) -> pa.Table:
        decided: dict[str, Any] = {}
        reported: dict[str, Any] = {}
        for task, predicted in outputs.items():
            prefix = "" if len(outputs) == 1 else f"{task}/"
            decisions = predicted["prediction"]
            # a batch in which no label is on does not say what its lists are of, nor one in which a member says nothing
            labels = pa.list_(pa.string()) if decisions == [[]] * len(decisions) else None
            decided[f"{prefix}prediction"] = pa.array(decisions, labels)
            for name, said in predicted["members"].items():
                decided[f"{prefix}prediction/{name}"] = pa.array(said, decided[f"{prefix}prediction"].type)
            values_BC = predicted["reported"].float().cpu()
            for name, values_B in zip(self.columns[task], values_BC.unbind(-1), strict=True):
                reported[f"{prefix}{name}"] = values_B.numpy()
        present_of = [batch.present(modality).tolist() for modality in self.modalities]
        present = ["+".join(compress(self.modalities, row)) or "none" for row in zip(*present_of, strict=True)]
        return pa.table({"id": list(batch.ids), **decided, "modalities": present, **reported})

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []  # what cannot be written once is not tried again
        if waiting:
            self.parts.add([table for table, _ in waiting], waiting[-1][1])
        self._flushed = time.monotonic()

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the last batches."""
        self._flush()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what is done, and say so."""
        self._flush()
        if self.parts.rows or isinstance(exception, KeyboardInterrupt | Interrupted):
            sys.stderr.write(
                f"\n{self.parts.rows:,} of {self.num_rows:,} rows are predicted; the same command goes on after them\n"
            )


def _difference(before: Any, now: Any) -> str | None:
    """Return the name of something that two jobs differ in, and that predictions depend on."""
    for name, *values in differences(before, now):
        changes_precision = name == "model.feature_store" and None in values  # see Expert
        leaves_out = name.endswith(".on_error") and values[1] == "quarantine"  # only rows that are still to come
        if changes_precision or not (leaves_out or name.rpartition(".")[2] in {*FREE, "max_quarantined"}):
            return name
    return None


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_rows(rows: PairedRows) -> str:
    digest = hashlib.sha256()
    for modality, index_R in sorted(rows.index.items()):
        digest.update(modality.encode() + index_R.tobytes())
    for name in rows.ids:
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()
