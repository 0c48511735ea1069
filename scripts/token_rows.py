"""Rows whose inputs are tokens in memory, for comparisons of what comes after the experts.

Legend: R rows of a split, U distinct inputs, N tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmodal.encoding import store_tokens
from crossmodal.feature_store import FeatureStore
from datamodules.batch import ABSENT
from datamodules.easy_vqa import EasyVQA
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import PairedRows
from datamodules.sources import InputTransform, Source
from experts.base import Expert, ExpertTokens
from experts.image import ImageExpert
from experts.text import TextExpert

CONFIG = Path(__file__).parent.parent / "configs" / "easy_vqa.yaml"
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class AsItIs:
    """Leaves tokens as they are."""

    def __call__(self, raw: Tensor) -> Tensor:
        return raw

    @property
    def for_evaluation(self) -> AsItIs:
        return self

    def describe(self) -> dict[str, Any]:
        return {}


class GivenTokens(Expert):
    """A frozen expert whose inputs are its tokens."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Identity(), width=width, transform=AsItIs(), precision="float32")

    def encode(self, inputs: ExpertTokens) -> ExpertTokens:
        return inputs


class Tokens(Source):
    """Tokens of U inputs in memory; it is its own reader."""

    def __init__(self, tokens: ExpertTokens) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def load(self, position: int) -> Tensor:
        return self.tokens.tokens_BND[position]

    def name(self, position: int) -> str:
        return f"input {position}"

    def content(self, position: int) -> bytes:
        return self.load(position).numpy().tobytes()

    def reader(self, transform: InputTransform) -> Tokens:  # type: ignore[override]
        return self

    def read(self, positions: NDArray[np.int64]) -> ExpertTokens:
        """Return the tokens of these inputs."""
        chosen = torch.from_numpy(positions)
        return ExpertTokens(self.tokens.tokens_BND[chosen], self.tokens.mask_BN[chosen])

    def followed_by(self, tokens_UND: Tensor) -> Tokens:
        """Return a source of these tokens and, after them, further ones."""
        mask_UN = torch.ones(tokens_UND.shape[:2], dtype=torch.bool)
        both = torch.cat([self.tokens.tokens_BND, tokens_UND]), torch.cat([self.tokens.mask_BN, mask_UN])
        return Tokens(ExpertTokens(*both))


class TokenRows(PairedDataModule):
    """Rows over tokens in memory.

    Args:
        splits: Their rows, whose sources are `Tokens`.
        outputs: By task the names of its outputs.
        batch_size: Rows a batch.
    """

    def __init__(self, splits: Mapping[Split, PairedRows], outputs: dict[str, list[str]], *, batch_size: int) -> None:
        super().__init__(batch_size=batch_size)
        self.splits = splits
        self._outputs = outputs
        self.connect({name: AsItIs() for name in splits["train"].sources})

    @property
    def outputs(self) -> dict[str, list[str]]:
        return self._outputs

    def load(self, split: Split) -> PairedRows | None:
        return self.splits.get(split)

    def experts(self) -> dict[str, Expert]:
        """Return an expert for each modality."""
        sources = self.splits["train"].sources
        return {name: GivenTokens(source.tokens.tokens_BND.shape[-1]) for name, source in sources.items()}  # type: ignore[attr-defined]


def without(rows: PairedRows, modality: str) -> PairedRows:
    """Return rows as if none had this modality."""
    return replace(rows, index={**rows.index, modality: np.full(len(rows), ABSENT)})


def easy_vqa_experts(*, question: str = "mean", image: str = "pooled") -> dict[str, Expert]:
    """Return the experts of configs/easy_vqa.yaml.

    Args:
        question: `tokens` of the text expert.
        image: `tokens` of the image expert.
    """
    settings = {name: expert["init_args"] for name, expert in yaml.safe_load(CONFIG.read_text())["experts"].items()}
    return {
        "image": ImageExpert(**settings["image"] | {"tokens": image}),
        "question": TextExpert(**settings["question"] | {"tokens": question}),
    }


def easy_vqa(experts: Mapping[str, Expert], store: Path, *, batch_size: int) -> TokenRows:
    """Return configs/easy_vqa.yaml's rows over its experts' tokens, encoding what the store lacks.

    Args:
        experts: By modality.
        store: The feature store's folder.
        batch_size: Rows a batch.
    """
    data = EasyVQA(**yaml.safe_load(CONFIG.read_text())["data"]["init_args"])
    data.connect({name: expert.transform for name, expert in experts.items()})
    store_tokens(
        *(experts, data, FeatureStore(store), SPLITS),
        batch_size=32,
        device=torch.device("cpu"),
        report=lambda encoded: print(encoded, flush=True),
        show_progress=False,
    )
    return TokenRows({split: _in_memory(data, split) for split in SPLITS}, data.outputs, batch_size=batch_size)


def _in_memory(data: PairedDataModule, split: Split) -> PairedRows:
    rows = data.rows(split)
    assert rows is not None
    sources, index = {}, {}
    for name, reader in data.readers(split).items():
        used = rows.used(name)
        sources[name] = Tokens(reader.read(used).to(torch.float32))
        index[name] = np.searchsorted(used, rows.index[name])
    return replace(rows, sources=sources, index=index)


def with_nuisance(data: TokenRows, seed: int) -> TokenRows:
    """Return the rows with a pool of four experts: `image`, `twin`, `question` and `noise`.

    `twin` is a second expert that gives the same tokens as `image`. `noise` gives each row, of all splits, a token of
    its own, of 64 numbers drawn from a normal distribution. Otherwise all splits are as they were, the test split too:
    `with_broken` breaks it.
    """
    draw = torch.Generator().manual_seed(seed)
    splits = {}
    for split, rows in data.splits.items():
        noise_R1D = torch.randn(len(rows), 1, 64, generator=draw)
        noise = Tokens(ExpertTokens(noise_R1D, torch.ones(len(rows), 1, dtype=torch.bool)))
        own = np.arange(len(rows))
        splits[split] = replace(
            rows,
            sources={
                "image": rows.sources["image"],
                "twin": rows.sources["image"],
                "question": rows.sources["question"],
                "noise": noise,
            },
            index={
                "image": rows.index["image"],
                "twin": rows.index["image"],
                "question": rows.index["question"],
                "noise": own,
            },
        )
    return TokenRows(splits, data.outputs, batch_size=data.batch_size)


def with_broken(data: TokenRows, modality: str, seed: int, *, share: float = 0.5) -> PairedRows:
    """Return the test split where one expert's tokens are noise in some of the rows, which are drawn.

    The noise is drawn anew for each row and token: each channel from a normal distribution with the mean and the
    deviation that it has over the training split's inputs.
    """
    draw = torch.Generator().manual_seed(seed + 1_000)
    rows = data.splits["test"]
    known: Tensor = data.splits["train"].sources[modality].tokens.tokens_BND  # type: ignore[attr-defined]
    source: Tokens = rows.sources[modality]  # type: ignore[assignment]
    broken = torch.randperm(len(rows), generator=draw)[: round(share * len(rows))].numpy()
    shape = (len(broken), *source.tokens.tokens_BND.shape[1:])
    noise_UND = known.mean((0, 1)) + known.std((0, 1)) * torch.randn(shape, generator=draw)
    index_R = rows.index[modality].copy()
    index_R[broken] = len(source) + np.arange(len(broken))
    return replace(
        rows,
        sources={**rows.sources, modality: source.followed_by(noise_UND)},
        index={**rows.index, modality: index_R},
    )
