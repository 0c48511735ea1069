"""How a training split is dealt out to nodes, as a configuration says it.

Legend: R rows, K nodes, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from crossmodal.replicas import partition
from crossmodal.replicas.partition import Rows
from datamodules.batch import ABSENT
from datamodules.rows import PairedRows

NODE = "node_"  # and its number: the kind of the further rows that belong to a node
QUANTILES = 10  # that stand for the classes of a quantity


class Partition(ABC):
    """Which rows lie at which node."""

    def groups(self, rows: PairedRows, labels_R: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return what rows are dealt by, the same numbers for the same in each split; by default their classes.

        Args:
            rows: R.
            labels_R: The class of each row.
        """
        return labels_R

    @abstractmethod
    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Return the numbers of each node's rows, sorted; no row lies at two nodes.

        Args:
            labels_R: The class of each row, or other groups that they are dealt by.
            nodes: K.
            seed: Of the drawing.

        Raises:
            ValueError: There are too few rows.
        """


class Own(Partition):
    """Nothing is dealt out: each node is another machine, and trains with all rows of its own data."""

    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Refuse."""
        raise ValueError(
            "replicas.partition: Own is for nodes on other machines, each with data of its own; in one process choose "
            "how rows are dealt out, such as crossmodal.replicas.dealing.IID"
        )


class IID(Partition):
    """At random, as many to each."""

    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Deal."""
        return partition.iid(len(labels_R), nodes, seed=seed)


class Quantity(Partition):
    """At random, in unequal shares.

    Args:
        alpha: Of the Dirichlet distribution that shares are drawn from: the smaller, the more unequal.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha

    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Deal."""
        return partition.quantity(len(labels_R), nodes, alpha=self.alpha, seed=seed)


class Dirichlet(Partition):
    """Each class in unequal shares of its own (Hsu et al. 2019, arXiv 1909.06335).

    Args:
        alpha: Of the distribution that shares are drawn from: the smaller, the fewer classes a node has.
        least: Rows of a node.
    """

    def __init__(self, alpha: float, least: int = 1) -> None:
        self.alpha = alpha
        self.least = least

    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Deal."""
        return partition.dirichlet(labels_R, nodes, alpha=self.alpha, least=self.least, seed=seed)


class Shards(Partition):
    """Sorted by class, cut, and so many parts to each (McMahan et al. 2017, arXiv 1602.05629).

    Args:
        per_node: Parts.
    """

    def __init__(self, per_node: int = 2) -> None:
        self.per_node = per_node

    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Deal."""
        return partition.shards(labels_R, nodes, per_node=self.per_node, seed=seed)


class MainClass(Partition):
    """One class above all to each of as many nodes as there are classes (Homogeneous Learning, arXiv 2110.05290).

    Args:
        main: Rows of the node's own class.
        others: Rows of all others together.
        evenly: As many of each other class as can be; else they are drawn from what nodes leave of their own.
    """

    def __init__(self, main: int = 400, others: int = 100, evenly: bool = True) -> None:
        self.main = main
        self.others = others
        self.evenly = evenly

    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Deal."""
        _refuse_other_count(nodes, len(np.unique(labels_R)), "classes")
        return partition.main_class(labels_R, main=self.main, others=self.others, evenly=self.evenly, seed=seed)


