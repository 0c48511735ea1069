"""`crossmodal route`, as a user runs it: a model that sees by day learns to see by night; whose picture is it?"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image, ImageOps

from crossmodal import route_cli
from crossmodal.init.file_columns import SUFFIXES
from datamodules.audio_decoding import AUDIO_SUFFIXES
from datamodules.synthetic import COLOURS, DotPictures
from experts.image import ImageExpert
from experts.saved import save_expert
from tests.conftest import ROOT, Zygote

NIGHT = """
from PIL import ImageOps

from datamodules.rows import PairedRows
from datamodules.sources import Source
from datamodules.synthetic import Dots


class Dark(Source):
    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def load(self, position):
        return ImageOps.invert(self.source.load(position))

    def name(self, position):
        return self.source.name(position)

    def content(self, position):
        return b"dark" + self.source.content(position)


class Night(Dots):
    def load(self, split):
        rows = super().load(split)
        if rows is None:
            return None
        sources, index = {"thermal": Dark(rows.sources["image"])}, {"thermal": rows.index["image"]}
        return PairedRows(sources=sources, index=index, targets=rows.targets, ids=rows.ids)
"""
THERMAL: dict[str, Any] = {
    "class_path": "experts.image.ImageExpert",
    "init_args": {
        "model": "test_efficientnet",
        "pretrained": False,
        "image_size": 32,
        "tokens": "grid",
        "layers": [2],
        "freeze": False,
    },
}
EXTEND = ("extend", "--model", "runs/dots/0", "--expert", "thermal=thermal", "--config", "night.yaml")
ROUTE = ("route", "--model", "runs/night/0")


@pytest.fixture(scope="module")
def folder(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the run runs/dots/0, whose model sees by day and reads, runs/night/0, and pictures of each kind."""
    folder = tmp_path_factory.mktemp("routed")
    experiment: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    experiment["trainer"] |= {"max_epochs": 1, "logger": False}
    (folder / "dots.yaml").write_text(yaml.safe_dump(experiment))
    status, output = crossmodal.run("fit", "--config", "dots.yaml", cwd=folder)
    assert status == 0, output
    save_expert(folder / "thermal", THERMAL, ImageExpert(**THERMAL["init_args"]), "")
    (folder / "dark.py").write_text(NIGHT)
    night = {
        "name": "night",
        "data": {"class_path": "dark.Night", "init_args": {"num_pictures": 256, "batch_size": 64}},
        "trainer": {"max_epochs": 1},
    }
    (folder / "night.yaml").write_text(yaml.safe_dump(night))
    colours = np.random.default_rng(7).integers(0, len(COLOURS), (20, 2))
    pictures = DotPictures(colours, size=32, seed=7)
    for position in range(20):
        pictures.load(position).save(folder / f"day{position:02}.png")
        ImageOps.invert(pictures.load(position)).save(folder / f"night{position:02}.png")
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "question.txt").write_text("what colour is the left dot?\n")
    (folder / "poem.txt").write_text("Tyger Tyger, burning bright, in the forests of the night")
    (folder / "broken.png").write_bytes(b"\x89PNG and no more")
    soundfile.write(folder / "beep.wav", np.sin(np.arange(8000) / 5), 8000)
    return folder


@pytest.fixture(scope="module")
def extended(crossmodal: Zygote, folder: Path) -> str:
    """Print what `extend` says; runs/night/0 is its run."""
    status, output = crossmodal.run(*EXTEND, cwd=folder)
    assert status == 0, output
    return output


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_extend_fits_a_gate_for_each_expert(folder: Path, extended: str) -> None:
    lines = [line.split(" in ")[0] for line in extended.splitlines() if line.startswith("gate of")]
    assert lines == [
        "gate of image: fitted to 256 training inputs",
        "gate of question: fitted to 2 training inputs",
        "gate of thermal: fitted to 256 training inputs",
    ]
    gates = folder / "runs" / "night" / "0" / "gates"
    assert sorted(one.name for one in gates.iterdir()) == [f"{m}.safetensors" for m in ("image", "question", "thermal")]
    assert not (folder / "runs" / "dots" / "0" / "gates").exists()


