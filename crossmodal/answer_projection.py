"""A head that pulls fused features to the words of their answers, instead of telling numbers of classes apart.

After the answer projection of Sun and Ochiai, Bidirectional Contrastive Split Learning for Visual Question Answering
(AAAI 2024, arXiv 2208.11435).

Legend: B rows, C answers of the task, U answers of the batch, D width, E width of an answer's words, P projected width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.contrast import STEEPEST, log_share_of_own, scale_of
from crossmodal.heads import ClassificationHead
from experts.base import Expert


class AnswerProjectionHead(ClassificationHead):
    """One of C answers: the one whose projected words are most like the projected mean workspace token.

    The loss is contrastive, and the mean of two directions: which answer is a row's own, and which rows are an
    answer's own.

    Args:
        width: D.
        num_outputs: C.
        expert: Embeds the answers' names, frozen; null for embeddings that are learned.
        projected: P.
        temperature: With which training begins; it is learned.
        candidates: What a row's own answer is told from in the loss: the answers of its `batch`, or all of its `task`.

    Raises:
        ValueError: The expert trains, or a number is out of range.
    """

    def __init__(
        self,
        width: int,
        num_outputs: int,
        *,
        expert: Expert | None = None,
        projected: int = 64,
        temperature: float = 0.07,
        candidates: Literal["batch", "task"] = "task",
    ) -> None:
        super().__init__(width, num_outputs)
        if projected < 1 or temperature < 1 / STEEPEST:
            raise ValueError(
                f"projected must be at least 1, not {projected}, and temperature at least {1 / STEEPEST}, "
                f"not {temperature}"
            )
        if expert is not None and not expert.frozen:
            raise ValueError("the expert for answers embeds their names once, so it cannot train: set `freeze: true`")
        self.linear = nn.Linear(width, projected)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.only_of_batch = candidates == "batch"
        self._embedder = [] if expert is None else [expert]  # no part of the model: it is asked once
        self.words_CE: Tensor
        if expert is None:
            self.words_CE = nn.Parameter(torch.randn(num_outputs, projected))
            self.project: nn.Module = nn.Identity()
        else:
            self.register_buffer("words_CE", torch.zeros(num_outputs, expert.width))
            self.project = nn.Sequential(nn.LayerNorm(expert.width), nn.Linear(expert.width, projected))

    @torch.no_grad()
    def learn_names(self, names: Sequence[str]) -> None:
        """Embed the answers' names.

        Raises:
            ValueError: The expert does not take texts.
        """
        for expert in self._embedder:
            try:
                inputs = expert.transform.collate([expert.transform(name) for name in names])
            except ValueError as error:
                raise ValueError(
                    f"the expert for answers is to embed their names, such as {names[0]!r}: {error}"
                ) from error
            self.words_CE.copy_(expert(inputs).mean())
        self._embedder = []

    def read(self, mean_BD: Tensor) -> Tensor:
        """Return the similarities to all answers, over the temperature.

        Raises:
            ValueError: It was never told what the answers are called.
        """
        if self._embedder:
            raise ValueError("the head has an expert for the answers' names, but was not told them: call `learn_names`")
        answers_CP = F.normalize(self.project(self.words_CE), dim=1)
        return (
            scale_of(self.log_scale, training=self.training) * F.normalize(self.linear(mean_BD), dim=1) @ answers_CP.T
        )

    def loss(self, outputs_BC: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of both directions' cross-entropies."""
        used_U = torch.unique(targets)
        among_BC = outputs_BC
        if self.only_of_batch:
            is_other_C = torch.ones_like(outputs_BC[0], dtype=torch.bool).index_fill(0, used_U, False)
            among_BC = outputs_BC.masked_fill(is_other_C, -torch.inf)
        forth = F.cross_entropy(among_BC, targets, self.weights_C)
        back_U = log_share_of_own(outputs_BC.T[used_U], targets == used_U.unsqueeze(1))
        return (forth - back_U.mean()) / 2
