"""Balance as a user switches it on."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, Zygote


def experiment(folder: Path, **model: Any) -> Path:
    settings: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    settings["model"] |= model
    settings["trainer"] |= {"max_epochs": 1, "logger": False, "log_every_n_steps": 1}
    settings["data"]["init_args"] |= {"num_pictures": 32, "batch_size": 16, "absent": 0.2}
    file = folder / "even.yaml"
    file.write_text(yaml.safe_dump({**settings, "name": "even"}))
    return file


LOSSES = {"class_path": "crossmodal.balance.UnimodalLosses", "init_args": {"weight": 0.5}}
OGM = {"class_path": "crossmodal.balance.GradientModulation", "init_args": {"alpha": 0.3, "noise": True}}


def test_it_is_logged_and_can_be_run_again(crossmodal: Zygote, tmp_path: Path) -> None:
    status, output = crossmodal.run("fit", "--config", experiment(tmp_path, balance=[LOSSES, OGM]), cwd=tmp_path)
    assert status == 0, output
    assert "arning" not in output
    run = tmp_path / "runs" / "even"
    rows = [row for row in csv.DictReader((run / "0/metrics.csv").open()) if row["train/loss"]]
    assert len(rows) == 4
    for row in rows:
        assert {"train/loss/answer", "train/loss/own/image", "train/loss/own/question"} <= row.keys()
        factors = [float(row[f"train/balance/{name}"]) for name in ("image", "question")]
        assert min(factors) < 1 == max(factors)
        assert min(factors) <= 1 - math.tanh(0.3) + 1e-6
    measured = json.loads((run / "0/metrics.json").read_text())
    assert all(0 <= measured[f"test/alone/{name}"] <= 1 for name in ("image", "question"))
    status, output = crossmodal.run("fit", "--config", run / "0/config.yaml", cwd=tmp_path)
    assert status == 0, output
    again = [row for row in csv.DictReader((run / "1/metrics.csv").open()) if row["train/loss"]]
    assert [row["train/loss"] for row in again] == [row["train/loss"] for row in rows]
    status, output = crossmodal.run("predict", "--config", run / "0/config.yaml", "--ckpt_path", "last", cwd=tmp_path)
    assert status == 0, output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model.balance", "UnimodalLoss"), "no class 'UnimodalLoss'; did you mean 'UnimodalLosses'?"),
        (("--model.balance.init_args.alfa", "1"), "unknown key 'model.balance.init_args.alfa'; did you mean 'alpha'?"),
        (("--model.balance.init_args.alpha", "-1"), "model.balance: alpha must be above 0, not -1.0"),
        (("--trainer.accumulate_grad_batches", "2"), "trainer.accumulate_grad_batches would add up before"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(crossmodal: Zygote, tmp_path: Path, options: tuple[str, str], message: str) -> None:
    status, output = crossmodal.run("fit", "--config", experiment(tmp_path, balance=OGM), *options, cwd=tmp_path)
    assert status in (1, 2)
    assert "Traceback" not in output
    assert message in output.splitlines()[-1]
