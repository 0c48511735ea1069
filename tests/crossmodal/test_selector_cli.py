"""A budget, and two experts for one modality, as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.conftest import ROOT, Zygote


def experiment(**selector: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    image = found["experts"]["image"]
    found["experts"]["closer"] = {
        "class_path": "experts.another.another_expert",
        "init_args": {
            "modality": "image",
            "expert": {**image, "init_args": {**image["init_args"], "image_size": 64}},
        },
    }
    found["model"]["meta_learner"] = {"class_path": "crossmodal.meta_learner.MetaLearner"}
    found["model"]["selector"] = {"class_path": "crossmodal.selector.Selector", "init_args": selector}
    found["trainer"] |= {"max_epochs": 2, "logger": False}
    found["data"]["init_args"] |= {"num_pictures": 64, "batch_size": 16, "absent": 0.2}
    return found


@pytest.fixture(scope="module")
def folder(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("selector")
    (folder / "budget.yaml").write_text(yaml.safe_dump(experiment(first=["image", "question"], budget=0.6)))
    status, output = crossmodal.run("fit", "--config", "budget.yaml", "--name", "budget", cwd=folder)
    assert status == 0, output
    assert "Traceback" not in output
    return folder


def test_what_is_logged(folder: Path) -> None:
    figures = json.loads((folder / "runs/budget/0/metrics.json").read_text())
    assert figures["test/chosen/image"] == figures["test/chosen/question"] == 1
    assert 0 <= figures["test/chosen/closer"] <= 1
    assert 0 < figures["test/cost"] <= 1
    assert figures["test/weight/closer"] <= figures["test/chosen/closer"]


def test_what_is_predicted_without_encoding_all(crossmodal: Zygote, folder: Path) -> None:
    config = "runs/budget/0/config.yaml"
    arguments = ("predict", "--config", config, "--ckpt_path", "best", "--output", "budget.parquet")
    status, output = crossmodal.run(*arguments, "--model.feature_store", "another", cwd=folder)
    assert status == 0, output
    assert "closer: not stored, it runs on the rows that it is chosen for" in output
    table = pq.read_table(folder / "budget.parquet").to_pydict()
    assert len(table["weight/closer"]) == len(table["id"])
    status, output = crossmodal.run(*arguments[:-1], "stored.parquet", cwd=folder)
    assert status == 0, output
    again = pq.read_table(folder / "stored.parquet").to_pydict()
    assert again["prediction"] == table["prediction"]


@pytest.mark.parametrize("command", ["test", "predict"])
def test_another_budget_needs_another_training(crossmodal: Zygote, folder: Path, command: str) -> None:
    config = ("--config", "runs/budget/0/config.yaml", "--ckpt_path", "best")
    status, output = crossmodal.run(command, *config, "--model.selector.init_args.budget", "0.9", cwd=folder)
    assert status != 0
    assert "Traceback" not in output
    assert "model.selector.init_args.budget was 0.6 when it was trained, and now is 0.9" in output
    costs = '{"image": 1, "question": 1, "closer": 5}'
    status, output = crossmodal.run(command, *config, "--model.selector.init_args.costs", costs, cwd=folder)
    assert status != 0
    assert "model.selector.init_args.costs was None when it was trained, and now is {'image'" in output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"first": ["eye"], "budget": 0.5},
            "model.selector: first: there is no expert 'eye'; there are image, question, closer",
        ),
        ({}, "model.selector: give top_k or budget"),
        ({"budget": 0.5, "costs": {"image": 1}}, "model.selector: costs: question, closer has none"),
    ],
)
def test_mistakes(crossmodal: Zygote, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "budget.yaml").write_text(yaml.safe_dump(experiment(**change), sort_keys=False))
    status, output = crossmodal.run("fit", "--config", "budget.yaml", cwd=tmp_path)
    assert status in (1, 2)
    assert "Traceback" not in output
    assert message in output


def test_it_needs_a_meta_learner(crossmodal: Zygote, tmp_path: Path) -> None:
    found = experiment(top_k=1)
    del found["model"]["meta_learner"]
    (tmp_path / "budget.yaml").write_text(yaml.safe_dump(found))
    status, output = crossmodal.run("fit", "--config", "budget.yaml", cwd=tmp_path)
    assert status in (1, 2)
    assert "model.selector: it chooses experts for a meta-learner to weigh, so give model.meta_learner" in output


def test_a_modality_that_is_not_there(crossmodal: Zygote, tmp_path: Path) -> None:
    found = experiment(top_k=1)
    found["experts"]["closer"]["init_args"]["modality"] = "map"
    (tmp_path / "budget.yaml").write_text(yaml.safe_dump(found))
    status, output = crossmodal.run("fit", "--config", "budget.yaml", cwd=tmp_path)
    assert status in (1, 2)
    assert "experts.closer takes map: Dots has no such modality; it has image, question" in output


def test_it_is_an_expert_of_a_larger_model(crossmodal: Zygote, folder: Path) -> None:
    larger = experiment()
    larger["experts"] = {"seen": {"class_path": "crossmodal.composite.CompositeExpert"}}
    larger["experts"]["seen"]["init_args"] = {"run": "runs/budget/0"}
    del larger["model"]["meta_learner"], larger["model"]["selector"]
    (folder / "larger.yaml").write_text(yaml.safe_dump({**larger, "name": "larger"}))
    status, output = crossmodal.run("fit", "--config", "larger.yaml", cwd=folder)
    assert status == 0, output
    assert "seen: " in output
    status, output = crossmodal.run("test", "--config", "larger.yaml", "--ckpt_path", "best", cwd=folder)
    assert status == 0, output
