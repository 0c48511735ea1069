"""Reads a trained run back, without its data: its experts, or its model but for the heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from crossmodal.arguments import read_yaml
from crossmodal.building import build_model
from crossmodal.checkpoints import put_frozen_back, read_checkpoint, refuse_other_shapes
from crossmodal.console import tame_chatter
from crossmodal.errors import UsageError, without_types
from crossmodal.fusion import Fusion
from crossmodal.heads import Head
from crossmodal.joining import Joined
from crossmodal.meta_learner import MetaLearner
from crossmodal.model import CrossModalModel
from crossmodal.run_folder import RunFolder
from crossmodal.selector import Selector
from experts.base import Expert


def load_experts(run: RunFolder, checkpoint: Path, modalities: Sequence[str]) -> dict[str, Expert]:
    """Build a run's experts as it trained them; its data are not needed.

    Args:
        run: With the configuration.
        checkpoint: With what was trained.
        modalities: Whose experts are wanted.

    Raises:
        ValueError: One cannot be built, or the checkpoint does not fit it.
    """
    tame_chatter()
    config = _config(run)["experts"]
    experts: dict[str, Expert] = _built(run, experts={modality: config[modality] for modality in modalities}).experts
    state = read_checkpoint(checkpoint)["state_dict"]
    for modality, expert in experts.items():
        prefix = f"model.experts.{modality}."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if expert.frozen:  # its weights are where the configuration says
            own |= {f"network.{name}": value for name, value in expert.network.state_dict().items()}
        try:
            expert.load_state_dict(own)
        except RuntimeError as error:
            said = str(error).splitlines()[-1].strip()
            raise ValueError(f"{checkpoint} does not fit experts.{modality} of {run.config}: {said}") from error
        expert.eval()
    return experts


def load_model(run: RunFolder, checkpoint: Path) -> CrossModalModel:
    """Build a run's model as it trained it, without heads but where a selector asks them; its data are not needed.

    Args:
        run: With the configuration.
        checkpoint: With what was trained.

    Raises:
        ValueError: It has no fusion or cannot be built, or the checkpoint does not fit it.
    """
    config = _config(run)
    wanted = {key: config["model"].get(key) for key in ("fusion", "heads", "joined", "meta_learner", "selector")}
    if not (wanted["fusion"] and wanted["heads"]):
        raise ValueError(
            f"{run.path}: its model has no workspace: it was trained by alignments alone, without a fusion"
        )
    content = read_checkpoint(checkpoint)
    parts = _built(run, experts=config["experts"], **wanted)
    model = build_model(outputs=content["outputs"], extends=False, **vars(parts))
    try:
        put_frozen_back(content, parts.experts)
        state = {
            name.removeprefix("model."): value
            for name, value in content["state_dict"].items()
            if name.startswith("model.")
        }
        refuse_other_shapes(state, model.state_dict())
    except ValueError as error:
        raise ValueError(f"{checkpoint} does not fit {run.config}: {error}") from error
    model.load_state_dict(state)
    if not model.chosen_among:  # else how sure the first answer is says which experts are run
        model.heads = nn.ModuleDict()
    return model


def _config(run: RunFolder) -> dict[str, Any]:
    try:
        config = read_yaml(run.config)
    except UsageError as error:
        raise ValueError(str(error)) from None
    if lacking := [key for key in ("experts", "model") if not isinstance(config.get(key), dict)]:
        raise ValueError(f"{run.config}: has no {lacking[0]}; it is not as `crossmodal fit` wrote it")
    return config


def _built(run: RunFolder, **config: Any) -> Any:
    """Build what parts of a run's configuration say."""
    parser = ArgumentParser(exit_on_error=False)
    types = {
        "experts": dict[str, Expert],
        "fusion": Callable[[list[str]], Fusion],
        "heads": dict[str, Callable[[int, int], Head]],
        "joined": dict[str, Joined] | None,
        "meta_learner": Callable[[list[str], int], MetaLearner] | None,
        "selector": Callable[[list[str], int], Selector] | None,
    }
    for key in config:
        parser.add_argument(f"--{key}", type=types[key])
    try:
        return parser.instantiate_classes(parser.parse_object(config))
    except (ArgumentError, ValueError, OSError) as error:
        raise ValueError(f"{run.config}: {without_types(str(error))}") from error