def test_pictures_go_to_their_camera_and_what_is_neither_is_new(
    crossmodal: Zygote, folder: Path, extended: str
) -> None:
    pictures = [f"{kind}{number:02}.png" for kind in ("day", "night") for number in range(20)]
    files = [*pictures, "noise.png", "question.txt", "poem.txt", "beep.wav"]
    status, output = crossmodal.run(*ROUTE, *files, "--output", "tables/routed.csv", cwd=folder)
    assert status == 0, output
    rows = rows_of(folder / "tables" / "routed.csv")
    assert list(rows) == files
    right = [rows[name]["modality"] == {"d": "image", "n": "thermal"}[name[0]] for name in pictures]
    assert sum(right) >= 38
    known = ["noise.png", "question.txt", "poem.txt", "beep.wav"]
    assert [rows[name]["modality"] for name in known] == ["new", "question", "new", "new"]
    assert rows["question.txt"]["error_image"] == rows["noise.png"]["error_question"] == ""
    assert set(rows["beep.wav"].values()) == {"beep.wav", "new", ""}
    assert float(rows["poem.txt"]["error_question"]) > 1
    for line, name in zip(output.splitlines(), ("file", *files), strict=True):
        assert line.split()[0] == name
    heading, first, *_ = output.splitlines()
    assert heading.split("  ")[0] == "file"
    assert [word.strip() for word in heading.split("  ") if word][1:] == [
        *("known to", "error of image", "error of question", "error of thermal")
    ]
    assert first.split()[1:3] == ["image", f"{float(rows['day00.png']['error_image']):.2f}"]


def test_the_same_files_give_the_same_answer(crossmodal: Zygote, folder: Path, extended: str) -> None:
    outputs = [crossmodal.run(*ROUTE, "day00.png", "noise.png", cwd=folder) for _ in range(2)]
    assert outputs[0] == outputs[1]
    assert outputs[0][0] == 0


def test_what_cannot_be_read_is_named_and_the_rest_routed(crossmodal: Zygote, folder: Path, extended: str) -> None:
    files = ("broken.png", "day00.png", "no.png", "night00.png")
    status, output = crossmodal.run(*ROUTE, *files, "--output", "some.csv", cwd=folder)
    assert status == 1
    assert "cannot read broken.png" in output
    assert "cannot read no.png: no such file" in output
    assert "Traceback" not in output
    assert {name: row["modality"] for name, row in rows_of(folder / "some.csv").items()} == {
        "day00.png": "image",
        "night00.png": "thermal",
    }


def test_gates_are_kept_where_a_modality_joins_or_leaves(crossmodal: Zygote, folder: Path, extended: str) -> None:
    second = ("extend", "--model", "runs/night/0", "--expert", "infrared=thermal", "--name", "second")
    status, output = crossmodal.run(*second, "--trainer.max_epochs", 0, cwd=folder)
    assert status == 0, output
    assert "no gate for infrared: no row of the training split of Night has this input" in output
    assert "gate of" not in output
    before, after = (folder / "runs" / name / "0" / "gates" for name in ("night", "second"))
    assert {one.name: one.read_bytes() for one in after.iterdir()} == {
        one.name: one.read_bytes() for one in before.iterdir()
    }
    status, output = crossmodal.run("extend", "--model", "runs/second/0", "--remove", "thermal", cwd=folder)
    assert status == 0, output
    left = folder / "runs" / "second_without_thermal" / "0"
    assert sorted(one.name for one in (left / "gates").iterdir()) == ["image.safetensors", "question.safetensors"]
    status, output = crossmodal.run("route", "--model", left, "day01.png", cwd=folder)
    assert status == 0, output
    assert output.splitlines()[1].split()[:2] == ["day01.png", "image"]


