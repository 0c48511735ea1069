from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossmodal.replicas.partition import Rows, by_group, dirichlet, iid, main_class, quantity, shards

LABELS = np.random.default_rng(0).integers(0, 10, 2000)


def check(found: Rows, rows: int, nodes: int, *, whole: bool = True) -> None:
    everything = np.concatenate(found)
    assert len(found) == nodes
    assert len(np.unique(everything)) == len(everything)  # no row lies at two nodes
    assert all((np.diff(one) > 0).all() and len(one) for one in found)
    assert everything.min() >= 0
    assert everything.max() < rows
    assert not whole or len(everything) == rows


def shares(found: Rows, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    counts = np.stack([np.bincount(labels[one], minlength=10) for one in found])
    return counts / counts.sum(1, keepdims=True)


@given(st.integers(1, 12), st.integers(12, 200), st.integers(0, 100))
def test_each_row_lies_at_one_node(nodes: int, rows: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, rows)
    check(iid(rows, nodes, seed=seed), rows, nodes)
    check(quantity(rows, nodes, alpha=0.3, seed=seed), rows, nodes)
    if rows >= nodes * 2:
        check(shards(labels, nodes, seed=seed), rows, nodes)


@pytest.mark.parametrize("alpha", [0.1, 1.0, 100.0])
def test_the_smaller_alpha_the_fewer_classes_has_a_node(alpha: float) -> None:
    found = dirichlet(LABELS, 10, alpha=alpha)
    check(found, len(LABELS), 10)
    most = shares(found, LABELS).max(1).mean()
    assert (most > 0.5) if alpha == 0.1 else (most < 0.2) if alpha == 100 else (0.2 < most < 0.6)


def test_alike_nodes_are_alike_and_shards_are_not() -> None:
    assert shares(iid(len(LABELS), 10), LABELS).max() < 0.2
    found = shards(LABELS, 10, per_node=2)
    assert all(len(np.unique(LABELS[one])) <= 4 for one in found)  # a shard may lie across two classes


def test_sizes_differ_as_they_are_told_to() -> None:
    sizes = {alpha: sorted(map(len, quantity(2000, 10, alpha=alpha))) for alpha in (0.2, 1000.0)}
    assert sizes[0.2][-1] > 5 * sizes[0.2][4]
    assert sizes[1000.0][-1] < 1.3 * sizes[1000.0][0]


def test_each_node_has_a_class_of_its_own_as_in_homogeneous_learning() -> None:
    labels = np.repeat(np.arange(10), 500)
    found = main_class(labels, main=400, others=100)
    check(found, 5000, 10)
    for node, rows in enumerate(found):
        counts = np.bincount(labels[rows], minlength=10)
        assert counts[node] == 400
        assert counts.sum() == 500
        assert sorted(np.delete(counts, node)) == [11] * 8 + [12]
    with pytest.raises(ValueError, match=r"class \d has too few rows: node \d lacks \d+ of \d+"):
        main_class(labels, main=450, others=100)


def test_where_classes_are_uneven_others_are_drawn_from_what_is_left() -> None:
    counts = [460, 571, 530, 500, 500, 456, 462, 512, 489, 520]  # of MNIST's first 5,000
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), counts))
    with pytest.raises(ValueError, match="has too few rows"):
        main_class(labels, main=400, others=100)
    found = main_class(labels, main=400, others=100, evenly=False)
    check(found, 5000, 10)
    for node, rows in enumerate(found):
        assert (labels[rows] == node).sum() == 400
        assert len(rows) == 500
    other = main_class(labels, main=400, others=100, evenly=False, seed=1)
    assert not all(np.array_equal(one, two) for one, two in zip(found, other, strict=True))
    with pytest.raises(ValueError, match="class 5 has too few rows: 4 of 460 are lacking"):
        main_class(labels, main=460, others=1, evenly=False)
    with pytest.raises(ValueError, match="1000 rows are left for others, which are too few: 1010 are wanted"):
        main_class(labels, main=400, others=101, evenly=False)


def test_groups_stay_together() -> None:
    groups = np.array([7, 3, 3, 7, 5])
    assert [one.tolist() for one in by_group(groups)] == [[1, 2], [4], [0, 3]]


def test_the_same_seed_deals_the_same() -> None:
    for deal in (
        lambda seed: iid(50, 3, seed=seed),
        lambda seed: dirichlet(LABELS, 3, alpha=1.0, seed=seed),
        lambda seed: shards(LABELS, 3, seed=seed),
        lambda seed: quantity(50, 3, alpha=1.0, seed=seed),
    ):
        first, again, other = deal(1), deal(1), deal(2)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_what_cannot_be_dealt_is_told() -> None:
    for deal, message in (
        (lambda: iid(2, 3), "2 rows are too few: 3 are wanted at least"),
        (lambda: iid(2, 0), "at least one node"),
        (lambda: quantity(9, 3, alpha=0.0), "alpha must be above 0"),
        (lambda: dirichlet(LABELS[:12], 10, alpha=0.01), "alpha 0.01 leaves a node with fewer than 1 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            deal()
