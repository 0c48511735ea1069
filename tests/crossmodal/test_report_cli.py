"""`crossmodal report`, as a user runs it: the page about a run, and the one that compares runs."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.conftest import ROOT, Zygote
from tests.mixed import experiment as mixed_experiment
from tests.mixed import write_manifest

LOADED = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//""")


def page(path: Path) -> str:
    """Return a page but for the script that draws."""
    text = path.read_text()
    assert path.stat().st_size < 5e6
    parts = re.split(r"<script>.*?</script>", text, flags=re.DOTALL)
    assert len(parts) == 3  # the library once, and what calls it
    rest = "".join(parts)
    assert not LOADED.search(rest)
    return rest


def plots(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the values that each plot of a page draws, by its title."""
    text = page(path)
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    found = re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    specs = json.loads(found[1])
    assert len(specs) == len(titles) == text.count('role="img" aria-label="')
    return {title: spec.get("data", {}).get("values", []) for title, spec in zip(titles, specs, strict=True)}


def named(values: list[dict[str, Any]]) -> dict[str, float]:
    return {one["name"]: one["value"] for one in values}


@pytest.fixture(scope="module")
def folder(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    dots: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    dots["trainer"] |= {"max_epochs": 2, "logger": False}
    dots["data"]["init_args"] |= {"num_pictures": 64, "batch_size": 16, "absent": 0.2}
    (folder / "dots.yaml").write_text(yaml.safe_dump(dots))
    dots["model"]["meta_learner"] = {"class_path": "crossmodal.meta_learner.MetaLearner"}
    (folder / "whom.yaml").write_text(yaml.safe_dump({**dots, "name": "whom"}))
    for name in ("dots", "whom"):
        status, output = crossmodal.run("fit", "--config", f"{name}.yaml", cwd=folder)
        assert status == 0, output
    return folder


def test_the_page_about_a_run(crossmodal: Zygote, folder: Path) -> None:
    status, output = crossmodal.run("report", "runs/whom/0", cwd=folder)
    assert status == 0, output
    assert re.search(r"^report: runs/whom/0/report.html \(\d\.\d MB, \d+\.\d s\)$", output, re.MULTILINE)
    path = folder / "runs/whom/0/report.html"
    text, drawn = page(path), plots(path)
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "Training",
        "What each modality contributes",
        "Robustness",
        "Whom it listens to",
        "Right, wrong and sure",
        "Examples",
        "Cost",
        "How to reproduce",
    ]
    figures = json.loads((folder / "runs/whom/0/metrics.json").read_text())
    assert f"<b>{figures['test/accuracy']:.4g}</b>" in text
    assert "crossmodal fit --config runs/whom/0/config.yaml" in text
    assert text.count('<img alt="image" src="data:image/jpeg;base64,') >= 4
    assert {one["column"] for one in drawn["Mean weight of each member"]} == {"image", "question", "fusion"}
    written = drawn["What is written to the workspace"]
    slots = {one["row"] for one in written}
    assert slots == {f"round {number}, slot {slot}" for number in (1, 2) for slot in (1, 2, 3, 4)}
    for slot in slots:
        assert sum(one["value"] for one in written if one["row"] == slot) == pytest.approx(1, abs=1e-5)
    counts = [one["value"] for one in drawn["Confusion"]]
    by_subset, values = named(drawn["Accuracy by these modalities alone"]), named(drawn["Shapley values of accuracy"])
    assert set(by_subset) == {"none", "image", "question", "image + question"}
    assert sum(values.values()) == pytest.approx(by_subset["image + question"] - by_subset["none"])
    assert by_subset["image + question"] == pytest.approx(figures["test/accuracy"], abs=1e-6)
    clean = [one["y"] for one in drawn["Accuracy under noise"] if one["x"] == 0]
    assert clean == pytest.approx([figures["test/accuracy"]] * 2, abs=1e-6)
    assert sum(counts) == int(re.search(r"on all (\d+) rows of the test split", text)[1])  # type: ignore[index]


def test_the_same_run_gives_the_same_page(crossmodal: Zygote, folder: Path) -> None:
    pages = []
    for _ in range(2):
        status, output = crossmodal.run("report", "runs/dots/0", "--rows", 60, "--output", "one.html", cwd=folder)
        assert status == 0, output
        pages.append(page(folder / "one.html"))
    assert pages[0] == pages[1]
    assert re.search(r"on 60 of \d+ rows of the test split", pages[0])
    assert "crossmodal report runs/dots/0 --rows 60 --output one.html" in pages[0]


def test_checkpoints_of_one_run_are_compared(crossmodal: Zygote, folder: Path) -> None:
    checkpoints = [f"runs/dots/0/checkpoints/{name}.ckpt" for name in ("best", "last", "copy")]
    shutil.copyfile(folder / checkpoints[0], folder / checkpoints[2])
    status, output = crossmodal.run("report", *checkpoints, "--output", "three.html", cwd=folder)
    assert status == 0, output
    drawn = plots(folder / "three.html")["answer: difference in accuracy from dots/0 best"]
    assert {one["name"]: one["value"] for one in drawn}.keys() == {"dots/0 last", "dots/0 copy"}
    assert named(drawn)["dots/0 copy"] == 0


def test_runs_are_compared_on_the_same_rows(crossmodal: Zygote, folder: Path) -> None:
    status, output = crossmodal.run("report", "runs/dots/0", "runs/whom/0", cwd=folder)
    assert status == 0, output
    path = folder / "runs/dots/0/compare.html"
    text, drawn = page(path), plots(path)
    (one,) = drawn["answer: difference in accuracy from dots/0"]
    accuracy = [
        json.loads((folder / f"runs/{name}/0/metrics.json").read_text())["test/accuracy"] for name in ("dots", "whom")
    ]
    assert one["name"] == "whom/0"
    assert one["value"] == pytest.approx(accuracy[1] - accuracy[0], abs=1e-6)
    assert one["low"] <= one["value"] <= one["high"]
    assert {point["name"] for point in drawn["val/accuracy"]} == {"dots/0", "whom/0"}
    assert "model.meta_learner.class_path" in text
    assert "crossmodal report runs/dots/0 runs/whom/0" in text


# the answer is what the rule says of two bits, each of which another sensor gives
RULES: dict[str, Callable[[Any, Any], Any]] = {
    "one": lambda a, b: a,
    "either": lambda a, b: a,  # and b is the same
    "both": lambda a, b: a ^ b,
}


@pytest.mark.parametrize("rule", RULES)
def test_it_says_on_which_modality_the_answer_depends(crossmodal: Zygote, tmp_path: Path, rule: str) -> None:
    a, b = np.random.default_rng(0).integers(2, size=(2, 600))
    if rule == "either":
        b = a
    splits = ["test" if row % 3 == 0 else "train" for row in range(len(a))]
    rows = zip(a.tolist(), b.tolist(), RULES[rule](a, b).tolist(), splits, strict=True)
    lines = [f"{one},{other},{'on' if answer else 'off'},{split}" for one, other, answer, split in rows]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,lamp,split", *lines]))
    sensor: dict[str, Any] = {"class_path": "experts.table.TableExpert"}
    experiment = mixed_experiment(Path("data.csv"), "WorkspaceFusion", epochs=15)
    experiment["experts"] = {name: {**sensor, "init_args": {"numeric": [name]}} for name in ("a", "b")}
    experiment["data"]["init_args"] |= {
        "modalities": {name: {"type": "table", "numeric": [name]} for name in ("a", "b")},
        "targets": {"lamp": {"type": "class", "column": "lamp"}},
    }
    experiment["model"]["heads"] = {"lamp": {"class_path": "crossmodal.heads.ClassificationHead"}}
    experiment["model"]["optimizer"]["init_args"]["lr"] = 1e-2
    experiment["trainer"]["callbacks"] = []
    (tmp_path / "lamp.yaml").write_text(yaml.safe_dump({**experiment, "name": "lamp"}))
    for arguments in (["fit", "--config", "lamp.yaml"], ["report", "runs/lamp/0"]):
        status, output = crossmodal.run(*arguments, cwd=tmp_path)
        assert status == 0, output
    drawn = plots(tmp_path / "runs/lamp/0/report.html")
    values = named(drawn["Shapley values of accuracy"])
    together = named(drawn["How modalities work together"])["a and b"]
    wanted, interaction = {"one": ((0.5, 0.0), 0.0), "either": ((0.25, 0.25), -0.5), "both": ((0.25, 0.25), 0.5)}[rule]
    assert (values["a"], values["b"]) == pytest.approx(wanted, abs=0.08)
    assert together == pytest.approx(interaction, abs=0.12)


def test_sounds_can_be_played_and_numbers_are_compared(crossmodal: Zygote, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path, num_rows=120, missing=0.2)
    header, *lines = manifest.read_text().splitlines()
    tags = ["big;red", "red", "", "big"]
    lines = [f"{line},{row % 7},{tags[row % 4]}" for row, line in enumerate(lines)]
    manifest.write_text("\n".join([f"{header},size,tags", *lines]))
    experiment = mixed_experiment(manifest, "ConcatFusion", epochs=1)
    del experiment["experts"]["image"], experiment["experts"]["note"]
    experiment["data"]["init_args"]["targets"] |= {
        "size": {"type": "number", "column": "size"},
        "tags": {"type": "labels", "column": "tags"},
    }
    experiment["data"]["init_args"]["modalities"] = {
        name: {**spec, "missing": "allow"}
        for name, spec in experiment["data"]["init_args"]["modalities"].items()
        if name in experiment["experts"]
    }
    experiment["model"]["heads"]["size"] = {"class_path": "crossmodal.heads.RegressionHead"}
    experiment["model"]["heads"]["tags"] = {"class_path": "crossmodal.heads.MultiLabelHead"}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({**experiment, "name": "mixed"}))
    for arguments in (["fit", "--config", "mixed.yaml"], ["report", "runs/mixed/0"]):
        status, output = crossmodal.run(*arguments, cwd=tmp_path)
        assert status == 0, output
    path = tmp_path / "runs/mixed/0/report.html"
    text, drawn = page(path), plots(path)
    assert '<audio controls preload="metadata" src="data:audio/' in text
    values, by_subset = (
        named(drawn["size: shapley values of mae"]),
        named(drawn["size: mae by these modalities alone"]),
    )
    assert sum(values.values()) == pytest.approx(by_subset["none"] - by_subset["all"])
    assert len(by_subset) == 8
    figures = json.loads((tmp_path / "runs/mixed/0/metrics.json").read_text())
    for name in ("test/shape/accuracy", "test/size/mae"):  # what each task is judged by stands above all
        assert re.search(rf"<b>{figures[name]:.4g}</b><span[^>]*>{name}<", text)
    assert "shape: confusion" in drawn
    assert "size: confusion" not in drawn
    assert {"tags: recall and precision", "tags: calibration"} <= drawn.keys()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["runs/nothing/0"], 2, "runs/nothing/0: no run, which has a config.yaml; give one such as runs/easy_vqa/0"),
        (["runs/dots/0", "--rows", "0"], 2, "--rows: expected a number of rows, at least 1, found '0'"),
        (["runs/dots/0", "--output", "page.pdf"], 2, "--output page.pdf: give a name that ends in .html"),
        (["runs/dots/0", "--colour"], 2, "report does not take --colour; see `crossmodal report --help`"),
        (["runs/dots/0", "runs/dots/0"], 2, "runs/dots/0 is given twice"),
        (["--rows", "5"], 2, "report needs a RUN, such as runs/easy_vqa/0"),
        (["broken/figures"], 1, "broken/figures/metrics.json is no JSON"),
        (["broken/config"], 1, "broken/config/config.yaml"),
        (["broken/weights"], 1, "broken/weights/checkpoints/best.ckpt"),
        (["broken/empty"], 2, "the run has neither broken/empty/checkpoints/best.ckpt nor last.ckpt"),
    ],
)
def test_mistakes_are_told_in_a_line(
    crossmodal: Zygote, folder: Path, arguments: list[str], status: int, said: str
) -> None:
    for name in ("figures", "weights", "empty", "config"):
        shutil.copytree(folder / "runs/dots/0", folder / "broken" / name, dirs_exist_ok=True)
    (folder / "broken/figures/metrics.json").write_text('{"test/accuracy": 0.')
    (folder / "broken/config/config.yaml").write_text("name: [x\n  y")
    (folder / "broken/weights/checkpoints/best.ckpt").write_bytes(b"PK\3\4 cut off")
    shutil.rmtree(folder / "broken/empty/checkpoints")
    found, output = crossmodal.run("report", *arguments, cwd=folder)
    assert found == status, output
    assert said in output
    assert "Traceback" not in output
    assert output.count("crossmodal: error:") == 1


def test_help(crossmodal: Zygote, tmp_path: Path) -> None:
    for arguments in (["report"], ["report", "--help"]):
        status, output = crossmodal.run(*arguments, cwd=tmp_path)
        assert status == 0
        assert output.startswith("usage: crossmodal report RUN [RUN ...]")
