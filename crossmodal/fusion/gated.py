"""Gated fusion: modalities weigh one another, channel by channel.

After Arevalo, Solorio, Montes-y-Gómez and González, Gated Multimodal Units for Information Fusion (ICLR 2017 workshop,
arXiv 1702.01992): h_m = tanh(W_m x_m), z_m = the gate of m, which sees all modalities, and h = Σ_m z_m h_m. The paper
has gates that sum to one for two modalities alone (z and 1 - z, z a sigmoid). Here they are a softmax over the
modalities that a row has: for two the same functions, for more the same kind.

Legend: B rows, M modalities, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import Fusion
from experts.base import ExpertTokens


class GatedFusion(Fusion):
    """Gated multimodal unit over mean tokens; a modality that a row lacks has no gate, and moves none.

    Args:
        modalities: Their names.
        width: D.
    """

    def __init__(self, modalities: Sequence[str], *, width: int = 128) -> None:
        super().__init__(modalities, width=width)
        self.features = nn.ModuleDict()
        self.gates = nn.ModuleDict()
        self.null_D = nn.Parameter(torch.zeros(width))  # of a row without any modality
        for modality in self.modalities:
            self.add(modality)

    def add(self, modality: str) -> None:
        """Add a modality's features, its gate, and what it tells the gates of the others."""
        self.features[modality] = nn.Linear(self.width, self.width)
        self.gates[_key(modality, modality)] = nn.Linear(self.width, self.width)
        for other in self.features:
            if other != modality:
                for key in (_key(other, modality), _key(modality, other)):
                    self.gates[key] = nn.Linear(self.width, self.width, bias=False)
                    if other in self.joined:  # what two share goes with either
                        self.joined[other].add(f"gates.{key}.weight")

    @torch.no_grad()
    def imitate(self, modality: str, like: str) -> None:
        """Copy the other's features, its gate and what it tells; who has this one and lacks the other is read alike."""
        self.features[modality].load_state_dict(self.features[like].state_dict())
        self.gates[_key(modality, modality)].load_state_dict(self.gates[_key(like, like)].state_dict())
        for other in self.features:
            if other != modality:
                for key, theirs in ((other, modality), (other, like)), ((modality, other), (like, other)):
                    self.gates[_key(*key)].weight.copy_(self.gates[_key(*theirs)].weight)  # type: ignore[operator, arg-type]

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to one workspace token, shape (B, 1, D)."""
        there = [modality for modality in self.features if modality in tokens]
        means = {modality: tokens[modality].mean() for modality in there}
        present_BM1 = torch.stack([tokens[modality].mask_BN.any(1, keepdim=True) for modality in there], dim=1)
        features_BMD = torch.stack([self.features[modality](means[modality]).tanh() for modality in there], dim=1)
        scores_BMD = torch.stack(
            [sum(self.gates[_key(source, gated)](means[source]) for source in there) for gated in there], dim=1
        )
        any_B11 = present_BM1.any(1, keepdim=True)
        # a softmax over nothing would be NaN, also in the gradients
        gates_BMD = scores_BMD.masked_fill(any_B11 & ~present_BM1, -torch.inf).softmax(dim=1)
        return torch.where(any_B11, (gates_BMD * features_BMD).sum(1, keepdim=True), self.null_D)


def _key(source: str, gated: str) -> str:
    return f"{source}->{gated}"
