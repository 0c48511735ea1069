"""One state from those of many replicas: the mean, and what holds where some of them are faulty or hostile.

Legend: K replicas, P numbers of a state.

A state is a mapping from names to tensors, such as a state dict or what of it is trained. A replica may lack entries,
such as the expert of a modality that its node does not have: rules that look at each number by itself (mean, median,
trimmed mean) take each entry from those that have it; the others need replicas of the same entries. What is not finite
counts as hostile, but for the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def mean(states: Sequence[State], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Return the weighted mean (FedAvg, McMahan et al. 2017, arXiv 1602.05629).

    Args:
        states: Of K replicas.
        weights: Of each, such as how many rows it has; by default all count the same.

    Raises:
        ValueError: There is no replica, a weight is negative or not finite, or an entry has none but zeros.
    """
    weights_K = _checked(states, weights)

    def of_entry(values_KP: Tensor, of_K: Tensor) -> Tensor:
        if not of_K.sum() > 0:
            raise ValueError("the replicas that have an entry weigh nothing")
        counts = of_K > 0  # nothing times what is not finite is not nothing
        return (of_K[counts] / of_K.sum()) @ values_KP[counts]

    return _by_entry(states, weights_K, of_entry)


def median(states: Sequence[State]) -> dict[str, Tensor]:
    """Return the median of each number (Yin et al. 2018, arXiv 1803.01498); of an even K the mean of the middle two."""
    weights_K = _checked(states, None)

    def of_entry(values_KP: Tensor, _: Tensor) -> Tensor:
        sorted_KP, count = values_KP.sort(0).values, len(values_KP)  # what is no number comes last
        return (sorted_KP[(count - 1) // 2] + sorted_KP[count // 2]) / 2

    return _by_entry(states, weights_K, of_entry)


def trimmed_mean(states: Sequence[State], trim: float = 0.1) -> dict[str, Tensor]:
    """Return the mean of each number without its extremes (Yin et al. 2018, arXiv 1803.01498).

    Args:
        states: Of K replicas.
        trim: The share that is left out at either end, below 0.5; rounded up, so that above 0 it is one at least.

    Raises:
        ValueError: There is no replica, or nothing would be left.
    """
    if not 0 <= trim < 0.5:
        raise ValueError(f"trim is a share of the replicas at either end, from 0 to below 0.5, not {trim}")
    weights_K = _checked(states, None)

    def of_entry(values_KP: Tensor, _: Tensor) -> Tensor:
        count = len(values_KP)
        cut = math.ceil(trim * count - 1e-9)
        if 2 * cut >= count:
            raise ValueError(f"of {count} replicas {cut} are left out at either end, so that none is left")
        return values_KP.sort(0).values[cut : count - cut].mean(0)

    return _by_entry(states, weights_K, of_entry)


def krum(states: Sequence[State], faulty: int, *, keep: int = 1) -> dict[str, Tensor]:
    """Return the mean of the replicas that lie closest to their neighbours (Krum, Blanchard et al. 2017; of several,
    multi-Krum).

    Args:
        states: Of K replicas.
        faulty: How many may be: K must be above 2 * faulty + 2.
        keep: How many the mean is of.

    Raises:
        ValueError: There are too few replicas, or they have not the same entries.
    """
    order = krum_order(states, faulty)
    if not 1 <= keep <= len(states) - faulty:
        raise ValueError(f"keep must be from 1 to {len(states) - faulty}, not {keep}")
    return mean([states[number] for number in order[:keep]])


def krum_order(states: Sequence[State], faulty: int) -> list[int]:
    """Return the replicas' numbers, the closest to its K - faulty - 2 nearest others first.

    Raises:
        ValueError: There are too few replicas, or they have not the same entries.
    """
    values_KP = _flat(states)
    count = len(states)
    if faulty < 0 or count <= 2 * faulty + 2:
        raise ValueError(f"of {count} replicas {faulty} may not be faulty: there must be more than {2 * faulty + 2}")
    # by matrix products near replicas would lose their distance to rounding
    distances_KK = torch.cdist(values_KP, values_KP, compute_mode="donot_use_mm_for_euclid_dist").square()
    distances_KK.nan_to_num_(nan=torch.inf, posinf=torch.inf)  # what is not finite is nobody's neighbour
    distances_KK.fill_diagonal_(torch.inf)
    scores_K = distances_KK.sort(1).values[:, : count - faulty - 2].sum(1)
    return [int(number) for number in scores_K.argsort(stable=True)]


def geometric_median(
    states: Sequence[State], weights: Sequence[float] | None = None, *, iterations: int = 50, smoothing: float = 1e-6
) -> dict[str, Tensor]:
    """Return the state whose summed distance to all is least (RFA, Pillutla et al. 2022, arXiv 1912.13445).

    By the smoothed algorithm of Weiszfeld, until nothing changes.

    Args:
        states: Of K replicas, of the same entries.
        weights: Of each; by default all count the same.
        iterations: At most.
        smoothing: A distance below which replicas count as being there.

    Raises:
        ValueError: There is no replica, they have not the same entries, or weights are wrong.
    """
    weights_K = _checked(states, weights)
    values_KP = _flat(states)
    finite_K = values_KP.isfinite().all(1).cpu()
    if not weights_K[finite_K].sum() > 0:
        raise ValueError("no replica that counts is finite")
    weights_K, values_KP = weights_K * finite_K, values_KP.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    weights_K = weights_K.to(values_KP.device)
    of_K = weights_K / weights_K.sum()
    for _ in range(iterations):
        middle_P = of_K @ values_KP
        distances_K = (values_KP - middle_P).norm(dim=1).clamp_min(smoothing)
        new_K = weights_K / distances_K
        new_K = new_K / new_K.sum()
        if torch.allclose(new_K, of_K, rtol=0, atol=1e-12):
            break
        of_K = new_K
    return mean(states, of_K.tolist())


def _by_entry(
    states: Sequence[State], weights_K: Tensor, rule: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Apply a rule, in double precision, to each entry of those that have it."""
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for state in states for name in state):
        having = [number for number, state in enumerate(states) if name in state]
        own = [states[number][name] for number in having]
        if len({tuple(one.shape) for one in own}) > 1:
            shapes = ", ".join(sorted({str(tuple(one.shape)) for one in own}))
            raise ValueError(f"{name} has other shapes in other replicas: {shapes}")
        values_KP = torch.stack([one.detach().flatten() for one in own]).double()
        merged_P = rule(values_KP, weights_K[having].to(values_KP.device))
        if not own[0].is_floating_point():  # such as how many batches a batch norm has seen
            merged_P = merged_P.round()
        found[name] = merged_P.reshape(own[0].shape).to(own[0].dtype)
    return found


def _flat(states: Sequence[State]) -> Tensor:
    """Return all floating-point numbers of each state, (K, P), in double precision."""
    if not states:
        raise ValueError("there is no replica")
    names = [name for name, value in states[0].items() if value.is_floating_point()]
    if any(state.keys() != states[0].keys() for state in states):
        raise ValueError("the replicas have not the same entries, so that they have no distance; use another rule")
    return torch.stack([torch.cat([state[name].detach().flatten().double() for name in names]) for state in states])


def _checked(states: Sequence[State], weights: Sequence[float] | None) -> Tensor:
    if not states:
        raise ValueError("there is no replica")
    weights_K = torch.tensor([1.0] * len(states) if weights is None else list(weights), dtype=torch.float64)
    if len(weights_K) != len(states):
        raise ValueError(f"there are {len(states)} replicas and {len(weights_K)} weights")
    if not weights_K.isfinite().all() or (weights_K < 0).any() or not weights_K.sum() > 0:
        raise ValueError(f"weights must be finite, none below 0 and not all 0, not {weights_K.tolist()}")
    return weights_K
