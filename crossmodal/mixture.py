"""The pool: each expert answers by itself, their fusion answers for all, a meta-learner weighs the answers.

Legend: U distinct inputs, B rows, E experts, M members (the experts, then their fusion), D width, C outputs, F facts,
H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from crossmodal.familiarity import Familiarity
from crossmodal.heads import Head
from crossmodal.meta_learner import MetaLearner, Scores
from crossmodal.opinions import Opinions
from crossmodal.selector import Choice, Selector
from crossmodal.track_record import TrackRecord
from datamodules.batch import PairedBatch, gather_rows
from experts.base import ExpertTokens

# times the fusion's width: with less, an expert alone read its tokens less well than a fusion of it alone does
WIDER = 4

# tokens of the distinct inputs, rows, and how much of each expert counts (B, E) -> each task's raw outputs (B, C)
Fuse = Callable[[Mapping[str, ExpertTokens], PairedBatch, Tensor], dict[str, Tensor]]


@dataclass
class Answers:
    """What a pool says of B rows.

    Args:
        outputs: By task the answer, raw, (B, C).
        members: By task what the experts and, last, their fusion answer, as it is reported, (B, M, C).
        weights_BM: Of the members; they sum to 1.
        shares_BE: How much of what each expert says reaches the workspace, 0 to 1.
        disagreement: By task how far the experts are from their mean, 0 to 1, shape (B,).
        present_BE: Whether the row has the expert's input.
        experts: Their names.
    """

    outputs: dict[str, Tensor]
    members: dict[str, Tensor]
    weights_BM: Tensor
    shares_BE: Tensor
    disagreement: dict[str, Tensor]
    present_BE: Tensor
    experts: tuple[str, ...]


@dataclass
class Said:
    """What the experts' own networks say of B rows, zeros where a row lacks the input.

    Args:
        readings_BED: What they make of the tokens.
        strangeness_BE2: Novelty and staleness.
        outputs: By task, raw, (B, E, C).
        present_BE: Whether the row has the expert's input.
    """

    readings_BED: Tensor
    strangeness_BE2: Tensor
    outputs: dict[str, Tensor]
    present_BE: Tensor

    def hearing(self, heard_BE: Tensor) -> Said:
        """Return the same, as if rows lacked the inputs of experts that are not heard."""
        return replace(self, present_BE=self.present_BE & heard_BE)

    def detached(self) -> Said:
        """Return the same, without the way back."""
        outputs = {task: outputs_BEC.detach() for task, outputs_BEC in self.outputs.items()}
        return Said(self.readings_BED.detach(), self.strangeness_BE2, outputs, self.present_BE)


class OwnNetwork(nn.Module):
    """An expert's small network: its mean token, two layers, a head for each task.

    Args:
        expert_width: Of the expert's tokens.
        width: D.
        heads: By task, of width D.
        knows_strange: Whether it learns what its tokens usually are; else nothing is strange to it.
    """

    def __init__(self, expert_width: int, width: int, heads: Mapping[str, Head], *, knows_strange: bool = True) -> None:
        super().__init__()
        self.width = width
        self.norm = nn.LayerNorm(expert_width)
        self.read = nn.Sequential(
            nn.Linear(expert_width, WIDER * width), nn.GELU(), nn.Linear(WIDER * width, width), nn.GELU()
        )
        self.heads = nn.ModuleDict(heads)
        self.familiarity = Familiarity(expert_width) if knows_strange else None

    def forward(self, tokens: ExpertTokens | None, index_B: Tensor) -> Said:
        """Read the tokens of the distinct inputs, if there are any; B rows of one expert: the E axis is left out."""
        if tokens is None:
            nothing_B = self.norm.weight.new_zeros(len(index_B))
            outputs = {task: nothing_B.unsqueeze(1).expand(-1, head.num_outputs) for task, head in self._heads()}
            return Said(
                nothing_B.unsqueeze(1).expand(-1, self.width),
                nothing_B.new_zeros(len(index_B), 2),
                outputs,
                nothing_B > 0,
            )
        means_UD = tokens.mean().to(self.norm.weight.dtype)
        reading_UD = self.read(self.norm(means_UD))
        strangeness_U2 = means_UD.new_zeros(len(means_UD), 2)
        if self.familiarity is not None:
            novelty_U = self.familiarity.novelty(means_UD)
            strangeness_U2 = torch.stack([novelty_U, self.familiarity.staleness(means_UD).expand_as(novelty_U)], dim=1)
        return Said(
            gather_rows(reading_UD, index_B),
            gather_rows(strangeness_U2, index_B),
            {task: gather_rows(head(reading_UD.unsqueeze(1)), index_B) for task, head in self._heads()},
            gather_rows(tokens.mask_BN.any(1), index_B),
        )

    def _heads(self) -> list[tuple[str, Head]]:
        return list(self.heads.items())  # type: ignore[arg-type]


class Mixture(nn.Module):
    """Experts, each with a small network of its own, and the meta-learner that weighs them and their fusion.

    Args:
        networks: By expert.
        meta_learner: Over the same experts.
        selector: Over the same experts; without one all run.
    """

    def __init__(
        self, networks: Mapping[str, OwnNetwork], meta_learner: MetaLearner, selector: Selector | None = None
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(networks)
        self.meta_learner = meta_learner
        self.selector = selector
        self.record = TrackRecord(len(self.networks) + 1)

    @property
    def heads(self) -> Mapping[str, Head]:
        """By task a head that knows what kind it is of; each expert has its own."""
        return next(iter(self.networks.values())).heads  # type: ignore[return-value]

    def own_heads(self) -> list[tuple[str, Head]]:
        """Return the tasks and heads of all experts."""
        return [pair for name in self.networks for pair in self.network(name).heads.items()]  # type: ignore[misc]

    def present(self, batch: PairedBatch) -> Tensor:
        """Return which expert's input each row has, (B, E)."""
        return torch.stack([batch.present(name) for name in self.networks], dim=1)

    def network(self, expert: str) -> OwnNetwork:
        """Return an expert's own network."""
        return self.networks[expert]  # type: ignore[return-value]

    def forward(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch, fuse: Fuse) -> Answers:
        """Answer.

        Args:
            tokens: Of the distinct inputs.
            batch: B rows.
            fuse: Asks the fusion.
        """
        return self.answer(self.say(tokens, batch), tokens, batch, fuse)

    def answer(self, said: Said, tokens: Mapping[str, ExpertTokens], batch: PairedBatch, fuse: Fuse) -> Answers:
        """Answer, given what the experts' own networks say of the rows; see `forward`."""
        scores = self.score(said)
        fused = fuse(tokens, batch, scores.shares())
        return self.weigh(said, scores, fused, self.score_fusion(said, scores, fused))

    def say(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> Said:
        """Let each expert's own network read its tokens."""
        return say(self.networks, tokens, batch)

    def choose(self, said: Said, answers: Answers, batch: PairedBatch) -> Choice:
        """Choose which experts each row is given.

        Args:
            said: By the selector's first experts.
            answers: By what they say.
            batch: B rows, of all experts.

        Raises:
            ValueError: There is no selector.
        """
        if self.selector is None:
            raise ValueError("without a selector there is nothing to choose")
        available_BE = self.present(batch)
        certainties = [
            torch.stack(self.heads[task].opinions().certainty(self.heads[task].activate(outputs_BC)), dim=-1)
            for task, outputs_BC in answers.outputs.items()
        ]
        worth_BE = self.selector(
            said.readings_BED,
            self.facts(said),
            said.present_BE,
            torch.stack(certainties).mean(0),
            available_BE,
            self.record()[:-1],
        )
        return Choice(
            worth_BE, self.selector.choose(worth_BE, available_BE), available_BE, self.selector.known_costs(), batch
        )

    def score(self, said: Said) -> Scores:
        """Score the experts of each row."""
        scores: Scores = self.meta_learner(said.readings_BED.detach(), self.facts(said), said.present_BE)
        return scores

    def facts(self, said: Said) -> Tensor:
        """Return what is known of each expert on each row, in the order of `FACTS`, (B, E, F)."""
        answers = {task: self.heads[task].activate(outputs_BEC.detach()) for task, outputs_BEC in said.outputs.items()}
        others = {task: mean_of_others(answers_BEC, said.present_BE) for task, answers_BEC in answers.items()}
        return self._facts(answers, others, said.strangeness_BE2, self.record()[:-1].expand(*said.present_BE.shape, 3))

    def score_fusion(self, said: Said, scores: Scores, fused: Mapping[str, Tensor]) -> Tensor:
        """Score the fusion of each row, shape (B,)."""
        shares_BE1 = scores.shares().detach().unsqueeze(-1)
        weights_BE1 = shares_BE1 / shares_BE1.sum(1, keepdim=True).clamp_min(1)
        answers = {task: self.heads[task].activate(outputs_BC.detach()) for task, outputs_BC in fused.items()}
        experts = {
            task: (weights_BE1 * self.heads[task].activate(said.outputs[task].detach())).sum(1) for task in fused
        }
        # one strange input is enough to mislead it, and is less so the less it is heard
        strangeness_B2 = (shares_BE1 * said.strangeness_BE2).amax(1)
        # its record is mostly of rows of which it hears all; what it does not hear may be what it answers by
        missed_B1 = ((1 - shares_BE1.squeeze(-1)) * self.record.gain_M[:-1]).sum(1, keepdim=True)
        known_B3 = torch.cat([self.record()[-1, :2].expand(len(missed_B1), 2), -missed_B1.tanh()], dim=1)
        facts_BF = self._facts(answers, experts, strangeness_B2, known_B3)
        return self.meta_learner.score_fusion(facts_BF, scores.context_BH)

    def _facts(
        self,
        answers: Mapping[str, Tensor],
        others: Mapping[str, Tensor],
        strangeness: Tensor,
        known: Tensor,
    ) -> Tensor:
        """Return the facts of some members, shape (B, F), or (B, E, F); a mean over the tasks."""
        told = []
        for task, answered in answers.items():
            opinions = self.heads[task].opinions()
            confidence, entropy = opinions.certainty(answered)
            told.append(torch.stack([confidence, entropy, 1 - opinions.distance(answered, others[task])], dim=-1))
        return torch.cat([torch.stack(told).mean(0), strangeness, known], dim=-1)

    def weigh(self, said: Said, scores: Scores, fused: Mapping[str, Tensor], fusion_B: Tensor) -> Answers:
        """Let the members' answers be one, by their scores."""
        weights_BM = torch.cat([scores.scores_BE, fusion_B.unsqueeze(1)], dim=1).softmax(1)
        outputs, members, disagreement = {}, {}, {}
        for task, fused_BC in fused.items():
            opinions = self.heads[task].opinions()
            experts_BEC = self.heads[task].activate(said.outputs[task].float())
            answers_BMC = torch.cat([experts_BEC, self.heads[task].activate(fused_BC.float()).unsqueeze(1)], dim=1)
            members[task] = answers_BMC
            outputs[task] = opinions.raw((weights_BM.unsqueeze(-1) * answers_BMC).sum(1))
            disagreement[task] = _disagreement(opinions, experts_BEC.detach(), said.present_BE)
        experts = tuple(self.networks)
        return Answers(outputs, members, weights_BM, scores.shares(), disagreement, said.present_BE, experts)


def say(networks: nn.ModuleDict, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> Said:
    """Let each expert's own network read its tokens.

    Args:
        networks: By expert.
        tokens: Of the distinct inputs.
        batch: B rows.
    """
    said: list[Said] = [network(tokens.get(name), batch.index[name]) for name, network in networks.items()]
    return Said(
        torch.stack([one.readings_BED for one in said], 1),
        torch.stack([one.strangeness_BE2 for one in said], 1),
        {task: torch.stack([one.outputs[task] for one in said], 1) for task in said[0].outputs},
        torch.stack([one.present_BE for one in said], 1),
    )


def mean_of_others(answers_BEC: Tensor, present_BE: Tensor) -> Tensor:
    """Return for each expert the mean of what the others answer that are there; of one that is alone, its own."""
    known_BEC = answers_BEC * present_BE.unsqueeze(-1)
    others_BE1 = (present_BE.sum(1, keepdim=True) - present_BE.int()).unsqueeze(-1)
    mean_BEC = (known_BEC.sum(1, keepdim=True) - known_BEC) / others_BE1.clamp_min(1)
    return torch.where(others_BE1 > 0, mean_BEC, answers_BEC)


def _disagreement(opinions: Opinions, experts_BEC: Tensor, present_BE: Tensor) -> Tensor:
    present_BE1 = present_BE.unsqueeze(-1)
    count_B1 = present_BE.sum(1, keepdim=True).clamp_min(1)
    mean_BEC = ((experts_BEC * present_BE1).sum(1) / count_B1).unsqueeze(1).expand_as(experts_BEC)
    return (opinions.distance(experts_BEC, mean_BEC) * present_BE).sum(1) / count_B1.squeeze(1)
