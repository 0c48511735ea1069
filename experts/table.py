"""Rows of a table: one token a column.

After Gorishniy et al., Revisiting Deep Learning Models for Tabular Data (NeurIPS 2021, arXiv 2106.11959), and On
Embeddings for Numerical Features in Tabular Deep Learning (NeurIPS 2022, arXiv 2203.05556).

Legend: U inputs, C numeric columns, K categorical columns, V places for a column's categories, F frequencies,
P 2F periodic features, N columns of both kinds, D width.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experts.base import Expert, ExpertTokens
from experts.features import Moments, Standardize
from experts.raw import require_kind

NUMBER = int | float | np.integer | np.floating
LARGEST = torch.finfo(torch.float32).max
# codes of categories: 0 is a missing one, the largest int64 a place that no category has
MISSING_CODE, NO_CODE = 0, 2**63 - 1
# rows of an embedding
MISSING, UNKNOWN, FIRST_KNOWN = 0, 1, 2


def category_code(category: str) -> int:
    """Hash a category to a number that is neither `MISSING_CODE` nor `NO_CODE`; no vocabulary need be kept."""
    digest = hashlib.blake2b(category.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return 1 + int.from_bytes(digest) % (NO_CODE - 1)


class TableTransform:
    """Turns the cells of a row into numbers: those of numeric columns, codes of categories.

    Numbers are float32: seconds since 1970 would be exact to two minutes, seconds since the first row to less.

    Args:
        numeric: Columns of numbers.
        categorical: Columns of categories.
    """

    def __init__(self, numeric: Sequence[str], categorical: Sequence[str]) -> None:
        self.numeric = list(numeric)
        self.categorical = list(categorical)

    def __call__(self, raw: Mapping[str, float | str | None]) -> dict[str, Tensor]:
        """Turn a row into `numeric` (float32, NaN where missing) and `categorical` (int64, 0 where missing).

        Raises:
            ValueError: A column is not there, or holds what it must not.
        """
        require_kind(raw, Mapping, "cells by column")
        for column in (*self.numeric, *self.categorical):
            if column not in raw:
                raise ValueError(f"there is no column {column!r}; the row has {', '.join(map(repr, raw))}")
        return {
            "numeric": torch.tensor([_number(raw[column], column) for column in self.numeric], dtype=torch.float32),
            "categorical": torch.tensor([_code(raw[column], column) for column in self.categorical], dtype=torch.int64),
        }

    def collate(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack rows to `numeric` of shape (U, C) and `categorical` of shape (U, K)."""
        return {key: torch.stack([item[key] for item in items]) for key in ("numeric", "categorical")}

    @property
    def for_evaluation(self) -> TableTransform:
        """Itself: there is no chance in it."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return what the numbers depend on."""
        return {"numeric": self.numeric, "categorical": self.categorical}


def _is_missing(value: object) -> bool:
    return value is None or (isinstance(value, NUMBER) and value != value)


def _number(value: object, column: str) -> float:
    if _is_missing(value):
        return math.nan
    if not isinstance(value, NUMBER):
        raise ValueError(f"column {column!r}: expected a number, found {value!r}")
    if not -LARGEST <= value <= LARGEST:
        raise ValueError(f"column {column!r}: a number that is infinite, or beyond the {LARGEST:.2g} of float32")
    return float(value)


def _code(value: object, column: str) -> int:
    if _is_missing(value):
        return MISSING_CODE
    if not isinstance(value, str):
        raise ValueError(f"column {column!r}: expected a category as text, found {value!r}")
    return category_code(value)


