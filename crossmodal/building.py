"""Puts a model together from what a configuration says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from crossmodal.alignment import Alignment, Alignments
from crossmodal.balance.balancing import Balancing
from crossmodal.balance.base import Balance
from crossmodal.fusion import Fusion
from crossmodal.heads import Head
from crossmodal.joining import Joined, add_joined
from crossmodal.meta_learner import MetaLearner
from crossmodal.mixture import Mixture, OwnNetwork
from crossmodal.model import CrossModalModel
from crossmodal.selector import Selector
from experts.base import Expert


def build_model(
    experts: Mapping[str, Expert],
    outputs: Mapping[str, list[str]],
    *,
    fusion: Callable[[list[str]], Fusion] | None = None,
    heads: Mapping[str, Callable[[int, int], Head]] | None = None,
    joined: Mapping[str, Joined] | None = None,
    meta_learner: Callable[[list[str], int], MetaLearner] | None = None,
    selector: Callable[[list[str], int], Selector] | None = None,
    extends: bool = True,
) -> CrossModalModel:
    """Build a model.

    Args:
        experts: By modality.
        outputs: By task the names of its outputs.
        fusion: As in `CrossModalModule`, as are all that follow.
        heads: By task.
        joined: By modality.
        meta_learner: Over all experts.
        selector: Over all experts.
        extends: Whether only the last modality that joined is to be trained.

    Raises:
        ValueError: They do not go together.
    """
    heads = heads or {}
    joined = joined or {}
    built = None if fusion is None else fusion([name for name in experts if name not in joined])
    newcomer = add_joined(built, experts, joined)
    width = 0 if built is None else built.width

    mixture = None
    if meta_learner is not None:
        if not heads:
            raise ValueError("model.meta_learner: it weighs answers, so give a fusion and a head for each task")
        if joined:
            raise ValueError(
                f"model.meta_learner: a model with one cannot be extended yet, but {', '.join(joined)} joined"
            )
        networks = {
            name: OwnNetwork(expert.width, width, build_heads(heads, outputs, width))
            for name, expert in experts.items()
        }
        chooses = None if selector is None else selector([*experts], width)
        mixture = Mixture(networks, meta_learner([*experts], width), chooses)
    elif selector is not None:
        raise ValueError("model.selector: it chooses experts for a meta-learner to weigh, so give model.meta_learner")
    own = build_heads(heads, outputs, width)
    return CrossModalModel(experts, built, own, newcomer=newcomer if extends else None, mixture=mixture)


def build_heads(
    heads: Mapping[str, Callable[[int, int], Head]], outputs: Mapping[str, list[str]], width: int
) -> dict[str, Head]:
    """Build a head for each task, and tell it what its outputs are called.

    Args:
        heads: By task: makes a head, given a width and the number of outputs.
        outputs: By task the names of its outputs.
        width: Of what the heads read.
    """
    built = {task: head(width, len(outputs[task])) for task, head in heads.items()}
    for task, one in built.items():
        one.learn_names(outputs[task])
    return built


def build_alignments(model: CrossModalModel, alignments: Iterable[Callable[[dict[str, int]], Alignment]]) -> Alignments:
    """Build alignments; where a modality is being added to a model, only its own.

    Args:
        model: Whose experts are aligned.
        alignments: Each made given the widths of the experts' tokens.
    """
    newcomer, experts = model.newcomer, model.experts.items()
    widths: dict[str, int] = {name: expert.width for name, expert in experts}  # type: ignore[misc]
    trained = [name for name, expert in experts if not expert.frozen and newcomer in (None, name)]
    aligned = [alignment(widths) for alignment in alignments]
    return Alignments((x for x in aligned if newcomer in (None, x.source, x.target)), trained=trained)


def build_balancing(
    model: CrossModalModel,
    outputs: Mapping[str, list[str]],
    heads: Mapping[str, Callable[[int, int], Head]],
    balance: Callable[[list[str]], Balance] | Sequence[Callable[[list[str]], Balance]] | None,
) -> Balancing:
    """Build what balances the modalities of a model.

    Args:
        model: To be trained.
        outputs: By task the names of its outputs.
        heads: By task: makes a head, given a width and the number of outputs.
        balance: Methods, each made given the modalities' names.

    Raises:
        ValueError: They do not go together, or not with the model.
    """
    makers = [] if balance is None else [balance] if callable(balance) else balance
    methods = [make([*model.experts]) for make in makers]
    if not methods:
        return Balancing()
    if model.fusion is None:
        raise ValueError("model.balance: it goes by answers, so give a fusion and a head for each task")
    if model.fusion.joined:
        raise ValueError(
            f"model.balance: of a model that {', '.join(model.fusion.joined)} joined only what is new trains, so that "
            "there is nothing to balance; leave it out"
        )
    names = [type(method).__name__ for method in methods]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"model.balance: {twice} stands twice")
    changing = [name for name, method in zip(names, methods, strict=True) if method.changes_gradients]
    if len(changing) > 1:
        raise ValueError(f"model.balance: {' and '.join(changing)} both change the gradients; give one of them")
    if model.mixture is None:
        width = model.fusion.width
        networks = {
            name: OwnNetwork(width, width, build_heads(heads, outputs, width), knows_strange=False)
            for name in model.experts
        }
        return Balancing(methods, networks)
    for name, method in zip(names, methods, strict=True):
        if not method.changes_gradients:
            raise ValueError(
                f"model.balance: with a meta-learner each expert has a loss of its own already, so leave {name} out: "
                "model.meta_learner.init_args.own is its weight"
            )
        if method.trains_modalities and all(expert.frozen for expert in model.experts.values()):
            raise ValueError(
                f"model.balance: {name} works on what a modality's own loss and all others train, which with a "
                "meta-learner is its expert; but all experts are frozen"
            )
    return Balancing(methods)
