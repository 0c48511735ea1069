"""A model with a meta-learner, as a user trains it, asks it and builds on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import ROOT, Zygote


@pytest.fixture(scope="module")
def folder(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meta_learner")
    experiment: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    experiment["model"]["meta_learner"] = {"class_path": "crossmodal.meta_learner.MetaLearner"}
    experiment["trainer"] |= {"max_epochs": 2, "logger": False}
    experiment["data"]["init_args"] |= {"num_pictures": 64, "batch_size": 16, "absent": 0.2}
    (folder / "whom.yaml").write_text(yaml.safe_dump({**experiment, "name": "whom"}))
    status, output = crossmodal.run("fit", "--config", "whom.yaml", cwd=folder)
    assert status == 0, output
    assert "Traceback" not in output
    return folder


def test_what_is_logged(folder: Path) -> None:
    experts = list(yaml.safe_load((folder / "runs/whom/0/config.yaml").read_text())["experts"])
    figures = json.loads((folder / "runs/whom/0/metrics.json").read_text())
    weights = [figures[f"test/weight/{name}"] for name in (*experts, "fusion")]
    assert sum(weights) == pytest.approx(1, abs=1e-3)
    assert all(0 <= figures[f"test/share/{name}"] <= 1 for name in experts)
    assert all(0 <= figures[f"test/alone/{name}"] <= 1 for name in (*experts, "fusion"))
    assert 0 <= figures["test/disagreement"] <= 1


def test_what_is_predicted(crossmodal: Zygote, folder: Path) -> None:
    config = "runs/whom/0/config.yaml"
    status, output = crossmodal.run(
        "predict", "--config", config, "--ckpt_path", "best", "--output", "whom.parquet", cwd=folder
    )
    assert status == 0, output
    experts = list(yaml.safe_load((folder / config).read_text())["experts"])
    table = pq.read_table(folder / "whom.parquet").to_pydict()
    for row, modalities in enumerate(table["modalities"]):
        weights = {name: table[f"weight/{name}"][row] for name in (*experts, "fusion")}
        assert sum(weights.values()) == pytest.approx(1, abs=1e-5)
        lacking = [name for name in experts if name not in modalities.split("+")]
        assert all(weights[name] == 0 for name in lacking)
        assert all((table[f"prediction/{name}"][row] is None) == (name in lacking) for name in experts)
    assert all(f"prediction/{name}" in table for name in (*experts, "fusion"))


def test_it_is_an_expert_of_a_larger_model(crossmodal: Zygote, folder: Path) -> None:
    experiment = yaml.safe_load((folder / "whom.yaml").read_text())
    experiment["experts"] = {
        "seen": {"class_path": "crossmodal.composite.CompositeExpert", "init_args": {"run": "runs/whom/0"}}
    }
    del experiment["model"]["meta_learner"]
    (folder / "larger.yaml").write_text(yaml.safe_dump({**experiment, "name": "larger"}))
    status, output = crossmodal.run("fit", "--config", "larger.yaml", cwd=folder)
    assert status == 0, output
    assert (folder / "runs/larger/0/metrics.json").exists()


def test_it_cannot_be_extended_yet(crossmodal: Zygote, folder: Path) -> None:
    experiment = yaml.safe_load((folder / "whom.yaml").read_text())
    experiment["model"]["joined"] = {list(experiment["experts"])[-1]: {"model": "runs/whom/0/checkpoints/best.ckpt"}}
    (folder / "joined.yaml").write_text(yaml.safe_dump({**experiment, "name": "joined"}))
    status, output = crossmodal.run("fit", "--config", "joined.yaml", cwd=folder)
    assert status in (1, 2)
    assert "Traceback" not in output
    assert "model.meta_learner: a model with one cannot be extended yet" in output
