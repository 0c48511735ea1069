"""An associative memory: tokens compete to write to a few low-rank priors, and retrieve what these became.

After Sun et al., Associative Transformer (CVPR 2025, arXiv 2309.12862).

Legend: B rows, N tokens of all modalities together (and a null token), L memory slots, D width, R memory width,
H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.fusion.base import at_least_1
from crossmodal.fusion.layers import FeedForward, TransformerLayer
from crossmodal.fusion.tokens import TokenFusion
from experts.base import ExpertTokens


def uneven(amounts_BHN: Tensor, real_BN: Tensor) -> Tensor:
    """Return how unevenly amounts lie on each row's real tokens: their squared coefficient of variation, (B, H)."""
    real_B1N = real_BN.unsqueeze(1)
    count_B1 = real_B1N.sum(-1).clamp(min=1)
    mean_BH = amounts_BHN.masked_fill(~real_B1N, 0).sum(-1) / count_B1
    apart_BHN = (amounts_BHN - mean_BH.unsqueeze(-1)).masked_fill(~real_B1N, 0)
    return apart_BHN.square().sum(-1) / count_B1 / (mean_BH.square() + 1e-10)


def _balance(without_BHLN: Tensor, with_BHLN: Tensor, real_BN: Tensor) -> Tensor:
    """Return how unevenly tokens were attended to and chosen, given shares without and with the competition; (2,)."""
    chosen_BHLN = (with_BHLN > 0).float() + without_BHLN - without_BHLN.detach()
    has_B = real_BN.any(1)
    terms = [uneven(amounts_BHLN.sum(2), real_BN).mean(1) for amounts_BHLN in (with_BHLN, chosen_BHLN)]
    return torch.stack(terms).masked_fill(~has_B, 0).sum(1) / has_B.sum().clamp(min=1)


class AssociativeFusion(TokenFusion):
    """A row's tokens write to its copy of the priors by top-k attention, and retrieve from it by a Hopfield network.

    The paper lets all tokens of a batch compete, and retrieve from the one memory that this leaves. Here a row's tokens
    compete among themselves and retrieve from what they made of the priors, so that no row depends on another. Over
    the batches of training the priors follow what rows with tokens made of them: the mean over the rows, less what all
    slots have in common, which else is soon all that the priors hold. No gradient reaches them; a learned embedding of
    each slot is added.

    While training it has two terms, each a mean over rounds, rows and heads: how unevenly the attention of all slots
    (`importance`), and the number of slots (`load`), are spread over the row's tokens, as squared coefficients of
    variation. A count has no gradient: that of the attention before the competition stands for it.

    Left open by the paper, and chosen: all rounds have the same weights and memory; tokens learn of each other through
    the memory alone; a Hopfield network's update is done once a round.

    Args:
        modalities: Their names.
        width: D.
        slots: L.
        memory_width: R, low beside D.
        rounds: How often the memory is written, with a retrieval between.
        top_k: How many tokens may write to a slot; 0 lets all write.
        beta: The inverse temperature of retrieval: 0 retrieves the mean of the slots, a large one a single slot.
        rate: How far the priors go, with each batch of training, to what rows made of them.
        importance: The weight of the attention's unevenness.
        load: The weight of the number's unevenness.
        num_heads: H of the competition.
        dropout: In the feed-forward layers.

    Raises:
        ValueError: The memory's width is not a multiple of the number of heads, a count or beta is too small, or the
            rate is not from 0 to 1.
    """

    priors_LR: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        width: int = 128,
        slots: int = 4,
        memory_width: int = 32,
        rounds: int = 3,
        top_k: int = 4,
        beta: float = 1.0,
        rate: float = 0.1,
        importance: float = 0.01,
        load: float = 0.01,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(modalities, width=width)
        at_least_1(slots=slots, memory_width=memory_width, rounds=rounds)
        for name, value in {"top_k": top_k, "beta": beta}.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0, not {value}")
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be from 0 to 1, not {rate}")
        if num_heads < 1 or memory_width % num_heads:
            raise ValueError(f"memory_width ({memory_width}) must be a multiple of num_heads ({num_heads})")
        self.rounds = rounds
        self.beta = beta
        self.rate = rate
        self.importance = importance
        self.load = load
        self.register_buffer("priors_LR", F.normalize(torch.randn(slots, memory_width), dim=-1))
        self.slots_LR = nn.Parameter(F.normalize(torch.randn(slots, memory_width), dim=-1))
        self.write = TransformerLayer(
            memory_width, num_heads=num_heads, top_k=top_k, source_width=width, dropout=dropout
        )
        self.up = nn.Linear(memory_width, width)
        self.norm_token = nn.LayerNorm(width)
        self.mix = FeedForward(width, dropout=dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to what the row's memory holds after the last round, shape (B, L, D)."""
        tokens_BND, mask_BN = self.all_tokens(tokens)
        real_BN = F.pad(mask_BN[:, :-1], (0, 1), value=False)  # the null token has nothing to say
        memory_BLR = F.normalize(self.priors_LR + self.slots_LR, dim=-1).expand(len(tokens_BND), -1, -1)
        balance = []
        for number in range(self.rounds):
            if number:
                tokens_BND = self.mix(tokens_BND + self.retrieve(tokens_BND, memory_BLR))
            if self.training:
                written_BLR, without_BHLN, with_BHLN = self.write.with_shares(memory_BLR, tokens_BND, mask_BN)
                balance.append(_balance(without_BHLN, with_BHLN, real_BN))
            else:
                written_BLR = self.write(memory_BLR, tokens_BND, mask_BN)
            memory_BLR = F.normalize(written_BLR, dim=-1)
        self.terms = {}
        if self.training:
            importance, load = torch.stack(balance).mean(0)
            self.terms = {"importance": self.importance * importance, "load": self.load * load}
            self._move_priors(memory_BLR, real_BN.any(1))
        normed_BLD: Tensor = self.norm(self.up(memory_BLR))
        return normed_BLD

    def retrieve(self, tokens_BND: Tensor, memory_BLR: Tensor) -> Tensor:
        """Return what each token is to the memory: the slots' mean, weighed by how near they are, shape (B, N, D)."""
        patterns_BLD = self.up(memory_BLR)
        return F.scaled_dot_product_attention(self.norm_token(tokens_BND), patterns_BLD, patterns_BLD, scale=self.beta)

    @torch.no_grad()
    def _move_priors(self, memory_BLR: Tensor, has_B: Tensor) -> None:
        """Let the priors follow what rows that have tokens made of them; without such a row they stay."""
        total_LR = memory_BLR.masked_fill(~has_B[:, None, None], 0).sum(0).to(self.priors_LR.dtype)
        mean_LR = total_LR / has_B.sum().clamp(min=1)
        apart_LR = F.normalize(mean_LR - mean_LR.mean(0), dim=-1)
        moved_LR = F.normalize(torch.lerp(self.priors_LR, apart_LR, self.rate), dim=-1)
        # not in place: what is compiled reads the buffer once more on its way back
        self.priors_LR = torch.where(has_B.any(), moved_LR, self.priors_LR)
