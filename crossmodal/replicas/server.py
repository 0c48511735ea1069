"""What is made of the replicas' mean: taken as it is, or as a gradient of an adaptive optimizer; and the proximal term.

Reddi et al. 2021, Adaptive Federated Optimization, arXiv 2003.00295.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from crossmodal.replicas.aggregation import State


@dataclass(frozen=True)
class Moments:
    """What an optimizer of the server keeps between rounds, as a checkpoint has it.

    Args:
        first: The mean of the changes, by entry.
        second: Of their squares.
    """

    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)


def adaptive_step(
    state: State,
    merged: State,
    moments: Moments,
    *,
    rule: Literal["adagrad", "adam", "yogi"],
    lr: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.99),
    tau: float = 1e-3,
) -> tuple[dict[str, Tensor], Moments]:
    """Return the next global state, and the moments (FedAdagrad, FedAdam and FedYogi: Algorithm 2).

    What is not floating-point, such as counters, is taken as it was merged.

    Args:
        state: The global one that the replicas began with.
        merged: What was made of theirs.
        moments: Of the round before.
        rule: How squares are remembered.
        lr: The server's.
        betas: Of the two moments; FedAdagrad has the first alone.
        tau: How adaptive it is: the smaller, the more.
    """
    first, second, found = dict(moments.first), dict(moments.second), dict(state)
    for name, new in merged.items():
        if name not in state or not new.is_floating_point():
            found[name] = new
            continue
        change = (new - state[name]).double()
        mean = betas[0] * first.get(name, torch.zeros_like(change)) + (1 - betas[0]) * change
        squares, square = second.get(name, torch.full_like(change, tau**2)), change.square()
        match rule:
            case "adagrad":
                squares = squares + square
            case "adam":
                squares = betas[1] * squares + (1 - betas[1]) * square
            case "yogi":
                squares = squares - (1 - betas[1]) * square * torch.sign(squares - square)
        first[name], second[name] = mean, squares
        found[name] = (state[name].double() + lr * mean / (squares.sqrt() + tau)).to(new.dtype)
    return found, Moments(first, second)


def outer_step(
    state: State, merged: State, momentum: Mapping[str, Tensor], *, lr: float = 0.7, beta: float = 0.9
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the next global state after many steps of the replicas, and the momentum (DiLoCo, Douillard et al. 2023,
    arXiv 2311.08105): their mean change is a gradient of SGD with Nesterov's momentum, as `torch.optim.SGD` has it.

    Args:
        state: The global one that the replicas began with.
        merged: What was made of theirs.
        momentum: Of the round before, by entry; empty at first.
        lr: Of the outer step.
        beta: Of the momentum.
    """
    found, kept = dict(state), dict(momentum)
    for name, new in merged.items():
        if name not in state or not new.is_floating_point():
            found[name] = new
            continue
        gradient = (state[name] - new).double()
        kept[name] = beta * kept[name] + gradient if name in kept else gradient
        found[name] = (state[name].double() - lr * (gradient + beta * kept[name])).to(new.dtype)
    return found, kept


def proximal_term(parameters: State, state: State, mu: float) -> Tensor:
    """Return what keeps a replica near the global state while it trains: mu / 2 of the squared distance (FedProx, Li et
    al. 2020, arXiv 1812.06127). It is added to the loss.

    Args:
        parameters: That train.
        state: The global one that training began with.
        mu: How much.
    """
    apart = [(value - state[name].detach()).square().sum() for name, value in parameters.items() if name in state]
    if not apart:
        raise ValueError("the replica and the global state have no entry in common")
    return 0.5 * mu * torch.stack(apart).sum()
