from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal.heads import ClassificationHead, RegressionHead
from crossmodal.preparation import dropout_rates, learn_priors, learn_statistics, weigh_classes
from datamodules.columns import Column
from datamodules.manifest import Manifest
from datamodules.splits import Split
from datamodules.targets import Target
from experts.features import FeatureExpert
from experts.table import TableExpert


@pytest.mark.parametrize(
    ("given", "expected"),
    [(0.0, {"a": 0.0, "b": 0.0}), (0.2, {"a": 0.2, "b": 0.2}), ({"b": 0.5}, {"b": 0.5})],
)
def test_rates(given: object, expected: dict[str, float]) -> None:
    assert dropout_rates(given, ["a", "b"]) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"c": 0.1}, "model.modality_dropout.c: there is no such expert; there are a, b"),
        (1.0, "model.modality_dropout: a: it is a share below 1, not 1.0"),
        ({"b": -0.1}, "model.modality_dropout: b: it is a share below 1, not -0.1"),
    ],
)
def test_rates_that_are_wrong(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        dropout_rates(given, ["a", "b"])  # type: ignore[arg-type]


@pytest.fixture
def data(tmp_path: Path) -> Manifest:
    """Twelve rows, of which the first eight train; one array cannot be read."""
    rows = []
    for number in range(12):
        np.save(tmp_path / f"{number}.npy", np.full(3, number, np.float32))
        rows.append(
            {
                "scan": f"{number}.npy",
                "age": "" if number == 2 else number * 10,
                "sex": "mf"[number % 2],
                "kind": "aab"[number % 3],
                "price": number,
                "split": "train" if number < 8 else "test",
            }
        )
    (tmp_path / "3.npy").write_bytes(b"no array")
    path = tmp_path / "data.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return Manifest(
        train=str(path),
        split=Split(column="split"),
        modalities={
            "scan": Column("array", "scan"),
            "labs": Column("table", numeric=["age"], categorical=["sex"]),
        },
        targets={"kind": Target("class", "kind", weights="balanced"), "price": Target("number", "price")},
        on_error="quarantine",
        max_quarantined=0.2,
    )


def test_statistics_are_of_the_training_rows_that_can_be_read(data: Manifest) -> None:
    experts = {"scan": FeatureExpert(3), "labs": TableExpert(["age"], ["sex"])}
    data.connect({name: expert.transform for name, expert in experts.items()})
    assert all(expert.needs_statistics for expert in experts.values())
    learn_statistics(data, experts, batch_size=2)
    assert not any(expert.needs_statistics for expert in experts.values())
    numbers = np.array([0, 1, 2, 4, 5, 6, 7])
    state = experts["scan"].state_dict()
    (mean,) = (value for name, value in state.items() if name.endswith("mean_D"))
    assert mean.tolist() == pytest.approx([numbers.mean()] * 3)
    state = experts["labs"].state_dict()
    (mean,) = (value for name, value in state.items() if name.endswith("mean_D"))
    assert mean.tolist() == pytest.approx([np.array([0, 10, 30, 40, 50, 60, 70]).mean()])
    assert data.quarantine is not None
    assert data.quarantine.counts == {"quarantined/train": 1}


def test_priors_and_weights_come_from_the_training_rows(data: Manifest) -> None:
    data.connect({})
    heads = {"kind": ClassificationHead(4, 2), "price": RegressionHead(4, 1)}
    learn_priors(data, heads.items())
    counts = np.array([6, 2]) + 1
    assert heads["kind"].prior_C.softmax(0).tolist() == pytest.approx((counts / counts.sum()).tolist())
    assert heads["price"].prior_C.tolist() == pytest.approx([3.5])
    weigh_classes(data, heads.items())
    assert heads["kind"].weights_C is not None
    assert heads["kind"].weights_C.tolist() == pytest.approx([8 / 12, 2.0])
    assert heads["price"].weights_C is None
    assert torch.is_tensor(heads["kind"].loss(torch.zeros(3, 2), torch.tensor([0, 1, 0])))
