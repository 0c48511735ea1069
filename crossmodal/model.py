"""The model: experts, fusion, heads. `CrossModalModel.forward` is the whole way of the data.

Legend: U distinct inputs, B rows, N tokens, D width, L workspace tokens.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crossmodal.fusion import Fusion
from crossmodal.heads import Head
from datamodules.batch import PairedBatch, gather_rows
from experts.base import Expert, ExpertTokens


class CrossModalModel(nn.Module):
    """Experts write into a workspace; heads read the answer out.

    Args:
        experts: By modality.
        fusion: Over the same modalities; without heads there need not be one.
        heads: By task, each of the fusion's width.

    Raises:
        ValueError: A frozen expert has parameters that nothing freezes.
    """

    def __init__(self, experts: Mapping[str, Expert], fusion: Fusion | None, heads: Mapping[str, Head]) -> None:
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

    def forward(self, batch: PairedBatch) -> dict[str, Tensor]:
        """Return each task's raw outputs, shape (B, outputs)."""
        return self.predict(self.encode(batch), batch)

    def encode(self, batch: PairedBatch) -> dict[str, ExpertTokens]:
        """Return the tokens of the distinct inputs. An expert whose modality no row has is not run."""
        return {
            modality: expert(batch.inputs[modality])
            for modality, expert in self.experts.items()
            if modality in batch.inputs
        }

    def predict(self, tokens: Mapping[str, ExpertTokens], batch: PairedBatch) -> dict[str, Tensor]:
        """Return each task's raw outputs, shape (B, outputs), given the tokens of the distinct inputs."""
        if self.fusion is None:
            return {}
        workspace_BLD = self.fusion(
            {
                modality: self.tokens_of_rows(tokens.get(modality), batch.index[modality], modality)
                for modality in self.experts
            }
        )
        absent_B = torch.stack([~batch.present(modality) for modality in self.experts]).all(0)
        return {task: head(workspace_BLD, absent_B) for task, head in self.heads.items()}

    def tokens_of_rows(self, tokens: ExpertTokens | None, index_B: Tensor, modality: str) -> ExpertTokens:
        """Project the tokens of the distinct inputs, if there are any, then give each row its own."""
        projection: Projection = self.projections[modality]  # type: ignore[assignment]
        if tokens is None:
            return projection.absent(index_B)
        projected = projection(tokens)
        return ExpertTokens(gather_rows(projected.tokens_BND, index_B), gather_rows(projected.mask_BN, index_B))


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
