"""The rows of scripts/compare_fusion.py, whose figures stand on them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.rows import PairedRows
from experts.base import ExpertTokens

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def made(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return pytest.importorskip("token_rows")


def some_rows(made, count, seed):
    draw = torch.Generator().manual_seed(seed)

    def source(inputs, width):
        tokens_UND = 3 + torch.randn(inputs, 1, width, generator=draw)
        return made.Tokens(ExpertTokens(tokens_UND, torch.ones(inputs, 1, dtype=torch.bool)))

    return PairedRows(
        sources={"image": source(20, 6), "question": source(5, 4)},
        index={"image": np.arange(count) % 20, "question": np.arange(count) % 5},
        targets={"answer": torch.arange(count) % 2},
        ids=[f"{seed}/{number}" for number in range(count)],
    )


@pytest.fixture
def data(made):
    splits = {split: some_rows(made, 40, number) for number, split in enumerate(("train", "val", "test"))}
    return made.TokenRows(splits, {"answer": ["no", "yes"]}, batch_size=8)


def of_rows(rows, modality):
    return rows.sources[modality].read(rows.index[modality]).tokens_BND


def test_a_pool_with_nuisance_has_a_twin_and_noise_and_is_the_same_otherwise(made, data):
    pool = made.with_nuisance(data, 0)
    for split, rows in pool.splits.items():
        before = data.splits[split]
        assert set(rows.sources) == {"image", "twin", "question", "noise"}
        for name in ("image", "question"):
            assert torch.equal(of_rows(rows, name), of_rows(before, name))
        assert torch.equal(of_rows(rows, "twin"), of_rows(before, "image"))
        assert len(rows.used("noise")) == len(rows)
        assert torch.equal(rows.targets["answer"], before.targets["answer"])
    assert not torch.equal(of_rows(pool.splits["train"], "noise"), of_rows(pool.splits["test"], "noise"))


def test_an_expert_breaks_in_half_of_the_test_rows(made, data):
    pool = made.with_nuisance(data, 0)
    broken = made.with_broken(pool, "image", 0)
    same_R = (of_rows(broken, "image") == of_rows(data.splits["test"], "image")).all(-1).squeeze(1)
    assert int(same_R.sum()) == len(broken) // 2
    for name in ("twin", "question", "noise"):
        assert torch.equal(of_rows(broken, name), of_rows(pool.splits["test"], name))
    assert not torch.equal(of_rows(broken, "image"), of_rows(made.with_broken(pool, "image", 1), "image"))
    assert of_rows(broken, "image")[~same_R].mean() == pytest.approx(3, abs=0.5)  # as in training
    assert torch.equal(of_rows(pool.splits["test"], "image"), of_rows(data.splits["test"], "image"))


def test_rows_without_a_modality_lack_it_alone(made, data):
    rows = made.without(data.splits["test"], "image")
    assert (rows.index["image"] == -1).all()
    assert np.array_equal(rows.index["question"], data.splits["test"].index["question"])
