"""The README's own classes, run as it says."""

from __future__ import annotations

import csv
import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from crossmodal.preflight import check
from datamodules.columns import Column
from datamodules.targets import Target
from tests.conftest import ROOT, Zygote

README = (ROOT / "README.md").read_text()
# each begins with its file's name
MODULES: dict[str, str] = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README, re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, block in MODULES.items():
        (tmp_path / name).write_text(block)
    return tmp_path


def test_an_expert_of_ones_own(crossmodal: Zygote, folder: Path) -> None:
    command = "crossmodal fit --config configs/dots.yaml --experts.image my_experts.ColourExpert"
    assert command in README
    dots = ROOT / "configs" / "dots.yaml"
    arguments = ("--experts.image", "my_experts.ColourExpert", "--trainer.max_epochs", 1, "--trainer.logger", "false")
    status, output = crossmodal.run("fit", "--config", dots, *arguments, cwd=folder)
    assert status == 0, output
    assert re.search(r"image: \d+ inputs encoded", output)


def test_data_of_ones_own(crossmodal: Zygote, folder: Path) -> None:
    (folder / "photos").mkdir()
    for split in ("train", "val", "test"):
        rows = [
            ["" if number % 5 == 0 else f"{split}{number}.png", "" if number % 5 == 1 else "what?", kind]
            for number, kind in enumerate(["circle", "square"] * 10)
        ]
        with (folder / "photos" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["photo", "text", "kind"], *rows])
        for name, _, kind in rows:
            if name:
                Image.new("RGB", (16, 16), "red" if kind == "circle" else "blue").save(folder / "photos" / name)
    data = next(block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "my_data.Photos" in block)
    config = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text()) | yaml.safe_load(data)
    config["name"] = "photos"
    config["model"]["heads"] = {"kind": config["model"]["heads"].pop("answer")}
    config["trainer"] |= {"max_epochs": 2, "logger": False}
    (folder / "photos.yaml").write_text(yaml.safe_dump(config))
    status, output = crossmodal.run("fit", "--config", "photos.yaml", cwd=folder)
    assert status == 0, output
    assert 0 <= json.loads((folder / "runs" / "photos" / "0" / "metrics.json").read_text())["test/accuracy"] <= 1


def test_the_experts_that_a_document_shows_can_be_trained(crossmodal: Zygote, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)
    experts, data = (
        yaml.safe_load(next(one for one in blocks if one.startswith(key))) for key in ("experts:", "data:")
    )
    arguments = data["data"]["init_args"]
    assert experts["experts"].keys() == arguments["modalities"].keys()
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 40), "red").save(folder / "a.png")
    soundfile.write(folder / "a.wav", np.sin(np.arange(4000) / 9), 8000)
    row = {"photo": "a.png", "question": "what?", "wav": "a.wav", "spectrum": str([0.5] * 64), "age": 41, "weight": 70}
    row |= {"sex": "f", "front": "a.png", "back": "a.png", "tags": "red;big", "price": 3}
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*row, "label", "patient"])
        writer.writeheader()
        writer.writerows({**row, "label": "ab"[number % 2], "patient": number} for number in range(40))
    config = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text()) | experts | data
    heads = {"label": "ClassificationHead", "tags": "MultiLabelHead", "price": "RegressionHead"}
    config["model"]["heads"] = {task: {"class_path": f"crossmodal.heads.{head}"} for task, head in heads.items()}
    config["trainer"] |= {"max_epochs": 1, "logger": False, "callbacks": []}
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(config))
    status, output = crossmodal.run("fit", "--config", "shown.yaml", cwd=tmp_path)
    assert status == 0, output


@pytest.mark.parametrize("document", ["README.md", "docs/data.md"])
def test_the_data_that_a_document_shows_is_right(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    shown = [block for block in blocks if "datamodules.manifest" in block or "datamodules.hub" in block]
    assert shown
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "data.csv").touch()
    for block in shown:
        config = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text()) | yaml.safe_load(block)
        (tmp_path / "shown.yaml").write_text(yaml.safe_dump(config))
        check("fit", ["--config", "shown.yaml"])
        arguments = config["data"]["init_args"]
        for specs, kind in ((arguments["modalities"], Column), (arguments["targets"], Target)):
            for spec in specs.values():
                kind(**spec).check()


@pytest.mark.parametrize("document", ["answers", "balance", "compose", "fusion", "meta_learner"])
def test_keys_and_types_of_what_a_document_lays_over_an_experiment_are_right(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / f"docs/{document}.md").read_text(), re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for run in ("easy_vqa", "speech"):  # what a composition is of
        checkpoints = tmp_path / "runs" / run / "0" / "checkpoints"
        checkpoints.mkdir(parents=True)
        (checkpoints / "best.ckpt").touch()
        shutil.copy(ROOT / "configs" / "dots.yaml", checkpoints.parent / "config.yaml")
    for block in blocks:
        (tmp_path / "shown.yaml").write_text(block)
        check("fit", ["--config", str(ROOT / "configs" / "dots.yaml"), "--config", "shown.yaml"])


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ("balance", ["balance", "balance", "balance"]),
        ("fusion", ["fusion"]),
        ("meta_learner", ["meta_learner", "meta_learner", "selector"]),
    ],
)
def test_values_of_what_a_document_lays_over_an_experiment_are_taken(document: str, shown: list[str]) -> None:
    dots = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    built = []
    for block in re.findall(r"```yaml\n(.*?)```", (ROOT / f"docs/{document}.md").read_text(), re.DOTALL):
        config = dots | yaml.safe_load(block)
        names = [*config["experts"]]
        for key, given in config["model"].items():
            for part in given if isinstance(given, list) else [given]:
                module, _, name = part["class_path"].rpartition(".")
                width = (64,) if key in ("meta_learner", "selector") else ()
                getattr(import_module(module), name)(names, *width, **part.get("init_args", {}))
                built.append(key)
    assert sorted(built) == shown
