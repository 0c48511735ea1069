from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from datamodules.batch import ABSENT
from datamodules.faults import Fault
from datamodules.rows import PairedDataset, PairedRows
from datamodules.sources import Texts, UnreadableInputsError
from datamodules.synthetic import Dots

LETTERS = "abcdefgh"


class Letters:
    """Reads letters; the positions that are told of cannot be read."""

    def __init__(self, unreadable: frozenset[int] = frozenset()) -> None:
        self.unreadable = unreadable

    def read(self, positions: NDArray[np.int64]) -> list[str]:
        if found := self.unreadable & set(positions.tolist()):
            raise UnreadableInputsError({position: Fault("truncated", "is cut off") for position in sorted(found)})
        return [LETTERS[position] for position in positions]


def rows_of(index: dict[str, list[int]]) -> PairedRows:
    count = len(next(iter(index.values())))
    return PairedRows(
        sources={modality: Texts(LETTERS) for modality in index},
        index={modality: np.array(positions, np.int64) for modality, positions in index.items()},
        targets={"row": torch.arange(count)},
        ids=[f"row {number}" for number in range(count)],
    )


positions = st.integers(ABSENT, len(LETTERS) - 1)
indices = st.integers(1, 12).flatmap(
    lambda count: st.fixed_dictionaries(
        {name: st.lists(positions, min_size=count, max_size=count) for name in ("left", "right")}
    )
)


@given(indices, st.floats(0, 0.99), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_dropout_takes_nothing_but_leaves_one(
    index: dict[str, list[int]], left: float, right: float, seed: int
) -> None:
    dataset = PairedDataset(rows_of(index), {name: Letters() for name in index}, {"left": left, "right": right})
    rows = np.arange(len(dataset))
    batch = dataset.read(rows, seed)
    for row in rows:
        held = {
            name: batch.inputs[name][int(index_B[row])]
            for name, index_B in batch.index.items()
            if index_B[row] != ABSENT
        }
        had = {name: LETTERS[column[row]] for name, column in index.items() if column[row] != ABSENT}
        assert held.items() <= had.items()
        assert bool(held) == bool(had)
    again = dataset.read(rows, seed)
    assert all(torch.equal(batch.index[name], again.index[name]) for name in index)
    # what every row has dropped is not read
    assert all(
        set(batch.index[name].tolist()) - {ABSENT} == set(range(len(batch.inputs.get(name, ())))) for name in index
    )


def test_groups_and_kinds_are_one_a_row_and_chosen_with_the_rows() -> None:
    rows = replace(
        rows_of({"left": [0, 1, 2]}), groups=np.array([5, 5, 6]), kinds={"odd": np.array([True, False, True])}
    )
    chosen = rows.select(np.array([2, 1]))
    assert chosen.groups is not None
    assert chosen.groups.tolist() == [6, 5]
    assert chosen.kinds["odd"].tolist() == [True, False]
    batch = PairedDataset(chosen, {"left": Letters()})[np.array([1, 0])]
    assert batch.kinds["odd"].tolist() == [False, True]
    assert batch.select(torch.tensor([False, True])).kinds["odd"].tolist() == [True]
    assert batch.to(torch.float64).kinds["odd"].dtype == torch.bool
    for wrong, message in (
        ({"groups": np.zeros(2, np.int64)}, "groups"),
        ({"kinds": {"odd": np.zeros(2, bool)}}, "odd"),
    ):
        with pytest.raises(ValueError, match=message + r" have shape \(2,\), not \(3,\), one a row"):
            replace(rows, **wrong)


def test_sizes_are_one_a_row_and_chosen_with_the_rows() -> None:
    rows = PairedRows(sources={}, index={}, targets={}, ids=["a", "b", "c"], sizes=np.array([5, 6, 7]))
    chosen = rows.select(np.array([2, 0])).sizes
    assert chosen is not None
    assert chosen.tolist() == [7, 5]
    with pytest.raises(ValueError, match=r"sizes have shape \(3,\), not \(1,\), one a row"):
        replace(rows, ids=["a"])


def test_rates_of_dropout() -> None:
    count = 20_000
    rows = rows_of({"left": [0] * count, "right": [1] * count})
    dataset = PairedDataset(rows, {"left": Letters(), "right": Letters()}, {"left": 0.3, "right": 0.1})
    batch = dataset.read(np.arange(count), 0)
    # a row that would lose both keeps either
    assert 1 - batch.present("left").float().mean() == pytest.approx(0.3 - 0.03 / 2, abs=0.01)
    assert 1 - batch.present("right").float().mean() == pytest.approx(0.1 - 0.03 / 2, abs=0.01)


def test_dropout_is_of_training_only_and_another_each_epoch() -> None:
    data = Dots(num_pictures=64, batch_size=128)
    data.connect({})

    class Held:
        def read(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
            return positions

    for split in ("train", "val"):
        data.readers(split).update({"image": Held(), "question": Held()})  # type: ignore[arg-type]
    data.drop_modalities({"image": 0.5, "question": 0.0})
    loader = data.train_dataloader()
    drawn = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        (batch,) = loader
        order = torch.argsort(torch.tensor([int(name.split("/")[1]) for name in batch.ids]))
        drawn.append(batch.present("image")[order])
        assert batch.present("question").all()
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    (batch,) = data.val_dataloader()
    assert batch.present("image").all()


@given(indices, st.frozensets(st.integers(0, len(LETTERS) - 1)), st.frozensets(st.integers(0, len(LETTERS) - 1)))
def test_rows_that_cannot_be_read_are_left_out_and_no_others(
    index: dict[str, list[int]], left: frozenset[int], right: frozenset[int]
) -> None:
    dataset = PairedDataset(rows_of(index), {"left": Letters(left), "right": Letters(right)})
    batch, faults = dataset.read_usable(np.arange(len(dataset)), 0)
    bad = [row for row in range(len(dataset)) if index["left"][row] in left or index["right"][row] in right]
    kept = [row for row in range(len(dataset)) if row not in bad]
    assert sorted(fault.row for fault in faults) == sorted(f"row {row}" for row in bad)
    assert list(batch.ids) == [f"row {row}" for row in kept]
    assert batch.targets["row"].tolist() == kept
    for name, column in index.items():
        held = [None if at == ABSENT else batch.inputs[name][at] for at in batch.index[name].tolist()]
        assert held == [None if column[row] == ABSENT else LETTERS[column[row]] for row in kept]


def test_a_faulty_input_that_was_dropped_by_chance_keeps_its_row() -> None:
    rows = rows_of({"left": [0] * 50, "right": [1] * 50})
    dataset = PairedDataset(rows, {"left": Letters(frozenset({0})), "right": Letters()}, {"left": 0.5})
    batch, faults = dataset.read_usable(np.arange(50), 0)
    assert 0 < len(batch) < 50
    assert len(batch) + len(faults) == 50
    assert not batch.present("left").any()
