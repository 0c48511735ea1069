from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from crossmodal.replicas.dealing import (
    IID,
    NODE,
    ByClass,
    ByKind,
    Dirichlet,
    MainClass,
    Partition,
    Quantity,
    Shards,
    labels,
    spread,
    without,
)
from datamodules.rows import PairedRows
from datamodules.synthetic import Dots

LABELS = np.random.default_rng(0).integers(0, 4, 800)


@pytest.mark.parametrize("kind", [IID(), Quantity(0.5), Dirichlet(0.5), Shards(2), MainClass(100, 30), ByClass()])
def test_all_deal_what_they_say(kind: Partition) -> None:
    dealt = kind.deal(LABELS, 4, seed=1)
    everything = np.concatenate(dealt)
    assert len(dealt) == 4
    assert len(np.unique(everything)) == len(everything)
    assert all(len(own) for own in dealt)
    again = kind.deal(LABELS, 4, seed=1)
    assert all(np.array_equal(one, other) for one, other in zip(dealt, again, strict=True))


def test_further_rows_come_to_nodes_as_classes_do() -> None:
    dealt = Dirichlet(0.2).deal(LABELS, 5, seed=0)
    others = np.repeat(np.arange(5), 4000)  # the last class nobody has
    node_V = spread(LABELS, dealt, others, seed=0)
    counts_KC = np.stack([np.bincount(LABELS[own], minlength=4) for own in dealt])
    for label in range(4):
        found = np.bincount(node_V[others == label], minlength=5) / 4000
        assert found == pytest.approx(counts_KC[:, label] / counts_KC[:, label].sum(), abs=0.03)
    assert np.bincount(node_V[others == 4], minlength=5) / 4000 == pytest.approx(counts_KC.sum(1) / 800, abs=0.03)


def test_kinds_are_dealt_each_to_a_node_and_are_the_same_in_all_splits() -> None:
    kinds = {name: np.arange(len(rows())) % 3 == number for number, name in enumerate("abc")}
    absent = np.zeros(len(rows()), dtype=np.bool_)
    of = replace(rows(), kinds={"left_out": absent, **kinds, f"{NODE}0": ~absent})
    by_kind = ByKind()
    groups = by_kind.groups(of, np.zeros(len(of), np.int64))
    assert groups[:6].tolist() == [1, 2, 3, 1, 2, 3]
    dealt = by_kind.deal(groups, 3, seed=0)
    assert all(np.array_equal(own, np.flatnonzero(kinds[name])) for own, name in zip(dealt, "abc", strict=True))
    some = of.select(np.flatnonzero(kinds["c"]))
    assert set(by_kind.groups(some, np.zeros(len(some), np.int64))) == {3}
    assert ByKind(["b", "c", "a"]).groups(of, groups)[:3].tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("kinds", "nodes", "message"),
    [
        (["a", "z"], 2, "replicas.partition: the data has no kind 'z'; it has a, b, all"),
        (None, 2, "row train/0 is of 2 of the kinds a, b, all, and must be of one"),
        (["a"], 1, "row train/1 is of 0 of the kinds a, and must be of one"),
        (["a", "b"], 3, "replicas.nodes: this partition wants as many as there are kinds in training, 2, not 3"),
    ],
)
def test_kinds_that_do_not_part_the_rows_are_told(kinds: list[str] | None, nodes: int, message: str) -> None:
    even = np.arange(len(rows())) % 2 == 0
    of = replace(rows(), kinds={"a": even, "b": ~even, "all": even | ~even})
    with pytest.raises(ValueError, match=message):
        ByKind(kinds).deal(ByKind(kinds).groups(of, np.zeros(len(of), np.int64)), nodes, seed=0)


def rows() -> PairedRows:
    data = Dots(num_pictures=8, absent=0.3)
    found = data.load("train")
    assert found is not None
    return found


def test_rows_that_lack_all_are_left_out() -> None:
    whole = rows()
    blind = without(whole, ["image"])
    assert (blind.index["image"] == -1).all()
    assert len(blind) == int((whole.index["question"] != -1).sum())
    with pytest.raises(ValueError, match=r"replicas.lacks: the data has no modality 'sound'; it has image, question"):
        without(whole, ["sound"])
    with pytest.raises(ValueError, match=r"replicas.lacks: without image, question a node has no row"):
        without(whole, ["image", "question"])


def test_a_partition_goes_by_classes_or_by_tenths_of_a_quantity() -> None:
    some = rows()
    assert labels(some, None)[0] == "answer"
    assert labels(some, None)[1].tolist() == some.targets["answer"].tolist()
    price = torch.linspace(0, 1, len(some))
    both = PairedRows(some.sources, some.index, {"price": price, "many": torch.ones(len(some), 2)}, some.ids)
    assert np.bincount(labels(both, "price")[1]).tolist() == pytest.approx([len(some) / 10] * 10, abs=1)
    for task, message in (
        (None, "give one of the tasks of the data; it has many, price"),
        ("none", "the data has no task 'none'; it has many, price"),
        ("many", "a row has many targets of 'many'"),
    ):
        with pytest.raises(ValueError, match=message):
            labels(both, task)


def test_a_node_for_each_class() -> None:
    with pytest.raises(
        ValueError, match=r"replicas.nodes: this partition wants as many as there are classes, 4, not 3"
    ):
        ByClass().deal(LABELS, 3, seed=0)
