from __future__ import annotations

from pathlib import Path

import pytest

from crossmodal.errors import UsageError
from crossmodal.metrics_file import MetricsFile
from crossmodal.sweep.trial import after_each_epoch


def metrics(folder: Path, content: str) -> MetricsFile:
    (folder / "metrics.csv").write_text(content)
    found = MetricsFile(folder / "metrics.csv")
    found.read()
    return found


def test_an_epoch_counts_once_and_also_where_the_metric_is_not_finite(tmp_path: Path) -> None:
    found = metrics(
        tmp_path,
        "epoch,step,train/loss,val/loss\n0,9,1.5,\n0,19,,nan\n1,29,0.5,\n1,39,,0.75\n1,39,,0.75\n2,59,,0.5\n3,79,,",
    )
    assert str(after_each_epoch(found, "val/loss")) == "[nan, 0.75, 0.5]"


def test_a_metric_is_missed_as_soon_as_others_are_there(tmp_path: Path) -> None:
    assert after_each_epoch(metrics(tmp_path, "epoch,step,train/loss\n0,9,1.5\n"), "val/f1") == []
    with pytest.raises(UsageError, match=r"--metric val/f1: the runs have no such figure; there are val/a, val/loss$"):
        after_each_epoch(metrics(tmp_path, "epoch,step,val/loss,val/a\n0,9,1.5,\n0,9,,0.5\n"), "val/f1")
