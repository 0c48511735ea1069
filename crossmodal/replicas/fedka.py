"""FedKA: replicas of many domains learn features that serve a further domain, whose rows have no labels.

Sun, Chong & Ochiai 2022, arXiv 2203.11635; its parts are in `knowledge`. With the disentangler alone it is f-DANN, with
none of them FedAvg.

Legend: B rows of a batch, U rows without labels, D width of the features.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from crossmodal.heads import ClassificationHead
from crossmodal.replicas.aggregation import State
from crossmodal.replicas.engine import LOCAL, SERVER, Engine, Job, Local, Update, with_unlabelled
from crossmodal.replicas.federated import Federated
from crossmodal.replicas.knowledge import Disentangler, adaptation, multi_kernel_mmd, vote
from crossmodal.replicas.merging import Merge, Server
from datamodules.batch import PairedBatch

if TYPE_CHECKING:
    from crossmodal.model import CrossModalModel
    from crossmodal.module import CrossModalModule


class FedKA(Federated):
    """Federated knowledge alignment: a server's model for a domain without labels, from nodes of others.

    Features are what heads read, the mean workspace token. In each round a node's loss has two terms more:
    `disentangle`, by which a domain classifier tells its own features from the target's, and the features learn that it
    cannot; and `match`, the multi-kernel MMD between its own features and those that the model that it was sent gives
    to the target's rows. The domain classifier is sent and merged with the rest. Then the server lets the nodes' models
    vote on the target's rows, and tunes the merged model with what most say. All three grow with
    alpha = 2 / (1 + e^(-5p)) - 1 over the training: of the domain classifier the gradient that is reversed, of the vote
    how far the merged model goes towards the tuned one.

    The target's rows without labels are the data module's `unlabelled`; nodes and the server read them, as in the
    authors' experiments.

    Where the paper and the authors' notebook leave a choice or differ:

    - Features are matched in the same step as all else, each batch at the weight alpha. The notebook does it in a
      second pass, one step of Adam for eight of the other's, with (by a slip, `=+`) one batch in eight: hence the
      weight 1/8. The model that was sent gives its features without dropout.
    - The tuned model is measured, and the merged one is sent, as in the notebook. `sends_tuned` sends the former:
      tuned with the target alone it forgets the others, and early votes are poor.
    - The notebook weighs the loss of the vote by alpha, which Adam does not notice within a round: here it is the
      change that is weighed. The server sees each voted row once a round.
    - Nodes begin each round with a new optimizer, as for all methods here.

    Args:
        disentangle: Weight of the domain classifier's loss; 0 for none.
        match: Weight of the discrepancy; 0 for none.
        vote: How far the model goes towards the tuned one in the end, from 0, for no vote, to 1.
        agreement: Share of the nodes that must agree on a row for it to be learned; by default all rows are.
        sends_tuned: The next round begins with what the vote has made of the merged model.
        hidden: Width of the domain classifier.
        merge: As for `Federated`.
        server: As for `Federated`.
        share: As for `Federated`.
        proximal: As for `Federated`.
    """

    def __init__(
        self,
        disentangle: float = 1.0,
        match: float = 0.125,
        vote: float = 1.0,
        agreement: float = 0.0,
        sends_tuned: bool = False,
        hidden: int = 100,
        merge: Merge | None = None,
        server: Server | None = None,
        share: float = 1.0,
        proximal: float = 0.0,
    ) -> None:
        super().__init__(merge, server, share, proximal)
        if min(disentangle, match) < 0 or not 0 <= vote <= 1 or not 0 <= agreement <= 1 or hidden < 1:
            raise ValueError(
                f"FedKA: disentangle ({disentangle}) and match ({match}) are at least 0, vote ({vote}) and agreement "
                f"({agreement}) from 0 to 1, hidden ({hidden}) at least 1"
            )
        self.disentangle = disentangle
        self.match = match
        self.vote = vote
        self.agreement = agreement
        self.sends_tuned = sends_tuned
        self.hidden = hidden
        self._tuned: State = {}
        self._width: int | None = None
        self._rounds = 1

    @property
    def reads_unlabelled(self) -> bool:  # type: ignore[override]
        """Whether any part is on."""
        return bool(self.disentangle or self.match or self.vote)

    def prepare(self, module: CrossModalModule, *, rounds: int) -> None:
        """Look at how wide the features are."""
        model = module.model
        if model.fusion is None or model.mixture is not None:
            raise ValueError("FedKA: the model needs a fusion, and takes no meta_learner: features are what heads read")
        if self.vote and (other := [task for task, head in module.heads if not isinstance(head, ClassificationHead)]):
            raise ValueError(f"FedKA: nodes vote on classes, and {other[0]!r} has none; set vote: 0")
        self._width, self._rounds = model.fusion.width, rounds

    def begin(self, state: State, nodes: int, *, seed: int) -> None:
        """Begin with a state, and a domain classifier that is drawn."""
        layers: dict[str, Tensor] = {}
        if (local := self.local()) is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(zlib.crc32(f"{seed} disentangler".encode()))
                layers = {f"{LOCAL}{name}": value for name, value in local.layers().state_dict().items()}
        super().begin({**state, **layers}, nodes, seed=seed)

    @property
    def state(self) -> State:
        """The server's, tuned, and without the domain classifier."""
        return {**_of_module(self._state), **self._tuned}

    def local(self) -> Alignment | None:
        """Return what nodes align by."""
        if not (self.disentangle or self.match):
            return None
        if self._width is None:
            raise ValueError("FedKA: `prepare` comes before `begin`")
        return Alignment(self.disentangle, self.match, self._width, self.hidden, self._rounds)

    def refine(self, engine: Engine, number: int, began: State, updates: list[Update]) -> dict[str, float]:
        """Let nodes vote, and tune."""
        if not self.vote:
            return {}
        server, self._tuned = with_unlabelled(engine), {}
        outputs = server.answer([_of_module({**began, **one.state}) for one in updates])
        voted = {task: vote([one[task] for one in outputs]) for task in outputs[0]}
        agreed_U = torch.stack([share_U for _, share_U in voted.values()]).amin(0)
        rows = (agreed_U >= self.agreement - 1e-6).nonzero().squeeze(1)
        figures = {"train/vote/agreement": float(agreed_U.mean()), "train/vote/rows": float(len(rows))}
        if len(rows):
            targets = {task: chosen_U[rows] for task, (chosen_U, _) in voted.items()}
            tuned = server.tune(Job(SERVER, _of_module(self._state), number), rows.numpy(), targets)
            share = self.vote * adaptation((number + 1) / self._rounds)
            self._tuned = _between(self._state, tuned.state, share)
            if self.sends_tuned:
                self._state = {**self._state, **self._tuned}
            figures["train/vote/loss"] = tuned.loss
        return figures

    def state_dict(self) -> dict[str, Any]:
        """Return the tuned model, too."""
        return {**super().state_dict(), "tuned": dict(self._tuned)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from there."""
        super().load_state_dict(state_dict)
        self._tuned = state_dict["tuned"]


@dataclass(frozen=True)
class Alignment(Local):
    """What FedKA adds at a node.

    Args:
        disentangle: Weight of the domain classifier's loss.
        match: Weight of the discrepancy.
        width: D.
        hidden: Width of the domain classifier.
        rounds: In all.
    """

    disentangle: float
    match: float
    width: int
    hidden: int
    rounds: int

    def layers(self) -> nn.ModuleDict:
        """Return the domain classifier, drawn, if there is one."""
        return nn.ModuleDict({"disentangler": Disentangler(self.width, self.hidden)} if self.disentangle else {})

    @contextmanager
    def at(
        self, module: CrossModalModule, job: Job, unlabelled: Iterator[PairedBatch] | None
    ) -> Iterator[AlignmentAtNode]:
        """Begin a job."""
        if unlabelled is None:
            raise ValueError(
                "FedKA: aligns with rows without targets, and the data has none; give some (`load_unlabelled`, such as "
                "left_out of DigitDomains), or set disentangle, match and vote to 0"
            )
        begun = AlignmentAtNode(self, module, job, unlabelled)
        handle = module.model.fusion.register_forward_hook(begun.keep)  # type: ignore[union-attr]
        try:
            yield begun
        finally:
            handle.remove()


class AlignmentAtNode:
    """FedKA at a node, during a job.

    Args:
        settings: That it was sent.
        module: That trains.
        job: That is done.
        unlabelled: Batches of the target, without end.
    """

    def __init__(
        self, settings: Alignment, module: CrossModalModule, job: Job, unlabelled: Iterator[PairedBatch]
    ) -> None:
        self.layers: nn.Module = settings.layers()
        self._settings = settings
        self._module = module
        self._features = _Features(module.model)
        self._round = job.round
        sent = _of_module(job.state)
        self._sent = {name: value.to(module.device) for name, value in sent.items() if name.startswith("model.")}
        self._unlabelled = unlabelled
        self._fused_BLD = torch.empty(0)

    def keep(self, fusion: nn.Module, tokens: Any, fused_BLD: Tensor) -> None:
        """Keep what the fusion gives, so that no batch goes through the model twice."""
        self._fused_BLD = fused_BLD

    def terms(self, batch: PairedBatch, terms: dict[str, Tensor], done: float) -> dict[str, Tensor]:
        """Add what tells domains apart, and what their features differ by."""
        settings, own_BD = self._settings, self._fused_BLD.mean(1)
        alpha = adaptation((self._round + done) / settings.rounds)
        target = next(self._unlabelled).to(self._module.device)
        found = dict(terms)
        if settings.disentangle:
            classifier: Disentangler = self.layers["disentangler"]  # type: ignore[index]
            loss = classifier.loss(own_BD, self._features(target), alpha)
            found["disentangle"] = settings.disentangle * loss
        if settings.match:
            discrepancy = multi_kernel_mmd(own_BD, self._as_sent(target))
            found["match"] = settings.match * alpha * discrepancy
        return found

    @torch.no_grad()
    def _as_sent(self, batch: PairedBatch) -> Tensor:
        """Return the features, (B, D), that the model gives that the node was sent."""
        self._features.eval()
        features_BD: Tensor = functional_call(self._features, self._sent, (batch,))
        self._features.train()
        return features_BD


class _Features(nn.Module):
    """The features of rows, as a module of a model."""

    def __init__(self, model: CrossModalModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: PairedBatch) -> Tensor:
        """Return the mean workspace token of each row, (B, D)."""
        return self.model.workspace(batch).mean(1)


def _between(state: State, other: State, share: float) -> dict[str, Tensor]:
    """Return a state a share of the way to another, of the entries that this has; counters are the other's."""
    return {
        name: torch.lerp(state[name].to(value), value, share) if value.is_floating_point() else value
        for name, value in other.items()
    }


def _of_module(state: State) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(LOCAL)}
