"""How a server makes one state of those of many replicas, and what it makes of that, as a configuration says it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from crossmodal.replicas import aggregation
from crossmodal.replicas.aggregation import State
from crossmodal.replicas.server import Moments, adaptive_step, outer_step


class Merge(ABC):
    """Makes one state of many."""

    @abstractmethod
    def __call__(self, states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
        """Return it.

        Args:
            states: Of the replicas.
            weights: How many rows each has.

        Raises:
            ValueError: There are too few replicas.
        """


class Mean(Merge):
    """The mean (FedAvg, McMahan et al. 2017, arXiv 1602.05629).

    Args:
        by_rows: A replica counts as its rows do; else all count the same.
    """

    def __init__(self, by_rows: bool = True) -> None:
        self.by_rows = by_rows

    def __call__(self, states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
        """Merge."""
        return aggregation.mean(states, weights if self.by_rows else None)


class Median(Merge):
    """The median of each number (Yin et al. 2018, arXiv 1803.01498)."""

    def __call__(self, states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
        """Merge."""
        return aggregation.median(states)


class TrimmedMean(Merge):
    """The mean of each number without its extremes (Yin et al. 2018, arXiv 1803.01498).

    Args:
        trim: The share that is left out at either end, below 0.5.
    """

    def __init__(self, trim: float = 0.1) -> None:
        self.trim = trim

    def __call__(self, states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
        """Merge."""
        return aggregation.trimmed_mean(states, self.trim)


class Krum(Merge):
    """The mean of the replicas that lie closest to their neighbours (Blanchard et al. 2017).

    Args:
        faulty: How many replicas may be: there must be more than 2 * faulty + 2.
        keep: How many the mean is of; by default all but the faulty (multi-Krum).
    """

    def __init__(self, faulty: int, keep: int | None = None) -> None:
        self.faulty = faulty
        self.keep = keep

    def __call__(self, states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
        """Merge."""
        return aggregation.krum(states, self.faulty, keep=self.keep or len(states) - self.faulty)


class GeometricMedian(Merge):
    """The state whose summed distance to all is least (RFA, Pillutla et al. 2022, arXiv 1912.13445).

    Args:
        by_rows: A replica counts as its rows do; else all count the same.
    """

    def __init__(self, by_rows: bool = False) -> None:
        self.by_rows = by_rows

    def __call__(self, states: Sequence[State], weights: Sequence[float]) -> dict[str, Tensor]:
        """Merge."""
        return aggregation.geometric_median(states, weights if self.by_rows else None)


class Server(ABC):
    """Makes the next global state of what replicas have been merged to."""

    @abstractmethod
    def __call__(self, state: State, merged: State) -> dict[str, Tensor]:
        """Return it, and keep what the next round wants.

        Args:
            state: The global one that the replicas began with.
            merged: What was made of theirs.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept between rounds."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        return


class Adopt(Server):
    """Takes it as it is."""

    def __call__(self, state: State, merged: State) -> dict[str, Tensor]:
        """Take it; what no replica has trained stays."""
        return {**state, **merged}


class AdaptiveServer(Server):
    """Takes the change as a gradient (FedAdagrad, FedAdam, FedYogi; Reddi et al. 2021, arXiv 2003.00295).

    Args:
        rule: How squares are remembered.
        lr: The server's.
        betas: Of the two moments.
        tau: How adaptive it is: the smaller, the more.
    """

    def __init__(
        self,
        rule: Literal["adagrad", "adam", "yogi"] = "adam",
        lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.99),
        tau: float = 1e-3,
    ) -> None:
        self.rule = rule
        self.settings: dict[str, Any] = {"lr": lr, "betas": betas, "tau": tau}
        self.moments = Moments()

    def __call__(self, state: State, merged: State) -> dict[str, Tensor]:
        """Take a step."""
        found, self.moments = adaptive_step(state, merged, self.moments, rule=self.rule, **self.settings)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the moments."""
        return {"first": self.moments.first, "second": self.moments.second}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with these moments."""
        self.moments = Moments(**state_dict)


class OuterServer(Server):
    """Takes the change of many local steps as a gradient of SGD with Nesterov's momentum (DiLoCo, arXiv 2311.08105).

    Args:
        lr: Of the outer step.
        beta: Of the momentum.
    """

    def __init__(self, lr: float = 0.7, beta: float = 0.9) -> None:
        self.lr = lr
        self.beta = beta
        self.momentum: dict[str, Tensor] = {}

    def __call__(self, state: State, merged: State) -> dict[str, Tensor]:
        """Take a step."""
        found, self.momentum = outer_step(state, merged, self.momentum, lr=self.lr, beta=self.beta)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the momentum."""
        return {"momentum": self.momentum}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with this momentum."""
        self.momentum = dict(state_dict["momentum"])
