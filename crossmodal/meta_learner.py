"""The meta-learner: weighs experts, and their fusion, by what is known of each and what each says of an input.

After the meta agent of Meta Learning in Decentralized Neural Networks (Y. Sun, arXiv 2302.01020), which observes many
networks and combines them. It is trained as a stacked combiner is (Wolpert 1992): by rows that train nothing else.

Legend: B rows, E experts, D width, H hidden width, F facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experts.base import ExpertTokens

# what is known of an expert on a row, and how much a unit of it counts before anything is learned
FACTS = {
    "confidence": 1.0,
    "entropy": -1.0,
    "agreement": 0.0,
    "novelty": -4.0,
    "staleness": -6.0,
    "likelihood": 2.0,  # the exponential of the running loss, negative
    "accuracy": 2.0,
    "gain": 3.0,  # how much greater the loss of the fusion is without it; of the fusion, less what it does not hear
}
MARGIN = 1.0  # so far behind the best of a row an expert is heard as half of one
STEEPNESS = 2.0  # how quickly it is heard less beyond that
FULL = 1 / (1 + math.exp(-STEEPNESS * MARGIN))
SCALE = 2.0  # of a unit of the last layers; more, and a score falls so low in a few steps that it is not heard of again
FUSION_FIRST = 2.0  # by how much the score with which the fusion begins is above that of an expert of the same facts


@dataclass
class Scores:
    """What the meta-learner thinks of the experts on B rows.

    Args:
        scores_BE: Minus infinity where a row lacks an expert's input.
        context_BH: Of the experts together, by which their fusion is judged.
    """

    scores_BE: Tensor
    context_BH: Tensor

    def shares(self) -> Tensor:
        """Return how much of what each expert says reaches the workspace, (B, E): 1 for the best of a row."""
        best_B1 = self.scores_BE.amax(1, keepdim=True)
        behind_BE = self.scores_BE - best_B1.nan_to_num(neginf=0.0)
        return torch.sigmoid(STEEPNESS * (behind_BE + MARGIN)) / FULL


class MetaLearner(nn.Module):
    """Gives each expert a score for each row, and their fusion one.

    Args:
        experts: Their names.
        width: D.
        hidden: H.
        held_out: Share of the training rows that train the meta-learner, and nothing else.
        held_out_by: An expert; rows that share its input are held out together. By default the one with most inputs of
            those whose inputs several rows share, if these are not few; else each row is held out by itself.
        corruption: Rate at which an expert's tokens are corrupted in training.
        dropout: In what is learned of the tokens.
        own: Weight of the losses of the experts' own heads.
        score_z: Weight of the scores' size.

    Raises:
        ValueError: A number is out of range, or `held_out_by` is no expert.
    """

    def __init__(
        self,
        experts: Sequence[str],
        width: int,
        *,
        hidden: int = 32,
        held_out: float = 0.1,
        held_out_by: str | None = None,
        corruption: float = 0.3,
        dropout: float = 0.5,
        own: float = 1.0,
        score_z: float = 1e-3,
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"model.meta_learner: hidden must be at least 1, not {hidden}")
        if not 0 < held_out <= 0.5:
            raise ValueError(
                f"model.meta_learner: held_out is a share of the training rows, above 0 and at most 0.5, not {held_out}"
            )
        if held_out_by is not None and held_out_by not in experts:
            raise ValueError(
                f"model.meta_learner: held_out_by: there is no expert {held_out_by!r}; there are {', '.join(experts)}"
            )
        if not 0 <= corruption <= 1:
            raise ValueError(f"model.meta_learner: corruption is a rate, 0 to 1, not {corruption}")
        if own < 0 or score_z < 0:
            raise ValueError(f"model.meta_learner: own ({own}) and score_z ({score_z}) are weights, at least 0")
        self.experts = tuple(experts)
        self.held_out = held_out
        self.held_out_by = held_out_by
        self.corruption = corruption
        self.own = own
        self.score_z = score_z
        count = len(self.experts)
        self.silent_ED = nn.Parameter(0.5 * torch.randn(count, width))
        self.token_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.token_EDH = nn.Parameter(torch.randn(count, width, hidden) / width**0.5)
        self.expert_EH = nn.Parameter(0.02 * torch.randn(count, hidden))
        self.facts = nn.Linear(len(FACTS), hidden, bias=False)
        self.alone = nn.Linear(hidden, hidden)
        self.others = nn.Linear(hidden, hidden, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.score = nn.Linear(hidden, 1)
        self.fact_score = nn.Linear(len(FACTS), 1, bias=False)
        self.fusion_facts = nn.Linear(len(FACTS), hidden)
        self.fusion_context = nn.Linear(hidden, hidden, bias=False)
        self.fusion_score = nn.Linear(hidden, 1)
        self.fusion_fact_score = nn.Linear(len(FACTS), 1, bias=False)
        with torch.no_grad():
            for layer in (self.score, self.fusion_score):
                layer.weight.zero_()
                layer.bias.zero_()
            for layer in (self.fact_score, self.fusion_fact_score):
                layer.weight.copy_(torch.tensor([*FACTS.values()]))

    def forward(self, readings_BED: Tensor, facts_BEF: Tensor, present_BE: Tensor) -> Scores:
        """Score the experts of each row.

        Args:
            readings_BED: What each expert's own network makes of its tokens.
            facts_BEF: In the order of `FACTS`.
            present_BE: Whether the row has the expert's input.
        """
        token_BEH = torch.einsum("bed,edh->beh", self.token_norm(readings_BED), self.token_EDH)
        hidden_BEH = F.gelu(token_BEH + self.facts(facts_BEF) + self.expert_EH)
        present_BE1 = present_BE.unsqueeze(-1)
        context_BH = (hidden_BEH * present_BE1).sum(1) / present_BE1.sum(1).clamp_min(1)
        joint_BEH = F.gelu(self.alone(hidden_BEH) + self.others(context_BH).unsqueeze(1))
        learned_BE1 = SCALE * self.score(self.dropout(joint_BEH))
        scores_BE = (learned_BE1 + self.fact_score(facts_BEF)).squeeze(-1)
        return Scores(scores_BE.masked_fill(~present_BE, -torch.inf), context_BH)

    def score_fusion(self, facts_BF: Tensor, context_BH: Tensor) -> Tensor:
        """Score the fusion of each row, shape (B,)."""
        hidden_BH = F.gelu(self.fusion_facts(facts_BF) + self.fusion_context(context_BH))
        learned_B1 = SCALE * self.fusion_score(hidden_BH)
        scores_B: Tensor = FUSION_FIRST + (learned_B1 + self.fusion_fact_score(facts_BF)).squeeze(-1)
        return scores_B

    def heard(self, tokens: Mapping[str, ExpertTokens], shares_BE: Tensor) -> dict[str, ExpertTokens]:
        """Return the tokens of each row, of the workspace's width, each with a share of what it says.

        The rest is what stands for an expert that is not heard: fusions normalise, so that a token that is only made
        smaller would still say all. It stands for one that a row lacks, too, so that a fusion knows what that is like.
        """
        shares = shares_BE.to(self.silent_ED.dtype).unbind(1)
        return {
            name: _heard(tokens[name], silent_D, share_B)
            for name, silent_D, share_B in zip(self.experts, self.silent_ED, shares, strict=True)
        }


def _heard(tokens: ExpertTokens, silent_D: Tensor, share_B: Tensor) -> ExpertTokens:
    mask_BN = tokens.mask_BN
    is_absent_B1 = ~mask_BN.any(1, keepdim=True)
    tokens_BND = silent_D.lerp(tokens.tokens_BND.to(silent_D.dtype), share_B[:, None, None])
    tokens_BND = torch.where(is_absent_B1.unsqueeze(-1), silent_D, tokens_BND)
    is_first_N = torch.arange(mask_BN.shape[1], device=mask_BN.device) == 0
    return ExpertTokens(tokens_BND, mask_BN | (is_absent_B1 & is_first_N))
