"""What is measured on a split, through Lightning."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from crossmodal.alignment import InfoNCE
from crossmodal.balance import GradientModulation
from crossmodal.fusion import ConcatFusion
from crossmodal.heads import ClassificationHead
from crossmodal.meta_learner import MetaLearner
from crossmodal.module import CrossModalModule
from datamodules.batch import PairedBatch
from tests.crossmodal.mixtures import CLASSES, NAMES, WIDTH, GivenTokens, a_batch


def a_module(**parts: Any) -> CrossModalModule:
    torch.manual_seed(0)
    return CrossModalModule(
        {name: GivenTokens() for name in NAMES},
        {"answer": [str(number) for number in range(CLASSES)]},
        fusion=partial(ConcatFusion, width=WIDTH),
        heads={"answer": ClassificationHead},
        alignments=[partial(InfoNCE, source="sees", target="guesses")],
        feature_store=None,
        **parts,
    )


class Interrupted(Callback):
    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        raise TimeoutError

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        raise TimeoutError


def rows() -> list[PairedBatch]:
    batches = [a_batch(16, seed=seed, lacking=True) for seed in range(3)]
    for batch in batches:
        batch.kinds = {"even": torch.arange(16) % 2 == 0}
    return batches


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("parts", [{"meta_learner": MetaLearner}, {"balance": GradientModulation}])
def test_what_an_interrupted_epoch_measured_is_forgotten(tmp_path: Path, parts: dict[str, Any], stage: str) -> None:
    def measure(module: LightningModule, batches: list[PairedBatch], *callbacks: Callback) -> Any:
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, callbacks=list(callbacks), **options)
        return getattr(trainer, stage)(module, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]

    module = a_module(**parts)
    expected = measure(module, rows())
    with pytest.raises(TimeoutError):
        measure(module, [a_batch(64, seed=9)], Interrupted())
    assert measure(module, rows()) == expected
    names = {name.partition("/")[2] for name in expected[0]}
    assert names >= {"accuracy", "accuracy/even", "alone/sees", "sees-guesses/recall@1"}
