"""The model: experts, fusion, heads. `CrossModalModel.forward` is the whole way of the data.

Legend: U distinct inputs, B rows, N tokens, D width, L workspace tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from crossmodal.fusion import Fusion
from crossmodal.heads import Head
from crossmodal.mixture import Answers, Mixture
from crossmodal.selector import Choice
from datamodules.batch import ABSENT, PairedBatch, gather_rows
from experts.base import Expert, ExpertTokens


class CrossModalModel(nn.Module):
    """Experts write into a workspace; heads read the answer out.

    Args:
        experts: By modality.
        fusion: Over the same modalities; without heads there need not be one.
        heads: By task, each of the fusion's width.
        newcomer: The modality that is being added: only what is its own trains, all else stays in eval mode.
        mixture: Lets each expert answer by itself, too, and weighs the answers.

    Raises:
        ValueError: A frozen expert has parameters that nothing freezes.
    """

    def __init__(
        self,
        experts: Mapping[str, Expert],
        fusion: Fusion | None,
        heads: Mapping[str, Head],
        *,
        newcomer: str | None = None,
        mixture: Mixture | None = None,
    ) -> None:
        super().__init__()
        for modality, expert in experts.items():
            if outside := expert.parameters_outside_network():
                raise ValueError(
                    f"experts.{modality}: {type(expert).__name__} is frozen, but its parameter {outside[0]!r} is not "
                    "part of the network that it gives to Expert"
                )
        self.experts = nn.ModuleDict(experts)
        projected = {} if fusion is None else experts
        self.projections = nn.ModuleDict(
            {modality: Projection(expert.width, fusion.width) for modality, expert in projected.items()}  # type: ignore[union-attr]
        )
        self.fusion = fusion
        self.heads = nn.ModuleDict(heads)
        self.mixture = mixture
        self.newcomer = newcomer
        self._told_broken: set[str] = set()
        own = () if newcomer is None else self.own_state(newcomer)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and (newcomer is None or name in own))
        if newcomer is not None:
            self.train()  # Lightning trains in the mode that it finds

    @property
    def chosen_among(self) -> list[str]:
        """The experts that run only on rows that they are chosen for."""
        selector = None if self.mixture is None else self.mixture.selector
        return [] if selector is None else [name for name in self.experts if name not in selector.first]

    def all_heads(self) -> list[tuple[str, Head]]:
        """Return tasks and heads, with those of the mixture's experts."""
        own = [] if self.mixture is None else self.mixture.own_heads()
        return [*self.heads.items(), *own]  # type: ignore[list-item]

    def own_state(self, modality: str) -> set[str]:
        """Return the names of the parameters and buffers that are a modality's own, if it joined later."""
        assert self.fusion is not None
        parts = {f"experts.{modality}": self.experts[modality], f"projections.{modality}": self.projections[modality]}
        names = {f"{part}.{name}" for part, module in parts.items() for name in module.state_dict()}
        return names | {f"fusion.{name}" for name in self.fusion.joined[modality]}

    def train(self, mode: bool = True) -> CrossModalModel:
        """Set the mode of what trains."""
        super().train(mode and self.newcomer is None)
        if self.newcomer is not None:
            self.experts[self.newcomer].train(mode)
            self.projections[self.newcomer].train(mode)
        return self

    def forward(self, batch: PairedBatch) -> dict[str, Tensor]:
        """Return each task's raw outputs, shape (B, outputs)."""
        tokens, batch, _ = self.observe(batch)
        return self.predict(tokens, batch)

    def observe(self, batch: PairedBatch) -> tuple[dict[str, ExpertTokens], PairedBatch, Choice | None]:
        """Return the tokens of the distinct inputs, and the batch; with a selector only of what it chooses.

        An expert that no row is given is not run: the batch that is returned is as if rows lacked what is not chosen.
        With a mixture it is also as if they lacked what an expert breaks at; see `_without_broken`.
        """
        if self.mixture is None:
            return self.encode(batch), batch, None
        if self.mixture.selector is None:
            return *self._without_broken(self.encode(batch), batch), None
        others = self.chosen_among
        tokens, batch = self._without_broken(self.encode(batch.without(*others)), batch)
        with torch.no_grad(), self.as_in_use():
            said = self.mixture.say(tokens, batch)
            first = self.mixture.answer(said, tokens, batch, self.fuse)
        choice = self.mixture.choose(said, first, batch)
        chosen = dict(zip(self.experts, choice.chosen_BE.unbind(1), strict=True))
        batch = batch.keeping({name: chosen[name] for name in others})
        of_others, batch = self._without_broken(self.encode(batch.without(*self.mixture.selector.first)), batch)
        return tokens | of_others, batch, choice

    @contextmanager
    def as_in_use(self) -> Iterator[None]:
        """Let what comes after the experts be in eval mode, while the model trains."""
        parts = [part for part in (self.fusion, self.heads, self.mixture) if part is not None]
        modes = [part.training for part in parts]
        for part in parts:
            part.eval()
        try:
            yield
        finally:
            for part, mode in zip(parts, modes, strict=True):
                part.train(mode)

    def _without_broken(
        self, tokens: dict[str, ExpertTokens], batch: PairedBatch
    ) -> tuple[dict[str, ExpertTokens], PairedBatch]:
        """Return both as if rows lacked each input of which its expert makes nothing, or what is not finite.

        Of the latter warn once an expert; not while it trains: that it diverges is for the loss to say.
        """
        is_there = {name: own.mask_BN.any(1) for name, own in tokens.items()}
        is_finite = {
            name: finite_inputs(own)
            for name, own in tokens.items()
            if self.experts[name].frozen or not self.experts[name].training
        }
        is_whole = {name: there_U & is_finite.get(name, there_U) for name, there_U in is_there.items()}
        if not is_whole or torch.cat([*is_whole.values()]).all():  # a GPU is made to wait once, not for each expert
            return tokens, batch
        has = {name: gather_rows(whole_U, batch.index[name]) for name, whole_U in is_whole.items()}
        for name, finite_U in is_finite.items():
            finite_B = gather_rows(finite_U, batch.index[name])
            broken = (batch.present(name) & ~finite_B).nonzero().flatten().tolist()
            if broken and name not in self._told_broken:
                self._told_broken.add(name)
                warnings.warn(
                    f"experts.{name} gives tokens that are not finite, first of row {batch.ids[broken[0]]}: such rows "
                    "are answered as if they lacked its input",
                    stacklevel=2,
                )
        kept = replace(batch, inputs={**batch.inputs, **tokens}).keeping(has)
        return {name: kept.inputs[name] for name in tokens if name in kept.inputs}, kept

    def encode(self, batch: PairedBatch) -> dict[str, ExpertTokens]:
        """Return the tokens of the distinct inputs. An expert whose modality no row has is not run."""
        return {
            modality: expert(batch.inputs[modality])
            for modality, expert in self.experts.items()
            if modality in batch.inputs
        }

    def predict(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> dict[str, Tensor]:
        """Return each task's raw outputs, shape (B, outputs), given the tokens of the distinct inputs."""
        return self.answer(tokens, batch)[0]

    def answer(
        self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch
    ) -> tuple[dict[str, Tensor], Answers | None]:
        """Return each task's raw outputs, shape (B, outputs), and what a mixture gives them by."""
        if self.fusion is None:
            return {}, None
        if self.mixture is None:
            return self._by_kind(batch, lambda index: self._answer(tokens, index)), None
        answers: Answers = self.mixture(tokens, batch, self.fuse)
        return answers.outputs, answers

    def workspace(self, batch: PairedBatch) -> Tensor:
        """Return each row's workspace tokens, shape (B, L, D)."""
        tokens, batch, _ = self.observe(batch)
        if self.mixture is not None:
            return self._fuse(tokens, batch.index, self.mixture.score(self.mixture.say(tokens, batch)).shares())
        return self._by_kind(batch, lambda index: {"workspace": self._fuse(tokens, index)})["workspace"]

    def _by_kind(
        self, batch: PairedBatch, compute: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Compute by an index of the rows' inputs; apart for rows that have other modalities that joined later."""
        assert self.fusion is not None
        if not self.fusion.joined:
            return compute(batch.index)
        # what a modality that joined later brings must not change a bit of rows that lack it
        present_BJ = torch.stack([batch.present(modality) for modality in self.fusion.joined], dim=1)
        kinds, kind_B = torch.unique(present_BJ, dim=0, return_inverse=True)
        if len(kinds) < 2:
            return compute(self._index(batch, kinds.any(0)))
        groups = [(kind_B == number).nonzero().squeeze(1) for number in range(len(kinds))]
        found = [
            compute({name: index_B[rows] for name, index_B in self._index(batch, kind).items()})
            for kind, rows in zip(kinds, groups, strict=True)
        ]
        place_B = torch.cat(groups).argsort()
        return {name: torch.cat([one[name] for one in found])[place_B] for name in found[0]}

    def fuse(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch, shares_BE: Tensor) -> dict[str, Tensor]:
        """Return each task's raw outputs, where only a share of what each expert says reaches the workspace."""
        return self._answer(tokens, batch.index, shares_BE)

    def _index(self, batch: PairedBatch, has_J: Tensor) -> dict[str, Tensor]:
        """Return the index of the first modalities, and of those that joined and are there."""
        assert self.fusion is not None
        lacking = {name for name, has in zip(self.fusion.joined, has_J.tolist(), strict=True) if not has}
        return {modality: batch.index[modality] for modality in self.experts if modality not in lacking}

    def _answer(
        self,
        tokens: Mapping[str, ExpertTokens],
        index: Mapping[str, Tensor],
        shares_BE: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return each task's raw outputs, given the tokens of distinct inputs and which of them each row has."""
        workspace_BLD = self._fuse(tokens, index, shares_BE)
        absent_B = torch.stack([index_B == ABSENT for index_B in index.values()]).all(0)
        return {task: head(workspace_BLD, absent_B) for task, head in self.heads.items()}

    def _fuse(
        self, tokens: Mapping[str, ExpertTokens], index: Mapping[str, Tensor], shares_BE: Tensor | None = None
    ) -> Tensor:
        """Return each row's workspace tokens, given the tokens of distinct inputs and which of them each row has."""
        assert self.fusion is not None
        of_rows = {
            modality: self.tokens_of_rows(tokens.get(modality), index_B, modality)
            for modality, index_B in index.items()
        }
        if self.mixture is not None and shares_BE is not None:
            of_rows = self.mixture.meta_learner.heard(of_rows, shares_BE)
        workspace_BLD: Tensor = self.fusion(of_rows)
        return workspace_BLD

    def tokens_of_rows(self, tokens: ExpertTokens | None, index_B: Tensor, modality: str) -> ExpertTokens:
        """Project the tokens of the distinct inputs, if there are any, then give each row its own."""
        projection: Projection = self.projections[modality]  # type: ignore[assignment]
        if tokens is None:
            return projection.absent(index_B)
        projected = projection(tokens)
        return ExpertTokens(gather_rows(projected.tokens_BND, index_B), gather_rows(projected.mask_BN, index_B))


def finite_inputs(tokens: ExpertTokens) -> Tensor:
    """Return for which inputs an expert gives finite numbers, and such that can be squared, bool of shape (U,)."""
    # by each token's greatest, which needs no float copy. The squares of millions of numbers below 1e15 can be added in
    # float32, too; NaN is below nothing
    return ((tokens.tokens_BND.abs().amax(-1) < 1e15) | ~tokens.mask_BN).all(1)


class Projection(nn.Module):
    """An expert's tokens, normalised and brought to the workspace's width.

    Args:
        expert_width: D of the expert.
        width: D of the workspace.
    """

    def __init__(self, expert_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(expert_width)
        self.linear = nn.Linear(expert_width, width)

    def forward(self, tokens: ExpertTokens) -> ExpertTokens:
        """Project tokens of shape (U, N, expert D) to (U, N, D)."""
        weight = self.linear.weight
        return ExpertTokens(self.linear(self.norm(tokens.tokens_BND.to(weight.dtype))), tokens.mask_BN)

    def absent(self, index_B: Tensor) -> ExpertTokens:
        """Return the tokens of rows none of which has the modality."""
        weight = self.linear.weight
        return ExpertTokens(
            weight.new_zeros(len(index_B), 1, len(weight)),
            torch.zeros(len(index_B), 1, dtype=torch.bool, device=weight.device),
        )
