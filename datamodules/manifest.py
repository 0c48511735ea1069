"""Data of one's own: a CSV, TSV, JSON lines or Parquet file with a line for each row, or a folder of class folders."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from datamodules.columns import Column, Place
from datamodules.decoding import is_url
from datamodules.paired import Split
from datamodules.splits import Split as SplitRule
from datamodules.table_data import Part, TableData, parts_of
from datamodules.tables import open_table
from datamodules.tables.files import ManifestFile, TableFile
from datamodules.targets import Target


class Manifest(TableData):
    """Rows of a file: its columns become modalities and targets.

    Args:
        modalities: By name, which columns make it.
        targets: By task, which columns make it; predictions need none, and neither does a model that only aligns.
        train: A file (.csv, .tsv, .jsonl, .ndjson, .parquet) or a folder of class folders, or a URL of a file.
        val: Another one to validate on.
        test: Another one to test on.
        predict: Another one to predict, which needs no targets; by default the test split is predicted.
        split: How the rows of `train` are split: by a column, or by chance.
        root: Folder that paths begin in, and that none may lead out of; by default they begin where the manifest
            lies, and may lead anywhere.
        id: Column of the rows' names; by default they are named by file and line, or in a folder by their file.
        cache: Folder for what is kept of manifests that are too large for memory.
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
        *,
        modalities: dict[str, Column],
        targets: dict[str, Target],
        train: ManifestFile | None = None,
        val: ManifestFile | None = None,
        test: ManifestFile | None = None,
        predict: ManifestFile | None = None,
        split: SplitRule | None = None,
        root: str | None = None,
        id: str | None = None,
        cache: str = "runs/tables",
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
        files: dict[Split, str | None] = {"train": train, "val": val, "test": test, "predict": predict}
        self.files = {name: file for name, file in files.items() if file is not None}
        if not self.files:
            raise ValueError("data.init_args: give a manifest as `train`, or one for another split")
        if split is not None and "train" not in self.files:
            raise ValueError("data.init_args.split: is of `train`, which is not given")
        for name, share in (("val", self.rule.val), ("test", self.rule.test)):
            if share and name in self.files:
                raise ValueError(f"data.init_args.{name}: give a file, or a share in `split`, not both")
        self.root = root
        self.cache = Path(cache)

    def part(self, split: Split) -> Part | None:
        """Return a split's rows: of its own file, or of the training file."""
        if split in self.files and split != "train":
            return self._open(split)
        return self._parts_of_train.get(split)

    @cached_property
    def _parts_of_train(self) -> dict[Split, Part]:
        if "train" not in self.files:
            return {}
        parts = parts_of(self._open("train"), self.rule, self.seed)
        for name in ("val", "test", "predict"):
            if name in parts and name in self.files:
                raise ValueError(
                    f"data.init_args.{name}: {self.files[name]} is given, and column {self.rule.column!r} of "
                    f"{self.files['train']} names {name} rows too; which are meant?"
                )
        return parts

    def version(self, split: Split) -> object:
        """Return the size and time of the split's file."""
        file = self.files.get(split, self.files.get("train"))
        if file is None or is_url(file) or Path(file).is_dir():
            return None
        return TableFile(file).state()

    def _open(self, split: Split) -> Part:
        file = self.files[split]
        columns = self.columns(split)
        if split == "train":
            columns += [name for name in self.rule.names if name not in columns]
        is_folder = Path(file).is_dir()
        row_names = self.id or ("file" if is_folder else None)
        columns += [row_names] if row_names and row_names not in columns else []
        optional = () if split == "train" else self.optional_columns
        table, faults = open_table(file, columns, optional=optional, strings=self.text_columns, cache=self.cache)
        if self.root is not None and not is_url(self.root) and not Path(self.root).is_dir():
            raise ValueError(f"data.init_args.root: there is no folder {self.root}")
        folder = file if is_folder else file.rpartition("/")[0] if is_url(file) else str(Path(file).parent)
        place = Place(self.root or folder, is_fenced=self.root is not None)
        return Part(table, np.arange(len(table)), place, faults, row_names)
