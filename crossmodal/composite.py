"""A trained model as an expert of a larger one: it takes its own modalities, and gives its workspace as tokens.

Legend: U inputs, L workspace tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from crossmodal.model import CrossModalModel
from crossmodal.run_folder import RunFolder, TrainedRun, trained_run
from crossmodal.trained import load_model
from datamodules.batch import ABSENT, PairedBatch
from experts.base import Expert, ExpertTokens, Precision, Transform
from experts.digests import digest_of

# runs whose models are being built, each a part of the one before
_chain: ContextVar[tuple[RunFolder, ...]] = ContextVar("chain", default=())


class CompositeTransform:
    """The transforms of a model's modalities; data make its inputs of theirs.

    Args:
        parts: By modality.
    """

    def __init__(self, parts: Mapping[str, Transform]) -> None:
        self.parts = dict(parts)

    def __call__(self, raw: Any) -> dict[str, Any]:
        """Transform the raw inputs of the modalities that there are.

        Raises:
            ValueError: It is none.
        """
        if not isinstance(raw, dict):
            raise ValueError(f"takes {' and '.join(self.parts)} together, not {type(raw).__name__}")
        return {part: self.parts[part](one) for part, one in raw.items()}

    def collate(self, items: Sequence[dict[str, Any]]) -> PairedBatch:
        """Make a batch whose rows are the items; each lacks the modalities that it does not have."""
        inputs: dict[str, Any] = {}
        index: dict[str, torch.Tensor] = {}
        for part, transform in self.parts.items():
            has_B = torch.tensor([part in item for item in items])
            index[part] = torch.where(has_B, has_B.cumsum(0) - 1, ABSENT)
            if has_B.any():
                inputs[part] = transform.collate([item[part] for item in items if part in item])
        return PairedBatch(inputs, index, targets={}, ids=list(map(str, range(len(items)))))

    @property
    def for_evaluation(self) -> CompositeTransform:
        """Without chance."""
        plain = {part: one.for_evaluation for part, one in self.parts.items()}
        return self if all(plain[part] is one for part, one in self.parts.items()) else CompositeTransform(plain)

    def describe(self) -> dict[str, Any]:
        """Return what each transform says of itself."""
        return {part: one.describe() for part, one in self.parts.items()}


class CompositeExpert(Expert):
    """A trained model, whose workspace tokens are read by a larger one. Its heads are left out.

    The data need the model's own modalities; what is called by this expert's name is made of them. A row that has some
    of them has it.

    Args:
        run: Of the model: its folder, such as `runs/easy_vqa/0` (best.ckpt, or else last.ckpt), or a checkpoint.
        freeze: Nothing trains; else all of it trains but for experts that it has frozen.
        precision: Of those of its experts that are frozen and whose own is `auto`; see `Expert`.

    Raises:
        ValueError: There is no such run, it cannot be read, has no workspace, or is a part of itself.
    """

    network: CrossModalModel

    def __init__(self, run: TrainedRun, *, freeze: bool = True, precision: Precision = "auto") -> None:
        folder, checkpoint = trained_run(Path(run))
        with _refused_within_itself(folder):
            model = load_model(folder, checkpoint)
        assert model.fusion is not None
        experts: dict[str, Expert] = dict(model.experts.items())  # type: ignore[arg-type]
        own = {name: one.precision for name, one in experts.items() if one.frozen}
        can_choose = "auto" in own.values()
        if precision == "bfloat16" and not can_choose:
            raise ValueError(f"{run}: none of its experts is frozen with precision: auto, so that none can be cast")
        # code, layers, and the precision that they are told: all that changes their tokens but the weights
        inside = [one.fingerprint() if one.frozen else digest_of(one.describe()) for one in experts.values()]
        heads = model.heads if len(model.heads) else None  # which a selector asks
        parts = {"projections": model.projections, "fusion": model.fusion, "mixture": model.mixture, "heads": heads}
        transform = CompositeTransform({name: one.transform for name, one in experts.items()})
        super().__init__(
            model,
            width=model.fusion.width,
            transform=transform.for_evaluation if freeze else transform,
            freeze=freeze,
            precision="auto" if precision == "auto" and can_choose else "float32",
            # experts say themselves what they are: their layers may have been made faster ones
            original=nn.ModuleDict({name: part for name, part in parts.items() if part is not None}),
        )
        self._run = run  # a path, which the tokens do not depend on
        self._own_precision = own
        self._inside = inside
        if precision == "bfloat16":
            self.set_precision(precision)
        elif freeze:
            self._cast("float32")

    def encode(self, inputs: PairedBatch) -> ExpertTokens:
        """Return the workspace tokens of each combination of inputs, shape (U, L, D)."""
        workspace_ULD = self.network.workspace(inputs)
        return ExpertTokens(workspace_ULD, torch.ones_like(workspace_ULD[..., 0], dtype=torch.bool))

    def set_precision(self, precision: Literal["float32", "bfloat16"]) -> None:
        """Cast those of its frozen experts whose own precision is `auto`; all else computes as it was trained."""
        if not self.frozen:
            raise ValueError("only a frozen expert can be cast")
        self.precision = precision
        self._cast(precision)

    def _cast(self, precision: Literal["float32", "bfloat16"]) -> None:
        for name, own in self._own_precision.items():
            expert: Expert = self.network.experts[name]  # type: ignore[assignment]
            expert.set_precision(precision if own == "auto" else own)

    def why_not_stored(self) -> str | None:
        """Return why not, as for any expert; nor where a meta-learner looks at all inputs of a batch together."""
        beside = "its meta-learner judges inputs by those beside them" if self.network.mixture is not None else None
        return super().why_not_stored() or beside

    def label(self) -> str:
        """Return the run, too."""
        return f"{super().label()} {self._run}"

    def describe(self) -> dict[str, Any]:
        """Return what its experts are, too."""
        about = super().describe()
        experts = {name: expert.identity() for name, expert in self.network.experts.items()}  # type: ignore[operator]
        return {**about, "source": [*about["source"], *self._inside], "experts": experts}

    def _own_layers(self) -> list[type]:
        """Return the classes of the fusion's layers, too: it may be somebody's own."""
        assert self.network.fusion is not None
        own = type(self.network.fusion).__module__.partition(".")[0]
        layers = [type(module) for module in self.network.fusion.modules()]
        return [*super()._own_layers(), *(layer for layer in layers if layer.__module__.partition(".")[0] == own)]


@contextmanager
def _refused_within_itself(run: RunFolder) -> Iterator[None]:
    """Build a run's model; its experts may be models of other runs.

    Raises:
        ValueError: It is being built already.
    """
    chain = _chain.get()
    if run.path.resolve() in [one.path.resolve() for one in chain]:
        raise ValueError(f"{run.path} is a part of itself: {' > '.join(str(one.path) for one in (*chain, run))}")
    token = _chain.set((*chain, run))
    try:
        yield
    finally:
        _chain.reset(token)
