"""A closer look at some validation rows, now and then: by subsets of the modalities, in directions, and at examples.

Legend: B rows, D width, L slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from crossmodal.fusion import WorkspaceFusion
from crossmodal.media import MediaLog
from crossmodal.module import CrossModalModule
from crossmodal.observers.logging import When, add_media, is_look, log
from crossmodal.observers.workspace import Writing, effective_rank
from crossmodal.reports import report
from crossmodal.subsets import few_subsets
from datamodules.batch import PairedBatch
from datamodules.checking import in_words, read_sample
from datamodules.paired import PairedDataModule

ROWS = 256  # that are looked at, or of a small training split a share, so that a look costs little beside an epoch
SHARE = 1 / 8
LEAST_ROWS = 32
BATCHES = 8  # that they are from, at most
EXAMPLES = 8


class LookClosely(Callback):
    """Logs, after the first validation, the second, the fourth, the eighth and so on, and the last, what costs more.

    That is the score by subsets of the modalities, effective ranks, which modality writes to which slot of the
    workspace, and examples with all that was said of them.

    Args:
        media: Where pictures go.
    """

    def __init__(self, media: MediaLog) -> None:
        self._media = media
        self._validations = 0
        self._is_watched = False
        self._rows: list[PairedBatch] = []
        self._when: When | None = None  # they were validated
        self._inputs: dict[str, dict[str, Any]] = {}  # of examples, by the names of their rows

    def state_dict(self) -> dict[str, int]:
        """Return how many validations there were."""
        return {"validations": self._validations}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Count on from there."""
        self._validations = state_dict["validations"]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin anew."""
        self._rows, self._when = [], When.now(trainer)
        self._is_watched = trainer.state.fn == "fit" and not trainer.sanity_checking
        self._validations += self._is_watched

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep some rows, from all over the split."""
        assert isinstance(pl_module, CrossModalModule)
        if not self._is_watched or outputs is None:
            return
        given: PairedBatch = outputs["batch"]
        if outputs["choice"] is None:
            known = replace(given, inputs={**given.inputs, **outputs["tokens"]})
        else:
            known = outputs["choice"].whole  # a subset may choose what all together did not
        stride, count = self._share(trainer)
        if batch_idx % stride == 0 and len(self._rows) < BATCHES and len(known):
            self._rows.append(known.take(torch.linspace(0, len(known) - 1, min(count, len(known))).long()))

    @staticmethod
    def _share(trainer: Trainer) -> tuple[int, int]:
        """Return of how many batches one is looked at, and how many of its rows.

        Few batches from all over the split: what a subset says of a few rows of each of many takes a GPU as long as
        what it says of all of them.
        """
        data = getattr(trainer, "datamodule", None)
        train = data.rows("train") if isinstance(data, PairedDataModule) else None
        wanted = min(ROWS, max(LEAST_ROWS, int(SHARE * len(train)))) if train is not None else ROWS
        there = trainer.num_val_batches[0]
        batches = BATCHES if math.isinf(there) else int(there)  # of a stream, nobody knows whose length, the first
        stride = max(1, math.ceil(batches / BATCHES))
        return stride, math.ceil(wanted / max(1, math.ceil(batches / stride)))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if it is time to."""
        if self._is_watched and is_look(self._validations):
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look after the last validation, too, of which nobody knew that it was: training may stop early."""
        modes = [(module, module.training) for module in pl_module.modules()]
        with torch.inference_mode():
            pl_module.eval()
            self._look(trainer, pl_module)
        for module, was_training in modes:
            module.training = was_training

    def _look(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, CrossModalModule)
        if not self._rows:
            return
        self._rows = [replace(kept, inputs={**kept.inputs, **pl_module.model.encode(kept)}) for kept in self._rows]
        figures = _ranks_of_experts(self._rows)
        if pl_module.model.fusion is not None:
            figures |= _by_subsets(pl_module, self._rows)
            figures |= self._look_at_workspace(trainer, pl_module)
            self._show_examples(trainer, pl_module)
        log(trainer, {f"val/{name}": value for name, value in figures.items()}, self._when)
        self._rows = []

    def _look_at_workspace(self, trainer: Trainer, module: CrossModalModule) -> dict[str, float]:
        fusion, model = module.model.fusion, module.model
        if not isinstance(fusion, WorkspaceFusion):
            pooled_RD = torch.cat([model.workspace(rows).mean(1) for rows in self._rows])
            return {"rank/workspace": effective_rank(pooled_RD)}
        writing = Writing(fusion)
        with writing.watched():
            pooled_RD = torch.cat([model.workspace(rows).mean(1) for rows in self._rows])
        names, modalities, values = writing.matrix()
        add_media(
            *(trainer, self._media, "val/workspace", "matrix"),
            rows=names,
            columns=modalities,
            values=values,
            row_title="slot",
            column_title="modality",
            when=self._when,
        )
        return {"rank/workspace": effective_rank(pooled_RD)}

    def _show_examples(self, trainer: Trainer, module: CrossModalModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, PairedDataModule):
            return
        chosen = [batch.take(torch.tensor(of)) for batch, of in _various(self._rows, dict(module.heads))]
        self._read_inputs(data, [name for batch in chosen for name in batch.ids])
        rows = [row for batch in chosen for row in self._examples(module, batch)]
        if rows:
            add_media(trainer, self._media, "val/examples", "examples", rows=rows, when=self._when)

    def _examples(self, module: CrossModalModule, few: PairedBatch) -> list[dict[str, Any]]:
        heads = dict(module.heads)
        tokens, given, _ = module.model.observe(few)
        outputs, answers = module.model.answer(tokens, given)
        rows = []
        for task, said in report(heads, module.outputs, outputs, answers).items():
            if task not in few.targets:
                continue
            head = heads[task]
            activated = head.activate(outputs[task])
            confidence_B, _ = head.opinions().certainty(activated)
            right_B = head.opinions().right(activated, few.targets[task])
            for number, name in enumerate(few.ids):
                members = {member: of[number] for member, of in said["members"].items() if of[number] is not None}
                rows.append(
                    {
                        "id": name,
                        "inputs": self._inputs[name],
                        "task": task,
                        "target": in_words(few.targets[task][number].cpu().numpy(), module.outputs[task]),
                        "prediction": str(said["prediction"][number]),
                        "right": bool(right_B[number] == 1) if head.opinions().higher_is_better else None,
                        "confidence": float(confidence_B[number]),
                        "experts": {member: str(one) for member, one in members.items()},
                        "disagreement": None if answers is None else float(answers.disagreement[task][number]),
                    }
                )
        return rows

    def _read_inputs(self, data: PairedDataModule, names: list[str]) -> None:
        """Read what rows show; it is the same at each look. Of rows of one name nobody knows which it is."""
        wanted = {*names} - self._inputs.keys()
        places: dict[str, list[int]] = {name: [] for name in wanted}
        rows = data.rows("val")
        assert rows is not None
        for number, name in enumerate(rows.ids) if wanted else ():
            if name in wanted:
                places[name].append(number)
        for name, of in places.items():
            sample = read_sample(rows, of[0], list(data.base_transforms), data.outputs) if len(of) == 1 else None
            inputs = {} if sample is None else sample.inputs
            self._inputs[name] = {key: self._media.keep(raw) for key, raw in inputs.items()}


