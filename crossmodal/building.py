"""Puts a model together from what a configuration says."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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

    def made() -> dict[str, Head]:
        return {task: head(width, len(outputs[task])) for task, head in heads.items()}

    mixture = None
    if meta_learner is not None:
        if not heads:
            raise ValueError("model.meta_learner: it weighs answers, so give a fusion and a head for each task")
        if joined:
            raise ValueError(
                f"model.meta_learner: a model with one cannot be extended yet, but {', '.join(joined)} joined"
            )
        networks = {name: OwnNetwork(expert.width, width, made()) for name, expert in experts.items()}
        chooses = None if selector is None else selector([*experts], width)
        mixture = Mixture(networks, meta_learner([*experts], width), chooses)
    elif selector is not None:
        raise ValueError("model.selector: it chooses experts for a meta-learner to weigh, so give model.meta_learner")
    return CrossModalModel(experts, built, made(), newcomer=newcomer if extends else None, mixture=mixture)
