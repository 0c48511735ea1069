"""How a modality joins a trained model, which keeps all that it could do.

Legend: B rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossmodal.checkpoints import put_frozen_back, read_checkpoint, refuse_other_outputs, refuse_other_shapes
from crossmodal.fusion import Fusion
from crossmodal.model import CrossModalModel
from datamodules.batch import ABSENT, PairedBatch
from experts.base import Expert


@dataclass
class Joined:
    """How a modality joined a trained model. Of several, in their order, only the last is trained.

    Args:
        model: The checkpoint of the model that it joined, without it; read when training begins.
        like: The modality whose place it takes where training begins: projection and fusion read it as they read that.
    """

    model: str
    like: str | None = None


def add_joined(fusion: Fusion | None, experts: Mapping[str, Expert], joined: Mapping[str, Joined]) -> str | None:
    """Let modalities join the fusion; return the last one, which is to be trained.

    Raises:
        ValueError: There is no fusion or no such expert, it cannot be like another, or a modality cannot be called so.
    """
    for modality in experts:
        if hasattr(nn.ModuleDict(), modality) or hasattr(nn.ParameterDict(), modality):
            raise ValueError(f"experts.{modality}: torch has that name for something else; give the modality another")
    if fusion is None:
        if joined:
            raise ValueError("model.joined: modalities join a fusion, but there is none")
        return None
    for modality, how in joined.items():
        if modality not in experts:
            raise ValueError(f"model.joined.{modality}: there is no expert for it; there are {', '.join(experts)}")
        before = [*fusion.modalities, *fusion.joined]
        if how.like is not None and how.like not in before:
            raise ValueError(f"model.joined.{modality}.like: {how.like!r} is none of {', '.join(before)}")
        fusion.join(modality)
        if how.like is not None and (width := experts[modality].width) != (wanted := experts[how.like].width):
            raise ValueError(
                f"model.joined.{modality}.like: its tokens have width {width}, those of {how.like!r} {wanted}: train "
                f"an expert with tokens of that width (experts.adapters.ProjectedExpert with width: {wanted})"
            )
    return [*joined][-1] if joined else None


def begin_joined(model: CrossModalModel, how: Joined, outputs: dict[str, list[str]]) -> None:
    """Take the trained model that the newcomer joins, and let that begin like another modality.

    Args:
        model: With the newcomer.
        how: It joins.
        outputs: By task.

    Raises:
        ValueError: The checkpoint cannot be read, or is of another model.
    """
    newcomer = model.newcomer
    assert newcomer is not None
    assert model.fusion is not None
    checkpoint = read_checkpoint(Path(how.model))
    experts: dict[str, Any] = {name: expert for name, expert in model.experts.items() if name != newcomer}
    try:
        refuse_other_outputs(checkpoint, outputs)
        put_frozen_back(checkpoint, experts)
        prefix = "model."
        before = {
            name.removeprefix(prefix): value
            for name, value in checkpoint["state_dict"].items()
            if name.startswith(prefix)
        }
        own = model.own_state(newcomer)
        refuse_other_shapes(before, {name: value for name, value in model.state_dict().items() if name not in own})
    except ValueError as error:
        raise ValueError(f"model.joined.{newcomer}.model: {how.model} does not fit: {error}") from error
    model.load_state_dict(before, strict=False)
    if how.like is not None:
        model.projections[newcomer].load_state_dict(model.projections[how.like].state_dict())
        model.fusion.imitate(newcomer, how.like)


def lacking(batch: PairedBatch, modalities: Iterable[str]) -> PairedBatch:
    """Return the batch with modalities that none of its rows has."""
    absent_B = torch.full((len(batch),), ABSENT)
    return replace(batch, index={**batch.index, **{name: absent_B for name in modalities if name not in batch.index}})


@torch.no_grad()
def answers(model: CrossModalModel, batches: Iterable[PairedBatch], device: torch.device) -> list[dict[str, Tensor]]:
    """Return by batch each task's raw outputs, (B, C), on the CPU."""
    model.to(device).eval()
    return [
        {task: outputs_BC.cpu() for task, outputs_BC in model(lacking(batch, model.experts).to(device)).items()}
        for batch in batches
    ]
