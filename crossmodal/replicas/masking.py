"""Sums of which nobody sees the parts: nodes hide what they send behind masks that cancel each other.

After Bonawitz et al. 2017 (secure aggregation), for nodes that trust each other, and a server that keeps to the
protocol but is not to see a node's update: each two nodes draw the same numbers from a secret that all nodes know and
the server does not; one adds them, the other takes them away. All is reckoned with whole numbers modulo 2^64, so that
masks cancel to the last bit; a change, times the node's weight, is kept to 2^-24.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.engine import Hiding

POINT = 2.0**24  # of fixed-point numbers
MOST = 2.0**62  # of a sum
SECRET = "CROSSMODAL_REPLICAS_SECRET"  # in the environment of nodes on other machines: any words, the same at all
WEIGHT = "#weight"  # after an entry's name: what the nodes that have trained it weigh


def hidden(change: State, began: State, *, weight: float, node: int, hiding: Hiding, secret: str) -> dict[str, Tensor]:
    """Return what a node sends: its change, weighed, and which entries it has trained, behind its masks.

    Args:
        change: Of what it has trained.
        began: All entries that might be.
        weight: Of the node in the mean, above 0.
        node: Its number.
        hiding: Among whom; nothing is masked twice by the same numbers.
        secret: That these nodes know.

    Returns:
        Of each entry in `began` int64, of its shape, and a weight; without the others' this tells nothing.

    Raises:
        ValueError: There is no secret, nodes are too few, or numbers too large.
    """
    among = hiding.among
    if not secret:
        raise ValueError(f"node {node} is to hide what it sends, but knows no secret: set {SECRET} at each node")
    if node not in among or len({*among}) < 2:
        raise ValueError(
            f"node {node} is to hide among nodes {sorted(among)}: it takes two, and it must be one of them"
        )
    found: dict[str, Tensor] = {}
    for name, value in sorted(began.items()):
        own = change[name].double().cpu() if name in change else torch.zeros(value.shape, dtype=torch.float64)
        parts = {name: own * weight, f"{name}{WEIGHT}": torch.tensor(weight if name in change else 0.0)}
        for key, part in parts.items():
            if (
                not float(part.abs().max() if part.numel() else 0.0) * POINT * len(among) < MOST
            ):  # nor what is no number
                raise ValueError(f"{name} has changed by more than can be hidden, or by what is not finite")
            whole = (part * POINT).round().to(torch.int64)
            for other in among:
                if other != node:
                    mask = _drawn(secret, min(node, other), max(node, other), hiding, key, whole)
                    whole = whole + mask if node < other else whole - mask  # whole numbers wrap round
            found[key] = whole
    return found


def opened(parts: Sequence[State], began: State, *, weight: float) -> dict[str, Tensor]:
    """Return the weighted mean of the states of nodes, of which only the sum is seen.

    Args:
        parts: What all of these nodes have sent, none missing.
        began: The state that they began with.
        weight: Of all nodes together.

    Returns:
        The entries that any has trained.

    Raises:
        ValueError: The masks do not cancel.
    """
    found: dict[str, Tensor] = {}
    for name, value in began.items():
        trained = float(_sum(parts, f"{name}{WEIGHT}")) / POINT
        if not 0 <= trained <= weight:
            raise ValueError(
                f"replicas.method.secure: what nodes hide does not cancel; is {SECRET} the same at all of them?"
            )
        if trained > 0:
            change = _sum(parts, name).double() / POINT / trained
            mean = value.cpu().double() + change
            found[name] = (mean if value.is_floating_point() else mean.round()).to(value.dtype)
    return found


def _sum(parts: Sequence[State], name: str) -> Tensor:
    total = torch.zeros_like(parts[0][name])
    for part in parts:
        total = total + part[name]
    return total


def _drawn(secret: str, low: int, high: int, hiding: Hiding, name: str, like: Tensor) -> Tensor:
    """Return numbers that two nodes draw alike, and nobody else (SHAKE-256)."""
    said = f"{len(secret)} {secret} {low} {high} {hiding.nonce} {[*hiding.among]} {name}"
    stream = hashlib.shake_256(said.encode()).digest(8 * like.numel())
    return torch.from_numpy(np.frombuffer(stream, np.int64).copy()).view(like.shape)


def hidden_entries(began: State) -> dict[str, Tensor]:
    """Return the entries of what a node sends, and their shapes and types."""
    like = {name: torch.zeros(value.shape, dtype=torch.int64) for name, value in began.items()}
    return like | {f"{name}{WEIGHT}": torch.zeros((), dtype=torch.int64) for name in began}
