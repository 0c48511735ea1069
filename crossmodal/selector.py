"""Chooses, before experts run, which of them each row is worth: what is not chosen is not computed.

As in a sparsely gated mixture (Shazeer et al. 2017, arXiv 1701.06538; load balancing of Fedus et al. 2022,
arXiv 2101.03961; z loss of Zoph et al. 2022, arXiv 2202.08906), but over whole experts, by what is known of them and by
what a few cheap ones say of the row, and by how sure their answer is, as in a cascade (Viola & Jones 2001). How much an
expert is worth is learned from what it was worth: on rows that train nothing else the loss of the answer is compared
without and with it, among others that are drawn (a Shapley value, Shapley 1953, sampled), so that two that know the
same are each worth something.

Legend: B rows, E experts, D width, H hidden width, F facts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.meta_learner import FACTS
from datamodules.batch import PairedBatch

PRICE_RATE = 0.05  # share of a batch in the price
MARGIN = 1e-3
MOST_WORTH = 5.0  # a gain beyond is as good as any: one row must not drown the others
SCALE = 4.0  # of a unit of the last layer, so that few steps tell much


@dataclass
class Choice:
    """Which experts B rows are given.

    Args:
        worth_BE: How much less the loss is expected to be with an expert.
        chosen_BE: Whether the row has the expert's input, and is given the expert.
        available_BE: Whether the row has the expert's input.
        costs: Of running each expert for a row, in their order.
        whole: The batch as it was.
    """

    worth_BE: Tensor
    chosen_BE: Tensor
    available_BE: Tensor
    costs: Mapping[str, float]
    whole: PairedBatch


class Selector(nn.Module):
    """Gives each row the experts that are worth most to it.

    Args:
        experts: Their names.
        width: D of what their own networks make of their tokens.
        first: Experts that always run, cheap ones: by what they say of a row, and how sure the answer by them is, the
            others are chosen. Without any, all rows that have the same modalities are given the same experts.
        top_k: How many of the others a row is given at most; 0 for any number.
        budget: What may be spent on a row in the mean, as a share of the cost of all experts, those of `first` counted;
            null for any. Experts are chosen by what they are worth for their cost.
        least_gain: With a budget, by how much an expert must be expected to lower the loss of a row's answer to run,
            even where the budget would allow it: in nats for classes, in variances for numbers.
        costs: Of running each expert for a row, in any unit; by default its floating point operations for an input
            are counted, divided by how many training rows share one.
        hidden: H.
        explore: Share of the training rows for which others are drawn, so that what is never chosen is learned with and
            judged, too.
        load_balance: Weight of the load balancing loss, which keeps some experts from being chosen always.
        worth_z: Weight of the size of what experts are thought to be worth.

    Raises:
        ValueError: There is nothing to choose by, an expert is unknown, or a share is outside its range.
    """

    def __init__(
        self,
        experts: Sequence[str],
        width: int,
        *,
        first: list[str] | None = None,
        top_k: int = 0,
        budget: float | None = None,
        least_gain: float = 0.05,
        costs: dict[str, float] | None = None,
        hidden: int = 32,
        explore: float = 0.5,
        load_balance: float = 0.01,
        worth_z: float = 1e-3,
    ) -> None:
        super().__init__()
        first = first or []
        _check(experts, first, costs, top_k, budget, explore)
        if hidden < 1:
            raise ValueError(f"model.selector: hidden must be at least 1, not {hidden}")
        if not least_gain >= 0:  # nor NaN
            raise ValueError(f"model.selector: least_gain is what an expert must gain, at least 0, not {least_gain}")
        self.experts = tuple(experts)
        self.first = tuple(first)
        self.top_k = top_k
        self.budget = budget
        self.least_gain = least_gain
        self.costs = costs
        self.explore = explore
        self.load_balance = load_balance
        self.worth_z = worth_z
        self._costs: dict[str, float] = {}
        count = len(self.experts)
        self.first_E: Tensor
        self.cost_E: Tensor
        self.price: Tensor
        self.register_buffer("first_E", torch.tensor([name in first for name in experts]), persistent=False)
        given = [float("nan")] * count if costs is None else [costs[name] for name in experts]
        self.register_buffer("cost_E", torch.tensor(given))
        self.register_buffer("price", torch.zeros(()))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.reading_EDH = nn.Parameter(torch.randn(count, width, hidden) / width**0.5)
        self.facts = nn.Linear(len(FACTS), hidden)
        self.certainty = nn.Linear(2, hidden)
        self.present_EH = nn.Parameter(0.02 * torch.randn(count, hidden))
        self.mix = nn.Linear(hidden, hidden)
        self.worth = nn.Linear(hidden, count)
        self.doubt = nn.Linear(2, count, bias=False)
        self.record = nn.Linear(3, 1, bias=False)  # by running likelihood, accuracy and gain
        for layer in (self.worth, self.doubt, self.record):
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        readings_BED: Tensor,
        facts_BEF: Tensor,
        said_BE: Tensor,
        certainty_B2: Tensor,
        available_BE: Tensor,
        record_E3: Tensor,
    ) -> Tensor:
        """Return how much each expert is thought to be worth to each row, (B, E).

        Args:
            readings_BED: What the first experts' own networks make of their tokens.
            facts_BEF: In the order of `FACTS`.
            said_BE: Whether the expert has run on the row.
            certainty_B2: Confidence and entropy of the answer by those that have.
            available_BE: Whether the row has the expert's input.
            record_E3: What is known of each expert: likelihood, accuracy and gain.
        """
        reading_BEH = torch.einsum("bed,edh->beh", self.norm(readings_BED), self.reading_EDH)
        heard_BEH = F.gelu(reading_BEH + self.facts(facts_BEF)) * said_BE.unsqueeze(-1)
        context_BH = heard_BEH.sum(1) / said_BE.sum(1, keepdim=True).clamp_min(1)
        context_BH = context_BH + self.certainty(certainty_B2) + available_BE.to(context_BH.dtype) @ self.present_EH
        learned_BE = self.worth(F.gelu(self.mix(context_BH))) + self.doubt(certainty_B2)
        worth_BE: Tensor = SCALE * (learned_BE + self.record(record_E3).squeeze(-1))
        return worth_BE

    def choose(self, worth_BE: Tensor, available_BE: Tensor) -> Tensor:
        """Return which experts each row is given, bool of shape (B, E); in training drawn ones for some rows."""
        worth_BE = worth_BE.detach()
        others_BE = available_BE & ~self.first_E
        if self.training:
            drawn_B1 = torch.rand_like(worth_BE[:, :1]) < self.explore
            chosen_BE = torch.where(drawn_B1, self._drawn(others_BE), self._best(worth_BE, others_BE))
        else:
            chosen_BE = self._best(worth_BE, others_BE)
        chosen_BE = chosen_BE | (available_BE & self.first_E)
        # a row is given at least one of the experts that it has an input for
        silent_B1 = ~chosen_BE.any(1, keepdim=True)
        return chosen_BE | (silent_B1 & _top(worth_BE, available_BE, 1))

    def _best(self, worth_BE: Tensor, others_BE: Tensor) -> Tensor:
        best_BE = _top(worth_BE, others_BE, self.top_k or len(self.experts))
        if self.budget is None:
            return best_BE
        return best_BE & (worth_BE > (self.price.clamp_min(0) * self.cost_E).clamp_min(self.least_gain))

    def _drawn(self, others_BE: Tensor) -> Tensor:
        draw_BE = torch.rand(others_BE.shape, device=others_BE.device)
        return _top(draw_BE, others_BE, self.top_k) if self.top_k else others_BE & (draw_BE < 0.5)

    @torch.no_grad()
    def learn_price(self, worth_BE: Tensor, available_BE: Tensor) -> None:
        """Move the price of a unit of cost to where these rows would spend the budget."""
        if self.budget is None:
            return
        others_BE = _top(worth_BE, available_BE & ~self.first_E, self.top_k or len(self.experts))
        allowed = self.budget * (available_BE * self.cost_E).sum() - ((available_BE & self.first_E) * self.cost_E).sum()
        for_cost_X, cost_X = (worth_BE / self.cost_E)[others_BE], self.cost_E.expand_as(worth_BE)[others_BE]
        if not len(cost_X):
            return
        for_cost_X, order_X = for_cost_X.sort(descending=True)
        too_much_X = cost_X[order_X].cumsum(0) > allowed
        at = int(too_much_X.int().argmax()) if too_much_X.any() else len(cost_X) - 1
        price = for_cost_X[at] if too_much_X.any() else torch.zeros_like(self.price)
        # a little above: where rows are alike all would be worth just the price, and none must be too much
        self.price.lerp_(price.clamp_min(0).to(self.price) * (1 + MARGIN), PRICE_RATE)

    def terms(self, choice: Choice) -> dict[str, Tensor]:
        """Return the losses that need no targets: of the load, and of the size."""
        others_BE = choice.available_BE & ~self.first_E
        if not others_BE.any():
            return {}
        worth_BE = choice.worth_BE.masked_fill(~others_BE, -torch.inf)
        some_B = others_BE.any(1)
        share_BE = worth_BE[some_B].softmax(-1)
        load_E = (choice.chosen_BE & others_BE)[some_B].float()
        load_E = load_E.sum(0) / load_E.sum().clamp_min(1)
        count = others_BE.any(0).sum()
        return {
            "selector/balance": self.load_balance * count * (share_BE.mean(0) * load_E).sum(),
            "selector/z": self.worth_z * worth_BE[some_B].logsumexp(-1).square().mean(),
        }

    def gain_loss(self, worth_B: Tensor, gain_B: Tensor) -> Tensor:
        """Return how far what an expert was thought to be worth is from what it was worth.

        Squared: the mean counts. Most rows gain nothing and some much, so that a median would say that none does.
        """
        return F.mse_loss(worth_B, gain_B.clamp(-MOST_WORTH, MOST_WORTH))

    def known_costs(self) -> dict[str, float]:
        """Return the cost of each expert.

        Raises:
            ValueError: They were not counted.
        """
        if not self._costs:  # a GPU is made to wait only once
            self._costs = dict(zip(self.experts, self.cost_E.tolist(), strict=True))
        if any(math.isnan(cost) for cost in self._costs.values()):
            self._costs = {}
            raise ValueError(
                "model.selector: what experts cost is counted when training begins, which was not here; give "
                "model.selector.init_args.costs"
            )
        return self._costs

    def learn_costs(self, counted: Mapping[str, float]) -> None:
        """Take the cost of each expert, if the configuration gives none.

        Raises:
            ValueError: Those that always run cost more than the budget.
        """
        if self.costs is None:
            self._costs = {}
            self.cost_E.copy_(torch.tensor([counted[name] for name in self.experts]))
        share = float(self.cost_E[self.first_E].sum() / self.cost_E.sum())
        if self.budget is not None and share >= self.budget:
            raise ValueError(
                f"model.selector: {', '.join(self.first)} always run and cost {share:.2f} of all, so that a budget of "
                f"{self.budget} leaves nothing to choose; raise it, or leave one out of first"
            )


def _top(values_BE: Tensor, among_BE: Tensor, count: int) -> Tensor:
    """Return the greatest of each row, bool of shape (B, E)."""
    best_BK = values_BE.masked_fill(~among_BE, -torch.inf).topk(min(count, values_BE.shape[1]), dim=1).indices
    return torch.zeros_like(among_BE).scatter_(1, best_BK, True) & among_BE


def _check(
    experts: Sequence[str],
    first: Sequence[str],
    costs: Mapping[str, float] | None,
    top_k: int,
    budget: float | None,
    explore: float,
) -> None:
    for key, names in {"first": first, "costs": costs or {}}.items():
        for name in names:
            if name not in experts:
                raise ValueError(f"model.selector: {key}: there is no expert {name!r}; there are {', '.join(experts)}")
    if costs is not None:
        if lacking := [name for name in experts if name not in costs]:
            raise ValueError(f"model.selector: costs: {', '.join(lacking)} has none; give all, or leave costs out")
        if not all(cost > 0 for cost in costs.values()):
            raise ValueError("model.selector: costs must be above 0")
    if not set(experts) - set(first):
        raise ValueError("model.selector: first has all experts, so that there is nothing to choose")
    if top_k < 0:
        raise ValueError(f"model.selector: top_k must be at least 0, not {top_k}")
    if budget is not None and not 0 < budget <= 1:
        raise ValueError(
            f"model.selector: budget is a share of the cost of all experts, above 0 and at most 1, not {budget}"
        )
    if not top_k and budget is None:
        raise ValueError("model.selector: give top_k or budget, by which experts are chosen")
    if not 0 < explore <= 1:
        raise ValueError(f"model.selector: explore is a share of the training rows, above 0 and up to 1, not {explore}")
