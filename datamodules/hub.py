"""Data sets of Hugging Face: by their name on the hub, or in a folder."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from huggingface_hub.constants import HF_HOME

from datamodules.columns import Column, Place
from datamodules.hub_tables import as_cells, class_names, load
from datamodules.paired import Split
from datamodules.splits import ALSO_CALLED, SPLITS
from datamodules.splits import Split as SplitRule
from datamodules.table_data import Part, TableData, parts_of
from datamodules.tables import Table
from datamodules.tables.files import Wanted, choose
from datamodules.targets import Target


class HubData(TableData):
    """Rows of a Hugging Face data set: its columns become modalities and targets.

    Pictures and sounds are read from the files that the data set holds. Classes have its names, in its order; -1 is
    no class.

    Args:
        path: A folder that `save_to_disk` wrote, or another that `load_dataset` reads; or a name on the hub, from
            which it is fetched once, into that library's own cache (HF_HOME).
        modalities: By name, which columns make it.
        targets: By task, which columns make it; predictions need none, and neither does a model that only aligns.
        name: Of the data set's configuration, if it has several.
        revision: Branch, tag or commit on the hub.
        splits: Which of its splits are `train`, `val`, `test` and `predict`, and no others; by default those with the
            usual names, such as `validation`.
        split: How the rows of its training split are split: by a column, or by chance. What that makes stands for the
            data set's own split.
        id: Column of the rows' names; by default they are named by split and number, such as `train#17`.
        on_error: `stop` ends at the first rows that cannot be used; `quarantine` leaves them out, and lists them in
            quarantine.jsonl of the run, or beside predictions.
        max_quarantined: Stop where more than this share of a split's rows is left out.
        batch_size: Rows a batch.
        num_workers: Processes that read ahead.
        seed: Of splits by chance; of the order of the rows together with `seed_everything`.

    Raises:
        ValueError: Settings do not fit together.
    """

    def __init__(
        self,
        path: str,
        *,
        modalities: dict[str, Column],
        targets: dict[str, Target],
        name: str | None = None,
        revision: str | None = None,
        splits: dict[str, str] | None = None,
        split: SplitRule | None = None,
        id: str | None = None,
        on_error: Literal["stop", "quarantine"] = "stop",
        max_quarantined: float = 0.05,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            modalities=modalities,
            targets=targets,
            split=split,
            id=id,
            on_error=on_error,
            max_quarantined=max_quarantined,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.path = path
        self.configuration = name
        self.revision = revision
        self.splits = splits or {}
        for ours in self.splits:
            if ours not in SPLITS:
                raise ValueError(f"data.init_args.splits: {ours!r} is none of {', '.join(SPLITS)}")
        for ours, share in (("val", self.rule.val), ("test", self.rule.test)):
            if share and ours in self.splits:
                raise ValueError(f"data.init_args.splits.{ours}: name a split, or give a share in `split`, not both")

    def part(self, split: Split) -> Part | None:
        """Return a split's rows: made of the training split, or of the data set's own split."""
        if split == "train" or split not in self.splits:
            made = self._parts_of_train.get(split)
            if made is not None or split == "train":
                return made
        return self._open(split) if split in self._names else None

    @cached_property
    def _parts_of_train(self) -> dict[Split, Part]:
        if "train" not in self._names:
            if self.rule != SplitRule():
                raise ValueError(f"data.init_args.split: {self.path} has no training split; {self._there_is}")
            return {}
        return parts_of(self._open("train"), self.rule, self.seed)

    def _open(self, split: Split) -> Part:
        name = self._names[split]
        data_set = self._data_sets[name]
        what = f"{self.path}, split {name!r}"
        if not len(data_set):
            raise ValueError(f"{what}: has no rows")
        columns = {*self.columns(split), *(self.rule.names if split == "train" else [])}
        wanted = Wanted(columns, () if split == "train" else self.optional_columns)
        data = data_set.data.table.select(choose(what, data_set.column_names, wanted))
        for place, column in enumerate(data.column_names):
            names = None if column in self._as_numbers else class_names(data_set.features[column])
            try:
                data = data.set_column(place, column, as_cells(data.column(column), names))
            except pa.ArrowIndexError:
                raise ValueError(
                    f"{what}, column {column!r}: has a number of none of its {len(names or [])} classes"
                ) from None
        folder = Path(self.path).expanduser()
        # what comes from a hub is others': it names no files but those that came with it
        place_of_files = Place(str(folder)) if folder.is_dir() else Place(HF_HOME, is_fenced=True)
        return Part(Table(name, data), np.arange(len(data)), place_of_files, [])

    @cached_property
    def _outputs(self) -> dict[str, list[str]]:
        self.targets = {task: self._with_classes(target) for task, target in self.targets.items()}
        return super()._outputs

    def _with_classes(self, target: Target) -> Target:
        """Fill in the names that the data set has for them, if it has."""
        if target.type == "number" or target.column is None or target.classes is not None:
            return target
        features = (data_set.features.get(target.column) for data_set in self._data_sets.values())
        return replace(target, classes=next(filter(None, map(class_names, features)), None))

    @cached_property
    def _as_numbers(self) -> set[str]:
        """Columns whose numbers are wanted, though they may be those of classes."""
        names = [name for spec in self.modalities.values() for name in spec.numeric or []]
        for target in self.targets.values():
            names += target.names if target.type == "number" else target.columns or []
        return set(names)

    @cached_property
    def _names(self) -> dict[str, str]:
        """What the data set calls our splits."""
        for ours, name in self.splits.items():
            if name not in self._data_sets:
                raise ValueError(f"data.init_args.splits.{ours}: {self.path} has no split {name!r}; {self._there_is}")
        usual = {ALSO_CALLED.get(name.lower(), name.lower()): name for name in reversed(self._data_sets)}
        names = self.splits or {ours: usual[ours] for ours in SPLITS if ours in usual}
        if not names:
            raise ValueError(f"data.init_args.splits: say which split of {self.path} is `train`; {self._there_is}")
        return names

    @property
    def _there_is(self) -> str:
        return f"it has {', '.join(map(repr, self._data_sets))}"

    @cached_property
    def _data_sets(self) -> dict[str, Any]:
        return load(self.path, self.configuration, self.revision)