def _various(batches: list[PairedBatch], heads: Mapping[str, object]) -> Iterator[tuple[PairedBatch, list[int]]]:
    """Yield batches, each with the numbers of rows that are shown: the first of each target of a task, then others."""
    task = next((task for task in heads if any(task in batch.targets for batch in batches)), None)
    places = [(place, number) for place, batch in enumerate(batches) for number in range(len(batch))]
    firsts: dict[str, tuple[int, int]] = {}
    for place, number in places:
        if task in batches[place].targets:
            firsts.setdefault(str(batches[place].targets[task][number].tolist()), (place, number))
    chosen = [*firsts.values()][:EXAMPLES]
    chosen += [one for one in places if one not in chosen][: EXAMPLES - len(chosen)]
    for place, batch in enumerate(batches):
        if numbers := [number for of, number in chosen if of == place]:
            yield batch, numbers


def _ranks_of_experts(batches: list[PairedBatch]) -> dict[str, float]:
    pooled: dict[str, list[Tensor]] = {}
    for batch in batches:
        for name, tokens in batch.inputs.items():
            pooled.setdefault(name, []).append(tokens.mean().float())
    return {f"rank/{name}": effective_rank(torch.cat(of)) for name, of in pooled.items()}


def _by_subsets(module: CrossModalModule, batches: list[PairedBatch]) -> dict[str, float]:
    """Return the score of each task by subsets of the modalities alone, of the rows that have all of them."""
    model, heads = module.model, dict(module.heads)
    modalities = list(model.experts)
    found = {}
    for subset in few_subsets(modalities):
        scores: dict[str, list[Tensor]] = {}
        for whole in batches:
            has_B = torch.stack([whole.present(name) for name in subset]).all(0)
            batch = whole.take(has_B.nonzero().flatten())
            if not len(batch):
                continue
            tokens, given, _ = model.observe(batch.without(*(name for name in modalities if name not in subset)))
            for task, outputs_BC in model.predict(tokens, given).items():
                if task in batch.targets:
                    opinions, head = heads[task].opinions(), heads[task]
                    scores.setdefault(task, []).append(opinions.scores(head.activate(outputs_BC), batch.targets[task]))
        named = "+".join(name for name in modalities if name in subset)
        for task, of in scores.items():
            figure = f"{module.prefixes[task]}{heads[task].opinions().score}"
            found[f"{figure}/by/{named}"] = float(torch.cat(of).mean())
    return found
