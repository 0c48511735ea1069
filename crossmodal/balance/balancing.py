"""Balances the modalities of a model as it trains: what they say alone, and the methods that go by it.

Legend: B rows, E modalities, C outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from crossmodal.balance.base import Alone, Balance
from crossmodal.heads import Head
from crossmodal.mixture import OwnNetwork, say
from crossmodal.mixture_figures import RowMeans
from crossmodal.model import CrossModalModel
from crossmodal.objectives import TaskObjective
from crossmodal.opinions import for_each
from crossmodal.stacking import own_losses
from datamodules.batch import PairedBatch
from experts.base import ExpertTokens


class Balancing(nn.Module):
    """Several methods over the same modalities, or none.

    Args:
        methods: In the order in which they change gradients.
        networks: By modality, each of the workspace's width; none where a mixture has its own.
    """

    def __init__(self, methods: Sequence[Balance] = (), networks: Mapping[str, OwnNetwork] | None = None) -> None:
        super().__init__()
        self.methods = tuple(methods)
        self.networks = nn.ModuleDict(networks)
        self._alone: Alone | None = None
        self._right = RowMeans()

    def heads(self) -> list[tuple[str, Head]]:
        """Return the tasks and heads of all modalities."""
        return [pair for network in self.networks.values() for pair in network.heads.items()]  # type: ignore[union-attr, operator]

    def refuse(self, *, accumulates: bool, precision: str, devices: int) -> None:
        """Let each method refuse what it cannot be right with; see `Balance.refuse`."""
        for method in self.methods:
            method.refuse(accumulates=accumulates, precision=precision, devices=devices)

    def learn(
        self,
        model: CrossModalModel,
        objective: TaskObjective,
        tokens: Mapping[str, ExpertTokens],
        batch: PairedBatch,
        terms: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return the terms of the loss with `own/MODALITY`, and let the methods look at them before the backward pass.

        Args:
            model: Whose modalities are balanced.
            objective: The loss of an answer.
            tokens: Of the distinct inputs.
            batch: B rows.
            terms: Of the loss; those of a mixture's own networks are among them.
        """
        if not self.methods:
            return terms
        if model.mixture is None:
            networks = self.networks
            said = say(networks, self._projected(model, tokens), batch)
            weight = math.prod(method.weight for method in self.methods)
            terms |= {name: weight * loss for name, loss in own_losses(networks, objective, said, batch).items()}
        else:
            networks = model.mixture.networks
            with torch.no_grad():
                said = model.mixture.say(tokens, batch)
        losses = {name: terms[f"own/{name}"] for name in networks if f"own/{name}" in terms}
        self._alone = None
        if losses:
            heads: Mapping[str, Head] = next(iter(networks.values())).heads  # type: ignore[assignment]
            scores_BE = likelihoods(heads, said.outputs, batch.targets)
            self._alone = Alone(scores_BE, said.present_BE, losses, own_parameters(model))
            for method in self.methods:
                method.before_backward(self._alone)
        return terms

    def after_backward(self, epoch: int) -> dict[str, Tensor]:
        """Let the methods change the gradients; return a factor to log for each modality."""
        alone, self._alone = self._alone, None
        if alone is None:
            return {}
        return {name: factor for one in self.methods for name, factor in one.after_backward(alone, epoch).items()}

    @torch.no_grad()
    def measure(
        self,
        model: CrossModalModel,
        tokens: Mapping[str, ExpertTokens],
        batch: PairedBatch,
        prefixes: Mapping[str, str],
    ) -> None:
        """Take into account how often each modality's own heads are right; a mixture tells that itself.

        Args:
            model: Whose modalities are balanced.
            tokens: Of the distinct inputs.
            batch: B rows.
            prefixes: By task, of its figures' names.
        """
        if not self.networks:
            return
        said = say(self.networks, self._projected(model, tokens), batch)
        for number, (name, network) in enumerate(self.networks.items()):
            for task, head in network.heads.items():  # type: ignore[union-attr, operator]
                if task in batch.targets:
                    answers_BC = head.activate(said.outputs[task][:, number].float())
                    right_B = head.opinions().right(answers_BC, batch.targets[task])
                    self._right.add(f"{prefixes[task]}alone/{name}", right_B, said.present_BE[:, number])

    def begin(self) -> None:
        """Forget what was measured on a split that was not measured to its end."""
        self._right = RowMeans()

    def figures(self) -> dict[str, float]:
        """Return what was measured, by name, and begin anew."""
        return self._right.figures()

    def _projected(self, model: CrossModalModel, tokens: Mapping[str, ExpertTokens]) -> dict[str, ExpertTokens]:
        trains = any(method.trains_modalities for method in self.methods)
        with torch.set_grad_enabled(trains and torch.is_grad_enabled()):
            return {name: model.projections[name](one) for name, one in tokens.items()}


@torch.no_grad()
def likelihoods(heads: Mapping[str, Head], outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
    """Return how likely the true answer is to each modality, 0 to 1, shape (B, E); a mean over the tasks with targets.

    Of a class it is its probability, of labels the geometric mean of theirs, of numbers the exponential of the squared
    error in units of the variance, negative.

    Args:
        heads: By task.
        outputs: By task, raw, (B, E, C).
        targets: By task, of B rows.
    """
    told = []
    for task, outputs_BEC in outputs.items():
        if task in targets:
            target_BE = for_each(targets[task], outputs_BEC.shape[1])
            answers_BEC = heads[task].activate(outputs_BEC.float())
            told.append((-heads[task].opinions().losses(answers_BEC, target_BE)).exp())
    return torch.stack(told).mean(0)


def own_parameters(model: CrossModalModel) -> dict[str, list[nn.Parameter]]:
    """Return by modality what is its own and trains: of its expert, and its projection."""
    return {
        name: [one for part in (expert, model.projections[name]) for one in part.parameters() if one.requires_grad]
        for name, expert in model.experts.items()
    }
