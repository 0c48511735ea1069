"""Which rows lie at which node.

Each function returns the numbers of the rows of each of K nodes, sorted. No row lies at two nodes.

Legend: R rows, K nodes, C classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = list[NDArray[np.int64]]


def iid(rows: int, nodes: int, *, seed: int = 0) -> Rows:
    """Deal all rows out at random, as many to each node, but for one."""
    _enough(rows, nodes)
    drawn_R = np.random.default_rng(seed).permutation(rows)
    return [np.sort(part) for part in np.array_split(drawn_R, nodes)]


def quantity(rows: int, nodes: int, *, alpha: float, seed: int = 0) -> Rows:
    """Deal all rows out at random, in shares that are drawn from a Dirichlet distribution; at least one to each node.

    Args:
        rows: R.
        nodes: K.
        alpha: The smaller, the more unequal.
        seed: Of the drawing.
    """
    _enough(rows, nodes)
    draw = np.random.default_rng(seed)
    shares_K = draw.dirichlet(np.full(nodes, _positive(alpha)))
    ends = np.round(np.cumsum(shares_K)[:-1] * (rows - nodes)).astype(int) + np.arange(1, nodes)  # one more to each
    return [np.sort(part) for part in np.split(draw.permutation(rows), ends)]


def dirichlet(labels_R: NDArray[np.int64], nodes: int, *, alpha: float, least: int = 1, seed: int = 0) -> Rows:
    """Deal the rows of each class out in shares of their own (Hsu et al. 2019, arXiv 1909.06335).

    Args:
        labels_R: The class of each row.
        nodes: K.
        alpha: The smaller, the fewer classes a node has.
        least: Rows of a node; drawn again until all have so many.
        seed: Of the drawing.

    Raises:
        ValueError: Among many drawn there was none in which each node had so many.
    """
    _enough(len(labels_R), nodes * least)
    draw = np.random.default_rng(seed)
    for _ in range(1000):
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(nodes)]
        for label in np.unique(labels_R):
            of_class = draw.permutation(np.flatnonzero(labels_R == label))
            shares_K = draw.dirichlet(np.full(nodes, _positive(alpha)))
            ends = np.round(np.cumsum(shares_K)[:-1] * len(of_class)).astype(int)
            for own, part in zip(parts, np.split(of_class, ends), strict=True):
                own.append(part)
        found = [np.sort(np.concatenate(own)) for own in parts]
        if min(map(len, found)) >= least:
            return found
    raise ValueError(f"alpha {alpha} leaves a node with fewer than {least} rows, however often it is drawn; raise it")


def shards(labels_R: NDArray[np.int64], nodes: int, *, per_node: int = 2, seed: int = 0) -> Rows:
    """Sort rows by class, cut them, and deal so many parts to each node (McMahan et al. 2017, arXiv 1602.05629)."""
    _enough(len(labels_R), nodes * per_node)
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(len(labels_R))
    by_class = shuffled[np.argsort(labels_R[shuffled], kind="stable")]
    cut = np.array_split(by_class, nodes * per_node)
    order = draw.permutation(nodes * per_node).reshape(nodes, per_node)
    return [np.sort(np.concatenate([cut[number] for number in own])) for own in order]


def main_class(labels_R: NDArray[np.int64], *, main: int, others: int, evenly: bool = True, seed: int = 0) -> Rows:
    """Give each of as many nodes as there are classes one class above all (Homogeneous Learning, arXiv 2110.05290).

    Args:
        labels_R: The class of each row, 0 to C - 1.
        main: Rows of the node's own class.
        others: Rows of all others together.
        evenly: As many of each other class as can be; else they are drawn from what nodes leave of their own.
        seed: Of the drawing.

    Raises:
        ValueError: A class has too few rows.
    """
    if not evenly:
        return _main_class_and_any(labels_R, main, others, seed)
    draw = np.random.default_rng(seed)
    classes = np.unique(labels_R)
    waiting = {int(label): list(draw.permutation(np.flatnonzero(labels_R == label))) for label in classes}
    found: Rows = []
    order = [int(label) for label in classes]
    for place, node in enumerate(order):
        rest = [*order[place + 1 :], *order[:place]]  # from the next on, so that no class gives more than the others
        extra = rest[: others % len(rest)] if rest else []
        own: list[int] = []
        for label, left in waiting.items():
            wanted = main if label == node else others // max(1, len(rest)) + (label in extra)
            if len(left) < wanted:
                raise ValueError(f"class {label} has too few rows: node {node} lacks {wanted - len(left)} of {wanted}")
            own += [left.pop() for _ in range(wanted)]
        found.append(np.sort(np.array(own, dtype=np.int64)))
    return found


def _main_class_and_any(labels_R: NDArray[np.int64], main: int, others: int, seed: int) -> Rows:
    draw = np.random.default_rng(seed)
    classes = np.unique(labels_R)
    own: list[NDArray[np.int64]] = []
    for label in classes:
        of_class = draw.permutation(np.flatnonzero(labels_R == label))
        if len(of_class) < main:
            raise ValueError(f"class {label} has too few rows: {main - len(of_class)} of {main} are lacking")
        own.append(of_class[:main])
    left = draw.permutation(np.setdiff1d(np.arange(len(labels_R)), np.concatenate(own)))[: others * len(classes)]
    if len(left) < others * len(classes):
        raise ValueError(f"{len(left)} rows are left for others, which are too few: {others * len(classes)} are wanted")
    node_L = np.repeat(np.arange(len(classes)), others)
    for place in range(len(left)):  # a row of a node's own class goes to a node whose row may come here
        while labels_R[left[place]] == classes[node_L[place]]:
            other = int(draw.integers(len(left)))
            if classes[node_L[place]] != labels_R[left[other]] and classes[node_L[other]] != labels_R[left[place]]:
                left[[place, other]] = left[[other, place]]
    return [np.sort(np.concatenate([rows, left[node_L == node]])) for node, rows in enumerate(own)]


def by_group(groups_R: NDArray[np.int64]) -> Rows:
    """Give each node the rows of a group, such as a domain, a hospital or a writer, in the order of their numbers."""
    return [np.flatnonzero(groups_R == group) for group in np.unique(groups_R)]


def _enough(rows: int, wanted: int) -> None:
    if wanted < 1:
        raise ValueError(f"there must be at least one node with one row, not {wanted}")
    if rows < wanted:
        raise ValueError(f"{rows} rows are too few: {wanted} are wanted at least")


def _positive(alpha: float) -> float:
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, not {alpha}")
    return alpha
