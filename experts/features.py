"""Arrays that were computed elsewhere: one vector, or a sequence of them.

Legend: U inputs, N tokens (vectors), D features of a vector, X any axes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from experts.base import Expert, ExpertTokens

# one of n values is at most sqrt(n) deviations from their mean, so that no training value is beyond; without a limit,
# a wild value elsewhere could become infinite
MOST_DEVIATIONS = 1e4


class Moments:
    """Mean and deviation of vectors that come in batches, in double precision (Chan, Golub & LeVeque 1983).

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        self.num_vectors = 0
        self._count_D = torch.zeros(width, dtype=torch.float64)
        self._mean_D = torch.zeros(width, dtype=torch.float64)
        self._squares_D = torch.zeros(width, dtype=torch.float64)

    def add(self, values_ND: Tensor) -> None:
        """Add a batch of vectors; NaN is a missing value."""
        values_ND = values_ND.detach().cpu().double()
        self.num_vectors += len(values_ND)
        there_ND = ~values_ND.isnan()
        count_D = there_ND.sum(0)
        mean_D = values_ND.nansum(0) / count_D.clamp_min(1)
        squares_D = (values_ND - mean_D).square().nansum(0)
        total_D = self._count_D + count_D
        share_D = count_D / total_D.clamp_min(1)
        step_D = mean_D - self._mean_D
        self._mean_D = self._mean_D + step_D * share_D
        self._squares_D = self._squares_D + squares_D + step_D.square() * self._count_D * share_D
        self._count_D = total_D

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Return both as float32 of length D; the deviation of a feature that is always the same is 1."""
        std_D = (self._squares_D / self._count_D.clamp_min(1)).sqrt()
        is_constant_D = std_D <= torch.finfo(torch.float32).eps * self._mean_D.abs()
        return self._mean_D.float(), std_D.float().masked_fill(is_constant_D, 1)


class Standardize(nn.Module):
    """Gives features the mean 0 and the deviation 1 that they have in the training split.

    Args:
        width: D.
    """

    count: Tensor
    mean_D: Tensor
    std_D: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("std_D", torch.ones(width))
        self._is_fitted = False

    @property
    def is_fitted(self) -> bool:
        """Whether statistics were learned, here or before a checkpoint."""
        # asked for at every step: a GPU is made to wait only until it is so
        self._is_fitted = self._is_fitted or bool(self.count > 0)
        return self._is_fitted

    def learn(self, moments: Moments) -> None:
        """Take over the training split's mean and deviation."""
        mean_D, std_D = moments.mean_and_std()
        self.mean_D.copy_(mean_D)
        self.std_D.copy_(std_D)
        self.count.fill_(moments.num_vectors)

    def forward(self, values_XD: Tensor) -> Tensor:
        """Standardize values of shape (..., D); NaN stays."""
        scaled_XD = (values_XD - self.mean_D) / self.std_D
        return scaled_XD.clamp(-MOST_DEVIATIONS, MOST_DEVIATIONS).to(self.mean_D.dtype)


class FeatureTransform:
    """Checks arrays, and pads sequences of vectors to one length.

    Args:
        dim: D.
        max_length: In vectors; what is longer is cut.
    """

    def __init__(self, dim: int, *, max_length: int | None = None) -> None:
        self.dim = dim
        self.max_length = max_length

    def __call__(self, raw: Any) -> Tensor:
        """Turn an array of shape (D,) or (N, D) into float32 of shape (N, D).

        Raises:
            ValueError: Another shape, no vector at all, or a value that is no finite number.
        """
        if isinstance(raw, Image.Image):  # NumPy would take its pixels
            raise ValueError(f"expected vectors of {self.dim} numbers, found a picture")
        array = np.asarray(raw)
        if array.ndim not in (1, 2) or array.shape[-1] != self.dim:
            raise ValueError(f"expected vectors of {self.dim} numbers, found shape {array.shape}")
        if array.dtype.kind not in "fiub":
            raise ValueError(f"expected vectors of {self.dim} numbers, found {array.dtype}")
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
            array_ND = np.array(array.reshape(-1, self.dim)[: self.max_length], dtype=np.float32)
        if not len(array_ND):
            raise ValueError("a sequence of no vectors; a row without any must lack the modality")
        if not (is_finite_ND := np.isfinite(array_ND)).all():
            vector, feature = np.argwhere(~is_finite_ND)[0]
            raise ValueError(f"value {feature} of vector {vector} is {array_ND[vector, feature]}, no finite number")
        return torch.from_numpy(array_ND)

    def collate(self, items: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad to `values` of shape (U, N, D); `mask` of shape (U, N) is true where a vector is real."""
        lengths_U = torch.tensor([len(item) for item in items])
        mask_UN = torch.arange(int(lengths_U.max())) < lengths_U.unsqueeze(1)
        return {"values": pad_sequence(list(items), batch_first=True), "mask": mask_UN}

    def complaint(self, raw: NDArray[Any]) -> tuple[str, str] | None:
        """Tell of a sequence that is cut."""
        array = np.asarray(raw)
        if self.max_length is None or array.ndim < 2 or len(array) <= self.max_length:
            return None
        return "array too long", f"{len(array)} vectors, cut to {self.max_length}"

    @property
    def for_evaluation(self) -> FeatureTransform:
        """Itself: there is no chance in it."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what the vectors depend on."""
        return {"dim": self.dim, "max_length": self.max_length}


class FeatureExpert(Expert):
    """A small trained network for arrays that were computed elsewhere, one token a vector.

    They are standardised by the training split. The order of the vectors of a sequence is not told.

    Args:
        dim: Numbers in a vector.
        width: D of the tokens.
        hidden: Width of the hidden layer.
        max_length: In vectors; what is longer is cut.
        dropout: In the hidden layer.

    Raises:
        ValueError: A width or the length is below 1.
    """

    transform: FeatureTransform

    def __init__(
        self,
        dim: int,
        *,
        width: int = 64,
        hidden: int = 128,
        max_length: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        for name, value in (("dim", dim), ("width", width), ("hidden", hidden), ("max_length", max_length)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        # the scale of a single feature would be lost in the layer norm that follows every expert: hence a hidden layer
        network = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        transform = FeatureTransform(dim, max_length=max_length)
        super().__init__(network, width=width, transform=transform, freeze=False)
        self.standardize = Standardize(dim)

    @property
    def needs_statistics(self) -> bool:
        """Until they are learned, or a checkpoint brings them."""
        return not self.standardize.is_fitted

    def learn_statistics(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Learn each feature's mean and deviation."""
        moments = Moments(self.transform.dim)
        for inputs in batches:
            moments.add(inputs["values"][inputs["mask"]])
        self.standardize.learn(moments)

    def encode(self, inputs: dict[str, Tensor]) -> ExpertTokens:
        """Turn vectors of shape (U, N, D) into tokens."""
        mask_UN = inputs["mask"]
        tokens_UND = self.network(self.standardize(inputs["values"]))
        return ExpertTokens(tokens_UND.masked_fill(~mask_UN.unsqueeze(-1), 0), mask_UN)
