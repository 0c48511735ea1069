"""Rows that train only the meta-learner."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from crossmodal.holding_out import HELD_OUT, held_out, most_shared, not_held_out
from datamodules.batch import ABSENT
from datamodules.rows import PairedRows
from datamodules.sources import Texts
from tests.crossmodal.mixtures import a_batch


def rows_of(**index: list[int]) -> PairedRows:
    sources = {name: Texts([str(number) for number in range(max(own) + 1)]) for name, own in index.items()}
    num_rows = len(next(iter(index.values())))
    index_of = {name: np.array(own) for name, own in index.items()}
    return PairedRows(sources, index_of, {}, [str(number) for number in range(num_rows)])


def test_rows_that_share_an_input_are_on_one_side_and_always_the_same() -> None:
    rows = rows_of(image=[*range(500)] * 8)
    held_R = held_out(rows, 0.1, "image")
    assert held_R.sum() == 400
    assert (held_R == held_out(rows, 0.1, "image")).all()
    held_8U = held_R.reshape(8, 500)
    assert (held_8U == held_8U[:1]).all()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_some_row_is_held_out_and_some_is_not(share: float) -> None:
    held_R = held_out(rows_of(image=[0, 0, 1, 1]), share, "image")
    assert held_R.sum() == 2
    assert held_R[0] == held_R[1]


@pytest.mark.parametrize("blank", range(40))
def test_an_input_that_most_rows_share_is_not_held_out(blank: int) -> None:
    index = [number + (number >= blank) for number in range(999)] + [blank] * 1000
    held_R = held_out(rows_of(image=index), 0.1, "image")
    assert held_R.sum() == 199
    assert not held_R[999:].any()


def test_rows_without_the_input_are_held_out_each_by_itself() -> None:
    held_R = held_out(rows_of(image=[0, 1, 2, 3] + [ABSENT] * 396), 0.5, "image")
    assert held_R.sum() == 200
    assert held_out(rows_of(image=[0] * 400), 0.5, None).sum() == 200


def test_a_single_row_is_not_held_out() -> None:
    assert not held_out(rows_of(image=[0]), 0.5, None).any()


def test_by_which_input() -> None:
    pictures, sentences, own = [*range(300)] * 10, [*range(30)] * 100, [*range(3000)]
    assert (
        most_shared(rows_of(image=pictures, question=sentences, noise=own), ["image", "question", "noise"]) == "image"
    )
    # of few inputs none can be spared, and what no two rows share need not be held out together
    assert most_shared(rows_of(image=own, question=sentences), ["image", "question"]) is None


def test_a_batch_without_those() -> None:
    batch = a_batch(200)
    rows = not_held_out(batch)
    assert len(rows) == 200 - int(batch.kinds[HELD_OUT].sum())
    assert not rows.kinds[HELD_OUT].any()
    batch.kinds = {}
    assert not_held_out(batch) is batch
    assert isinstance(batch.targets["answer"], torch.Tensor)
