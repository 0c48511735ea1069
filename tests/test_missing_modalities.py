"""A mixed manifest with 30 % of its cells missing, through each fusion: training, testing, predicting, every subset."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from crossmodal.training_cli import TrainingCLI
from datamodules.batch import PairedBatch
from tests.conftest import Running, Zygote
from tests.mixed import COLUMNS, experiment, write_manifest

FUSIONS = ("WorkspaceFusion", "ConcatFusion")
MODALITIES = tuple(COLUMNS)
POINTS = 0.02


class Built(TrainingCLI):
    """An experiment with the weights of its best checkpoint, in this process."""

    def _run_subcommand(self, subcommand: str) -> None:
        checkpoint = torch.load(self.settings.ckpt_path, weights_only=True)
        self.model.on_load_checkpoint(checkpoint)
        self.model.load_state_dict(checkpoint["state_dict"])
        self.model.eval()

    @cached_property
    @torch.no_grad()
    def batches(self) -> list[PairedBatch]:
        """The test rows, each input encoded once."""
        return [
            replace(batch, inputs={name: self.model.experts[name](one) for name, one in batch.inputs.items()})
            for batch in self.datamodule.test_dataloader()
        ]

    @torch.no_grad()
    def accuracy(self, *missing: str, full: bool = False) -> float:
        """Measure on the test rows, or on those that have all modalities, as if some were missing."""
        right = rows = 0
        for batch in self.batches:
            wanted = torch.stack([batch.present(name) for name in MODALITIES if name in batch.index]).all(0)
            wanted |= not full
            predicted = self.model(batch.without(*missing))["shape"].argmax(-1)
            right += int((predicted == batch.targets["shape"])[wanted].sum())
            rows += int(wanted.sum())
        return right / rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, crossmodal: Zygote) -> Path:
    """Train each fusion with all modalities, and without each of them; two at a time."""
    folder = tmp_path_factory.mktemp("mixed")
    manifest = write_manifest(folder, num_rows=4000, missing=0.3)
    waiting: list[tuple[str, Running]] = []

    def wait() -> None:
        name, running = waiting.pop(0)
        status, output = running.wait()
        assert status == 0, output
        assert "Traceback" not in output, name

    for fusion in FUSIONS:
        for without in (None, *MODALITIES):
            config = experiment(manifest, fusion, without=without)
            path = folder / f"{config['name']}.yaml"
            path.write_text(yaml.safe_dump(config, sort_keys=False))
            waiting.append((path.stem, crossmodal.start("fit", "--config", path, cwd=folder, OMP_NUM_THREADS="1")))
            if len(waiting) > 1 or without is None:  # the first fills the feature store
                wait()
    while waiting:
        wait()
    return folder


def build(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Built:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["crossmodal", "test", "--config", f"{name}.yaml", "--ckpt_path", "best"])
    return Built()


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_subset_is_answered(
    folder: Path, fusion: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = build(folder, f"{fusion}-all", monkeypatch)
    figures = {
        subset: whole.accuracy(*(name for name in MODALITIES if name not in subset), full=True)
        for size in range(len(MODALITIES), 0, -1)
        for subset in combinations(MODALITIES, size)
    }
    with capsys.disabled():
        print(f"\n{fusion}: test accuracy of the rows that have all modalities, given some of them")
        for subset, accuracy in figures.items():
            print(f"  {accuracy:.3f}  {' '.join(subset)}")
    assert figures[MODALITIES] > 0.95
    # each alone says more than chance, which is one third
    assert all(accuracy > 0.42 for accuracy in figures.values())


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_missing_modality_costs_no_more_than_training_without_it(
    folder: Path, fusion: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = build(folder, f"{fusion}-all", monkeypatch)
    lines = []
    worst = 1.0
    for modality in MODALITIES:
        without = build(folder, f"{fusion}-{modality}", monkeypatch).accuracy()
        missing = whole.accuracy(modality)
        worst = min(worst, missing - without)
        lines.append(f"  {modality:<8} missing {missing:.3f}   trained without it {without:.3f}")
    with capsys.disabled():
        print(f"\n{fusion}: test accuracy of all rows {whole.accuracy():.3f}; with one modality missing:")
        print("\n".join(lines))
    assert worst >= -POINTS


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_rows_without_any_modality_get_the_prior_and_are_marked(folder: Path, crossmodal: Zygote, fusion: str) -> None:
    status, output = crossmodal.run(
        "predict", "--config", f"{fusion}-all.yaml", "--ckpt_path", "best", cwd=folder, OMP_NUM_THREADS="1"
    )
    assert status == 0, output
    table = pq.read_table(folder / "runs" / f"{fusion}-all" / "0" / "predictions.parquet").to_pydict()
    with (folder / "data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tests = {f"data.csv:{line}": row for line, row in enumerate(rows, start=2) if row["split"] == "test"}
    assert table["id"] == list(tests)
    counts = {
        name: sum(row["shape"] == name for row in rows if row["split"] == "train")
        for name in ("circle", "rectangle", "triangle")
    }
    prior = {name: (count + 1) / (sum(counts.values()) + 3) for name, count in counts.items()}
    nothing = 0
    for place, row in enumerate(tests.values()):
        held = [name for name, columns in COLUMNS.items() if any(row[column] for column in columns)]
        assert table["modalities"][place] == ("+".join(held) or "none")
        if not held:
            nothing += 1
            for name, share in prior.items():
                assert table[f"probability/{name}"][place] == pytest.approx(share, abs=1e-5)
    assert nothing > 0
    figures = json.loads((folder / "runs" / f"{fusion}-all" / "0" / "metrics.json").read_text())
    right = sum(said == row["shape"] for said, row in zip(table["prediction"], tests.values(), strict=True))
    assert figures["test/accuracy"] == pytest.approx(right / len(tests), abs=1e-3)