class ByClass(Partition):
    """All rows of a class to one node, such as those of a site, a writer or a domain."""

    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Deal."""
        _refuse_other_count(nodes, len(np.unique(labels_R)), "classes")
        return partition.by_group(labels_R)


class ByKind(Partition):
    """All rows of a kind to one node, such as those of a domain; see `PairedRows.kinds`.

    Args:
        kinds: Their names; by default all that the data has. A kind without rows in training has no node.
    """

    def __init__(self, kinds: list[str] | None = None) -> None:
        self.kinds = kinds

    def groups(self, rows: PairedRows, labels_R: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each row's kind.

        Raises:
            ValueError: There is no such kind, or a row is of none, or of several.
        """
        there = [name for name in rows.kinds if not name.startswith(NODE)]
        kinds = there if self.kinds is None else self.kinds
        if unknown := [name for name in kinds if name not in there]:
            raise ValueError(
                f"replicas.partition: the data has no kind {unknown[0]!r}; it has {', '.join(there) or 'none'}"
            )
        of_kind_KR = np.array([rows.kinds[name] for name in kinds]).reshape(len(kinds), len(rows))
        if len(wrong := np.flatnonzero(of_kind_KR.sum(0) != 1)):
            raise ValueError(
                f"replicas.partition: row {rows.ids[int(wrong[0])]} is of {of_kind_KR[:, wrong[0]].sum()} of the kinds "
                f"{', '.join(kinds) or '(none)'}, and must be of one; name others in kinds"
            )
        kind_R: NDArray[np.int64] = of_kind_KR.argmax(0).astype(np.int64)
        return kind_R

    def deal(self, labels_R: NDArray[np.int64], nodes: int, *, seed: int) -> Rows:
        """Deal, by the numbers of kinds."""
        _refuse_other_count(nodes, len(np.unique(labels_R)), "kinds in training")
        return partition.by_group(labels_R)


def labels(rows: PairedRows, task: str | None) -> tuple[str, NDArray[np.int64]]:
    """Return what a partition goes by: the classes of a task, or the tenths of a quantity.

    Args:
        rows: R.
        task: None for the only one.

    Raises:
        ValueError: It is not told which, or there is no such task, or its targets are no classes.
    """
    known = ", ".join(sorted(rows.targets))
    if task is None and len(rows.targets) != 1:
        raise ValueError(f"replicas.by: give one of the tasks of the data; it has {known or 'none'}")
    task = task or next(iter(rows.targets))
    if task not in rows.targets:
        raise ValueError(f"replicas.by: the data has no task {task!r}; it has {known}")
    targets = rows.targets[task]
    if targets.dim() > 1:
        raise ValueError(f"replicas.by: a row has many targets of {task!r}; give a task of classes or of one quantity")
    if not targets.is_floating_point():
        return task, targets.numpy().astype(np.int64)
    edges = torch.quantile(targets.double(), torch.linspace(0, 1, QUANTILES + 1, dtype=torch.float64)[1:-1])
    return task, torch.bucketize(targets.double(), edges).numpy()


def spread(labels_R: NDArray[np.int64], dealt: Rows, others_V: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Return a node for each of V further rows, such that nodes have classes in the shares in which they were dealt.

    Args:
        labels_R: The class of each row that was dealt.
        dealt: The rows of each of K nodes.
        others_V: The class of each further row.
        seed: Of the drawing.
    """
    draw = np.random.default_rng([seed, 1])
    size = 1 + int(max(labels_R.max(initial=0), others_V.max(initial=0)))
    counts_KC = np.stack([np.bincount(labels_R[own], minlength=size) for own in dealt]).astype(float)
    unseen_C = counts_KC.sum(0) == 0
    counts_KC[:, unseen_C] = counts_KC.sum(1, keepdims=True)
    ends_KC = np.cumsum(counts_KC / counts_KC.sum(0), 0)
    node_V: NDArray[np.int64] = np.minimum((draw.random(len(others_V)) >= ends_KC[:, others_V]).sum(0), len(dealt) - 1)
    return node_V


def without(rows: PairedRows, modalities: Sequence[str]) -> PairedRows:
    """Return rows that lack modalities, but for those that have no other.

    Raises:
        ValueError: The data has no such modality, or no row is left.
    """
    if unknown := sorted({*modalities} - rows.index.keys()):
        raise ValueError(f"replicas.lacks: the data has no modality {unknown[0]!r}; it has {', '.join(rows.index)}")
    index = {
        name: np.full_like(index_R, ABSENT) if name in modalities else index_R for name, index_R in rows.index.items()
    }
    kept = np.flatnonzero(np.stack([index_R != ABSENT for index_R in index.values()]).any(0))
    if not len(kept):
        raise ValueError(f"replicas.lacks: without {', '.join(modalities)} a node has no row that has anything")
    return replace(rows, index=index).select(kept)


def _refuse_other_count(nodes: int, there: int, what: str) -> None:
    if nodes != there:
        raise ValueError(f"replicas.nodes: this partition wants as many as there are {what}, {there}, not {nodes}")
