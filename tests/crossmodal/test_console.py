from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer

from crossmodal.console import EpochBar, EpochLines
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
