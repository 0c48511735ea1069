"""Privacy of nodes: what each may change is bounded, and noise hides whether one was there at all."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.node import clipped

# of Renyi's divergence, the best of which counts
ORDERS = [
    *(1 + step / 100 for step in range(1, 10)),
    *(1 + step / 10 for step in range(1, 110)),
    *range(12, 64),
    128,
    256,
    512,
    1024,
]


class Privacy:
    """Differential privacy of nodes (DP-FedAvg, McMahan et al. 2018, arXiv 1710.06963).

    Each node is drawn by itself in each round, with the probability `share`; it may come that none is. What is told is
    epsilon for (epsilon, delta), by Renyi's divergence, where the server is trusted to add the noise.

    Args:
        clip: How far a node may change the model in a round, as a norm over all that is sent.
        noise: Its deviation, as a multiple of what one node can change.
        delta: Of the statement; below 1 / nodes.

    Raises:
        ValueError: An argument is out of range, or Opacus is not installed, which reckons.
    """

    def __init__(self, clip: float, noise: float, delta: float = 1e-5) -> None:
        if not (clip > 0 and noise > 0 and 0 < delta < 1):
            raise ValueError(f"privacy: clip ({clip}) and noise ({noise}) are above 0, delta ({delta}) from 0 to 1")
        if find_spec("opacus") is None:
            raise ValueError("privacy needs Opacus: pip install 'crossmodal[replicas]'")
        self.clip = clip
        self.noise = noise
        self.delta = delta

    def noisy_mean(self, state: State, states: Sequence[State], *, wanted: float, seed: int) -> dict[str, Tensor]:
        """Return the global state with the mean of changes, and noise.

        Args:
            state: That nodes began with.
            states: That they sent; what one lacks it has not changed.
            wanted: How many nodes are drawn in the mean, by which sums are divided, however many there were.
            seed: Of the noise.
        """
        generator = torch.Generator().manual_seed(seed)
        deviation = self.noise * self.clip / wanted
        changes = [
            clipped({name: value.cpu() - state[name].cpu() for name, value in one.items()}, self.clip)
            for one in states  # a node that does not bound its change itself is bounded here
        ]
        found: dict[str, Tensor] = {}
        for name, before in state.items():
            if not before.is_floating_point():  # counters of batches tell how many rows a node has
                continue
            total = torch.zeros(before.shape, dtype=torch.float64)
            for change in changes:
                if name in change:
                    total += change[name].double()
            noise = torch.randn(before.shape, generator=generator, dtype=torch.float64)
            found[name] = (before.cpu().double() + total / wanted + deviation * noise).to(before)
        return found

    def epsilon(self, *, rounds: int, share: float) -> float:
        """Return epsilon after so many rounds, in each of which a share of the nodes is drawn."""
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history = [(self.noise, share, rounds)]
        return float(accountant.get_epsilon(self.delta, alphas=ORDERS))
