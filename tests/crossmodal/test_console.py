from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning import Trainer

from crossmodal.console import EpochBar, EpochLines
from tests.conftest import ROOT, Zygote
from tests.crossmodal.test_module import build, connected


@pytest.mark.parametrize(
    ("end", "told"),
    [({"max_epochs": 2}, ["1/2", "2/2"]), ({"max_epochs": -1, "max_steps": 4}, ["1", "2"])],
    ids=["epochs", "steps"],
)
def test_bar_and_lines_count_epochs_from_one(
    tmp_path: Path, end: dict[str, Any], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    module = build()
    bar = EpochBar(console_kwargs={"force_terminal": True})
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(**options, **end, callbacks=[bar, EpochLines()], default_root_dir=tmp_path)
    trainer.fit(module, connected(module))
    printed = capsys.readouterr().out
    assert list(dict.fromkeys(re.findall(r"Epoch (\S+)", printed))) == told
    assert re.findall(r"epoch (\S+)  ", printed) == told


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    experiment = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    experiment["trainer"] |= {"max_epochs": 1}
    experiment["data"]["init_args"] |= {"num_pictures": 64, "batch_size": 16}
    (folder / "dots.yaml").write_text(yaml.safe_dump(experiment))
    return folder


COMMANDS = (["fit"], ["test", "--ckpt_path", "best"], ["predict", "--ckpt_path", "best", "--output", "out.csv"])


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_quiet_prints_nothing_and_json_one_object(crossmodal: Zygote, small: Path, option: str) -> None:
    for command, *rest in COMMANDS:
        status, output = crossmodal.run(command, option, "--config", "dots.yaml", *rest, cwd=small)
        assert status == 0, output
        if option == "--quiet":
            assert output == ""
            continue
        told = json.loads(output)
        assert told.keys() == {"figures", "paths"}
        assert all((small / path).exists() for path in told["paths"].values())
        if command != "predict":
            assert 0 <= told["figures"]["test/accuracy"] <= 1


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_mistakes_are_told_even_so(crossmodal: Zygote, small: Path, option: str) -> None:
    status, output = crossmodal.run("fit", option, "--config", "dots.yaml", "--trainer.max_epoch", 1, cwd=small)
    assert status == 2
    assert "did you mean 'max_epochs'?" in output


def test_a_bar_of_the_experiments_own_is_quiet_too(crossmodal: Zygote, small: Path) -> None:
    experiment = yaml.safe_load((small / "dots.yaml").read_text())
    bar = {"class_path": "pytorch_lightning.callbacks.TQDMProgressBar"}
    experiment["trainer"]["callbacks"] = [*experiment["trainer"].get("callbacks", []), bar]
    (small / "bar.yaml").write_text(yaml.safe_dump({**experiment, "name": "bar"}))
    for option, wanted in {"--quiet": "", "--json": "{"}.items():
        status, output = crossmodal.run("fit", option, "--config", "bar.yaml", cwd=small)
        assert (status, output[:1]) == (0, wanted), output
