"""The README's demo, on the real data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT, Zygote

CONFIG = ROOT / "configs" / "easy_vqa.yaml"


@pytest.mark.slow
def test_answers_questions_about_real_images(crossmodal: Zygote, tmp_path: Path) -> None:
    status, output = crossmodal.run("fit", "--config", CONFIG, cwd=tmp_path)
    assert status == 0, output
    assert "image: 4,000 inputs encoded" in output
    assert "question: 107 inputs encoded" in output
    figures = json.loads((tmp_path / "runs" / "easy_vqa" / "0" / "metrics.json").read_text())
    assert figures["test/accuracy"] >= 0.995
    status, output = crossmodal.run("fit", "--config", CONFIG, "--trainer.max_epochs", 1, cwd=tmp_path)
    assert status == 0, output
    assert "image: 0 inputs encoded, 4,000 reused" in output
    assert "question: 0 inputs encoded, 107 reused" in output
