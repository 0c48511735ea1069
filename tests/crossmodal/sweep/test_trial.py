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


def test_an_epoch_counts_by_its_number_also_where_the_metric_is_not_finite(tmp_path: Path) -> None:
    found = metrics(
        tmp_path,
        "epoch,step,train/loss,val/loss\n0,9,1.5,\n1,19,,nan\n1,29,0.5,\n3,39,,0.75\n3,39,,0.75\n3,45,,0.7\n5,59,,0.5\n7,79",
    )  # fmt: skip
    assert str(after_each_epoch(found, "val/loss")) == "{2: nan, 4: 0.75, 6: 0.5}"


def test_a_metric_is_missed_as_soon_as_a_validation_ends_without_it(tmp_path: Path) -> None:
    """What observers have of it is in rows of their own, and in no `metrics.json`, by which trials are judged."""
    header = "epoch,step,train/loss,val/ece,val/loss,val/a\n0,9,1.5,,,\n"
    assert after_each_epoch(metrics(tmp_path, header), "val/f1") == {}
    assert after_each_epoch(metrics(tmp_path, f"{header}0,9,,0.1,,\n"), "val/f1") == {}
    whole = metrics(tmp_path, f"{header}0,9,,0.1,,\n0,9,,,1.5,0.5\n")
    assert after_each_epoch(whole, "val/a") == {1: 0.5}
    for metric in ("val/f1", "val/ece", "train/loss"):
        with pytest.raises(UsageError, match=rf"--metric {metric}: .* no such figure; there are val/a, val/loss$"):
            after_each_epoch(whole, metric)