class PeriodicEmbedding(nn.Module):
    """One token for each number: sines of trained frequencies, a linear layer of each column's own, ReLU.

    Args:
        columns: C.
        width: D.
        frequencies: F of each column.
        sigma: Deviation of the frequencies when they are drawn; larger ones tell near numbers apart.
    """

    def __init__(self, columns: int, *, width: int, frequencies: int, sigma: float) -> None:
        super().__init__()
        bound = (2 * frequencies) ** -0.5
        self.frequency_CF = nn.Parameter(sigma * torch.randn(columns, frequencies))
        self.weight_CPD = nn.Parameter(torch.empty(columns, 2 * frequencies, width).uniform_(-bound, bound))
        self.bias_CD = nn.Parameter(torch.empty(columns, width).uniform_(-bound, bound))
        self.missing_CD = nn.Parameter(torch.randn(columns, width) / width**0.5)

    def forward(self, values_UC: Tensor) -> Tensor:
        """Embed standardised values, NaN where missing, to shape (U, C, D)."""
        missing_UC1 = values_UC.isnan().unsqueeze(-1)
        # not only masked in the end: the gradient of NaN is NaN, even where it is multiplied by 0
        angles_UCF = 2 * math.pi * values_UC.nan_to_num(0).unsqueeze(-1) * self.frequency_CF
        periodic_UCP = torch.cat([angles_UCF.cos(), angles_UCF.sin()], dim=-1)
        tokens_UCD = torch.einsum("ucp,cpd->ucd", periodic_UCP, self.weight_CPD) + self.bias_CD
        return torch.where(missing_UC1, self.missing_CD, tokens_UCD.relu())


class CategoryEmbedding(nn.Module):
    """One token for each category; each column knows its most frequent ones in the training split.

    All others share one row, which begins at zero and is trained only where the training split has more categories
    than there are places: else it says what its column's bias says, which all rows have trained.

    Args:
        columns: K.
        width: D.
        max_categories: V.
    """

    codes_KV: Tensor

    def __init__(self, columns: int, *, width: int, max_categories: int) -> None:
        super().__init__()
        self.rows = FIRST_KNOWN + max_categories
        self.register_buffer("codes_KV", torch.full((columns, max_categories), NO_CODE))
        self.embedding = nn.Embedding(columns * self.rows, width)
        self.bias_KD = nn.Parameter(torch.randn(columns, width) / width**0.5)
        with torch.no_grad():
            self.embedding.weight.mul_(width**-0.5)
            self.embedding.weight[UNKNOWN :: self.rows] = 0

    def learn(self, counts: Sequence[Counter[int]]) -> None:
        """Keep each column's most frequent codes; of equally frequent ones the smaller."""
        codes_KV = torch.full_like(self.codes_KV, NO_CODE)
        for known_V, counter in zip(codes_KV, counts, strict=True):
            ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
            kept = sorted(code for code, _ in ranked[: len(known_V)])
            known_V[: len(kept)] = torch.tensor(kept, dtype=torch.int64)
        self.codes_KV.copy_(codes_KV)

    def forward(self, codes_UK: Tensor) -> Tensor:
        """Embed codes to shape (U, K, D)."""
        codes_KU = codes_UK.T.contiguous()
        places_KU = torch.searchsorted(self.codes_KV, codes_KU).clamp_max(self.codes_KV.shape[1] - 1)
        is_known_KU = self.codes_KV.gather(1, places_KU) == codes_KU
        rows_KU = torch.where(is_known_KU, FIRST_KNOWN + places_KU, UNKNOWN)
        rows_KU = rows_KU.masked_fill(codes_KU == MISSING_CODE, MISSING)
        first_K1 = self.rows * torch.arange(len(rows_KU), device=rows_KU.device).unsqueeze(1)
        tokens_UKD: Tensor = self.embedding((first_K1 + rows_KU).T) + self.bias_KD
        return tokens_UKD