def test_an_expert_that_is_trained_can_be_routed_to(crossmodal: Zygote, folder: Path, extended: str) -> None:
    lora = ("--name", "tuned", "--lora", 2, "--trainer.max_epochs", 1)
    status, output = crossmodal.run(*EXTEND, *lora, cwd=folder)
    assert status == 0, output
    status, output = crossmodal.run("route", "--model", "runs/tuned/0", "night00.png", "day00.png", cwd=folder)
    assert status == 0, output
    assert [line.split()[1] for line in output.splitlines()[1:]] == ["thermal", "image"]


def test_gates_can_be_fitted_later(crossmodal: Zygote, folder: Path, extended: str) -> None:
    run = folder / "runs" / "later" / "0"
    shutil.copytree(folder / "runs" / "dots" / "0", run)
    route = ("route", "--model", "runs/later/0")
    status, output = crossmodal.run(*route, "day00.png", cwd=folder)
    assert status == 2
    assert "the run has no gates; fit them to its training data with `crossmodal route --model runs/later/0 --fit`" in (
        output
    )
    status, output = crossmodal.run(*route, "--fit", "day00.png", cwd=folder)
    assert status == 0, output
    assert "gate of image: fitted to 256 training inputs" in output
    assert output.splitlines()[-1].split()[:2] == ["day00.png", "image"]
    whole = (run / "gates" / "image.safetensors").read_bytes()
    assert whole == (folder / "runs" / "night" / "0" / "gates" / "image.safetensors").read_bytes()
    (run / "gates" / "image.safetensors").write_bytes(whole[:500])
    status, output = crossmodal.run(*route, "day00.png", cwd=folder)
    assert status == 1
    assert "image.safetensors cannot be read as a gate" in output
    assert "`crossmodal route --model runs/later/0 --fit` fits it anew" in output
    assert crossmodal.run(*route, "--fit", cwd=folder)[0] == 0
    assert (run / "gates" / "image.safetensors").read_bytes() == whole


def test_the_gate_of_another_expert_is_refused(crossmodal: Zygote, folder: Path, extended: str) -> None:
    run = folder / "runs" / "mixed" / "0"
    shutil.copytree(folder / "runs" / "night" / "0", run)
    shutil.copyfile(run / "gates" / "image.safetensors", run / "gates" / "thermal.safetensors")
    status, output = crossmodal.run("route", "--model", "runs/mixed/0", "day00.png", cwd=folder)
    assert status == 1
    assert "thermal.safetensors was made for another expert (ImageExpert test_efficientnet)" in output
    assert "Traceback" not in output


BAD = [
    (("--model", "runs/dots/7", "a.png"), "--model runs/dots/7: no run"),
    (("--model", "runs/dots/0", "a.png"), "--model runs/dots/0: the run has no gates; fit them"),
    (("--model", "runs/dots/0"), "route needs --model RUN, and files or --fit"),
    (("a.png",), "route needs --model RUN, and files or --fit"),
    (("--model", "runs/dots/0", "a.png", "--output", "a.parquet"), "--output a.parquet: give a name that ends in .csv"),
    (("--model", "runs/dots/0", "a.png", "--limt", "3"), "route does not take --limt"),
    (("--model",), "argument --model: expected one argument"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_mistake_is_one_message(crossmodal: Zygote, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    status, output = crossmodal.run("route", *arguments, cwd=folder)
    assert status == 2, output
    assert message in output
    assert output.count("\n") == 1


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help(crossmodal: Zygote, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, output = crossmodal.run("route", *arguments, cwd=tmp_path)
    assert status == 0
    assert output == route_cli.HELP


def test_sounds_are_known_by_the_names_that_init_knows() -> None:
    assert set(AUDIO_SUFFIXES) == set(SUFFIXES["audio"])
