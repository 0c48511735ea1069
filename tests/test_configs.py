"""Every experiment in configs/ can be built and run, with no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT, Zygote

EXTENSIONS = sorted((ROOT / "configs" / "extend").glob("*.yaml"))
COMPOSITIONS = sorted((ROOT / "configs" / "compose").glob("*.yaml"))
SEARCHES = (ROOT / "configs" / "sweeps").glob("*.yaml")  # see tests/crossmodal/sweep/test_search.py
CONFIGS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*EXTENSIONS, *COMPOSITIONS, *SEARCHES})
FEW_VOICES = [f"--data.init_args.{split}_voices=1" for split in ("train", "val", "test")]
# nothing is stored, so that only the inputs of one batch are encoded
QUICK = ("--trainer.fast_dev_run", "true", "--model.feature_store", "null", "--data.init_args.batch_size", 8)
ONE_STEP = ("--data.init_args.batch_size", 8, "--trainer.max_epochs", 1, "--trainer.logger", "false")
ONE_STEP += tuple(f"--trainer.limit_{split}_batches=1" for split in ("train", "val", "test"))


def test_there_are_configs() -> None:
    assert {"dots.yaml", "easy_vqa.yaml"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_fits(crossmodal: Zygote, tmp_path: Path, config: Path) -> None:
    if "DigitDomains" in config.read_text():
        pytest.importorskip("skimage", reason="pip install 'crossmodal[digits]'")
        if not (Path(os.environ.get("CROSSMODAL_DATA", "")) / "mnist").is_dir():
            pytest.skip("CROSSMODAL_DATA names no folder with mnist")
    is_spoken = "SpokenVQA" in config.read_text()
    command = ("expert", "fit") if config.parent.name == "experts" else ("fit",)
    status, output = crossmodal.run(
        *command, "--config", config, *QUICK, *(FEW_VOICES if is_spoken else ()), cwd=tmp_path
    )
    assert status == 0, output
    assert "Traceback" not in output
    assert ("round 1/1" if config.parent.name == "replicas" else "epoch 1/1") in output
    left = {path.name for path in tmp_path.iterdir()} - {path.name for path in tmp_path.glob("output-*.txt")}
    assert left == ({"data"} if is_spoken and "questions: written" not in config.read_text() else set())


@pytest.fixture(scope="module")
def trained(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that answers questions about pictures, and an expert for speech; neither is good."""
    folder = tmp_path_factory.mktemp("trained")
    easy = ROOT / "configs" / "easy_vqa.yaml"
    status, output = crossmodal.run("fit", "--config", easy, *ONE_STEP, "--model.feature_store", "null", cwd=folder)
    assert status == 0, output
    speech = ROOT / "configs" / "experts" / "speech_to_question.yaml"
    status, output = crossmodal.run("expert", "fit", "--config", speech, *ONE_STEP, *FEW_VOICES, cwd=folder)
    assert status == 0, output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("config", EXTENSIONS, ids=lambda path: path.name)
def test_extends(crossmodal: Zygote, trained: Path, config: Path) -> None:
    command = ("extend", "--model", "runs/easy_vqa/0", "--expert", "speech=runs/experts/speech_to_question")
    quick = (*FEW_VOICES, "--data.init_args.batch_size", 8)
    status, output = crossmodal.run(*command, "--like", "question", "--config", config, *quick, cwd=trained)
    assert status == 0, output
    assert "unchanged: 2,000 rows of the val split without speech are answered as before, bit for bit" in output


@pytest.mark.slow
@pytest.mark.parametrize("config", COMPOSITIONS, ids=lambda path: path.name)
def test_composes(crossmodal: Zygote, trained: Path, config: Path) -> None:
    speech = ROOT / "configs" / "experts" / "speech.yaml"
    status, output = crossmodal.run("expert", "fit", "--config", speech, *ONE_STEP, *FEW_VOICES, cwd=trained)
    assert status == 0, output
    status, output = crossmodal.run("fit", "--config", config, *QUICK, *FEW_VOICES, cwd=trained)
    assert status == 0, output
    assert ("round 1/1" if config.parent.name == "replicas" else "epoch 1/1") in output


def test_a_trial_stores_tokens_and_leaves_no_run(crossmodal: Zygote, tmp_path: Path) -> None:
    config = ROOT / "configs" / "dots.yaml"
    options = ("--trainer.fast_dev_run", "true", "--data.init_args.num_pictures", 16)
    status, output = crossmodal.run("fit", "--config", config, *options, cwd=tmp_path)
    assert status == 0, output
    assert "inputs encoded" in output
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["features"]