class TableNetwork(nn.Module):
    """Tokens of both kinds of columns, which then read one another.

    Args:
        numeric: Embeds numbers.
        categorical: Embeds categories.
        layers: Over the tokens of all columns.
    """

    def __init__(self, numeric: PeriodicEmbedding, categorical: CategoryEmbedding, layers: nn.Module) -> None:
        super().__init__()
        self.numeric = numeric
        self.categorical = categorical
        self.layers = layers

    def forward(self, values_UC: Tensor, codes_UK: Tensor) -> Tensor:
        """Turn standardised numbers and codes into tokens of shape (U, N, D), numeric columns first."""
        tokens_UND: Tensor = self.layers(torch.cat([self.numeric(values_UC), self.categorical(codes_UK)], dim=1))
        return tokens_UND


class TableExpert(Expert):
    """A small trained transformer for rows of a table, one token a column.

    Numbers are standardised by the training split, and categories are those of the training split. A missing cell has
    a learned token of its own, and so has a category that was not seen.

    Args:
        numeric: Columns of numbers.
        categorical: Columns of categories.
        width: D of the tokens.
        max_categories: How many of a column's categories are told apart, the most frequent ones; the others are one.
        frequencies: Of each numeric column.
        sigma: Deviation of the frequencies when they are drawn; larger ones tell near numbers apart.
        depth: Transformer layers over the columns' tokens; 0 leaves columns by themselves.
        num_heads: Of all attention.
        dropout: In the transformer layers.

    Raises:
        ValueError: No column, one that is named twice, or a number out of range.
    """

    network: TableNetwork
    transform: TableTransform

    def __init__(
        self,
        numeric: list[str] | None = None,
        categorical: list[str] | None = None,
        *,
        width: int = 32,
        max_categories: int = 256,
        frequencies: int = 16,
        sigma: float = 0.1,
        depth: int = 1,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        numeric, categorical = numeric or [], categorical or []
        counts = Counter([*numeric, *categorical])
        if not counts:
            raise ValueError("a table needs a column: name some under numeric or categorical")
        if twice := [column for column, count in counts.items() if count > 1]:
            raise ValueError(f"column {twice[0]!r} is named twice under numeric and categorical")
        least = {"width": width, "max_categories": max_categories, "frequencies": frequencies, "num_heads": num_heads}
        for name, value in least.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if depth < 0 or sigma <= 0:
            raise ValueError(f"depth ({depth}) must be at least 0, sigma ({sigma}) above 0")
        if width % num_heads:
            raise ValueError(f"width ({width}) must be a multiple of num_heads ({num_heads})")
        layers = [
            nn.TransformerEncoderLayer(
                width, num_heads, 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        ]
        network = TableNetwork(
            PeriodicEmbedding(len(numeric), width=width, frequencies=frequencies, sigma=sigma),
            CategoryEmbedding(len(categorical), width=width, max_categories=max_categories),
            nn.Sequential(*layers),
        )
        super().__init__(network, width=width, transform=TableTransform(numeric, categorical), freeze=False)
        self.standardize = Standardize(len(numeric))

    @property
    def needs_statistics(self) -> bool:
        """Until they are learned, or a checkpoint brings them."""
        return not self.standardize.is_fitted

    def learn_statistics(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Learn each numeric column's mean and deviation, and each categorical column's categories."""
        moments = Moments(len(self.transform.numeric))
        counts: list[Counter[int]] = [Counter() for _ in self.transform.categorical]
        for inputs in batches:
            moments.add(inputs["numeric"])
            for counter, codes_U in zip(counts, inputs["categorical"].T, strict=True):
                counter.update(codes_U[codes_U != MISSING_CODE].tolist())
        self.standardize.learn(moments)
        self.network.categorical.learn(counts)

    def encode(self, inputs: dict[str, Tensor]) -> ExpertTokens:
        """Turn numbers of shape (U, C) and codes of shape (U, K) into one token a column, numeric columns first."""
        tokens_UND = self.network(self.standardize(inputs["numeric"]), inputs["categorical"])
        return ExpertTokens(tokens_UND, torch.ones(tokens_UND.shape[:2], dtype=torch.bool, device=tokens_UND.device))
