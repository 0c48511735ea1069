"""How like those of training an expert's tokens are, by running moments.

Legend: U distinct inputs, D width, K directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

DIRECTIONS = 64  # that are looked at; more tell little more
SLOWEST = 0.01  # share of a batch in what is known, once much is
FLOOR = 0.01  # added to the variance of every direction, as a share of the mean one
MOST = 30.0  # deviations; beyond, all is equally new
ALIKE = 0.25  # share of the variance of training below which inputs are suspiciously alike


class Familiarity(nn.Module):
    """Learns mean and covariance of an expert's mean tokens, and how far from the mean they usually are.

    The distance is that of Mahalanobis, along fixed random directions.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        directions = min(width, DIRECTIONS)
        draw = torch.Generator().manual_seed(0)
        self.directions_DK: Tensor
        self.mean_K: Tensor
        self.covariance_KK: Tensor
        self.distance_2: Tensor
        self.batches: Tensor
        self.register_buffer("directions_DK", torch.randn(width, directions, generator=draw) / width**0.5)
        self.register_buffer("mean_K", torch.zeros(directions))
        self.register_buffer("covariance_KK", torch.eye(directions))
        self.register_buffer("distance_2", torch.tensor([1.0, 2.0]))  # its mean, and the mean of its square
        self.register_buffer("batches", torch.zeros(()))

    @torch.no_grad()
    def learn(self, means_UD: Tensor) -> None:
        """Take a batch of inputs of the training split into account."""
        along_UK = self._along(means_UD)
        along_UK = along_UK[along_UK.isfinite().all(1)]
        if not len(along_UK):
            return
        share = (1 / (self.batches + 1)).clamp_min(SLOWEST)
        # about the mean: of tokens that are far from 0 for their deviation, a difference of squares would be rounding
        apart_UK = along_UK - along_UK.mean(0)
        moved_K = along_UK.mean(0) - self.mean_K
        known_KK = self.covariance_KK + share * moved_K.outer(moved_K)
        with torch.autocast(along_UK.device.type, enabled=False):
            found_KK = apart_UK.T @ apart_UK / len(along_UK)
        self.covariance_KK.copy_(known_KK.lerp(found_KK, share))
        self.mean_K.lerp_(along_UK.mean(0), share)
        distance_U = self._distance(along_UK)
        self.distance_2.lerp_(torch.stack([distance_U.mean(), distance_U.square().mean()]), share)
        self.batches += 1

    def _along(self, means_UD: Tensor) -> Tensor:
        with torch.autocast(means_UD.device.type, enabled=False):
            return means_UD.float() @ self.directions_DK

    def _floored(self) -> Tensor:
        floor = FLOOR * self.covariance_KK.diagonal().mean().clamp_min(1e-6)
        return self.covariance_KK + floor * torch.eye(len(self.covariance_KK), device=floor.device)

    def _distance(self, along_UK: Tensor) -> Tensor:
        with torch.autocast(along_UK.device.type, enabled=False):
            whitened_KU = torch.linalg.solve_triangular(
                torch.linalg.cholesky_ex(self._floored()).L, (along_UK - self.mean_K).T, upper=False
            )
        distance_U: Tensor = whitened_KU.square().mean(0).sqrt()
        return distance_U

    @torch.no_grad()
    def novelty(self, means_UD: Tensor) -> Tensor:
        """Return how far beyond the usual distance from the mean each input is, 0 to 1, shape (U,)."""
        mean, square = self.distance_2
        deviation = (square - mean.square()).clamp_min(1e-4).sqrt()
        distance_U = self._distance(self._along(means_UD))
        beyond_U = ((distance_U - mean) / deviation).nan_to_num(MOST).clamp(0, MOST)
        novelty_U: Tensor = beyond_U.log1p() / math.log1p(MOST)
        return novelty_U

    @torch.no_grad()
    def staleness(self, means_UD: Tensor) -> Tensor:
        """Return how much more alike than in training these inputs are, 0 to 1: 1 where a sensor gives always the same.

        Of few inputs nothing can be said: one more, that varies as in training, is counted with them.
        """
        if not len(means_UD):
            return self.mean_K.new_zeros(())
        along_UK = self._along(means_UD)
        spread = (along_UK.var(0, correction=0) / self._floored().diagonal()).nan_to_num(1.0, 1.0).mean()
        share = (len(means_UD) * spread + 1) / (len(means_UD) + 1)
        return (1 - share / ALIKE).clamp(0, 1)
