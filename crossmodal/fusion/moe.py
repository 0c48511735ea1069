"""A sparse mixture of experts: one transformer for all modalities, in which few feed-forward layers take each token.

After Mustafa et al., Multimodal Contrastive Learning with LIMoE: the Language-Image Mixture of Experts (NeurIPS 2022,
arXiv 2206.02770). "Expert" means here, as there, one of the feed-forward layers. No expert has a limit of
tokens, so none is dropped; the slots stand for the paper's mean over the tokens.

Legend: B rows, N tokens (with the slots, of all modalities, and a null token), T those of them that are real,
D width, L slots, E experts, K experts of one token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import at_least_1
from crossmodal.fusion.layers import CrossAttention, FeedForward
from crossmodal.fusion.tokens import TokenFusion
from experts.base import ExpertTokens


class SparseLayer(nn.Module):
    """Tokens attend to each other, then each goes through the experts that its router gives the most.

    Args:
        width: D.
        experts: E.
        top_k: K.
        num_heads: H of the attention.
        dropout: In the experts.
    """

    def __init__(self, width: int, *, experts: int, top_k: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.top_k = top_k
        self.attention = CrossAttention(width, num_heads=num_heads)
        self.norm = nn.LayerNorm(width)
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(width, dropout=dropout) for _ in range(experts))

    def forward(self, tokens_BND: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens after the layer, and the router's logits, shape (B, N, E)."""
        tokens_BND = tokens_BND + self.attention(tokens_BND, tokens_BND, mask_BN)
        logits_BNE = self.router(self.norm(tokens_BND))
        real_TD = tokens_BND[mask_BN]
        weight_TK, chosen_TK = logits_BNE[mask_BN].softmax(-1).topk(self.top_k, dim=-1)
        mixed_TD = real_TD
        for number, expert in enumerate(self.experts):  # also one without tokens: other devices wait for its gradient
            token, place = (chosen_TK == number).nonzero(as_tuple=True)
            said = weight_TK[token, place].unsqueeze(-1) * expert.branch(real_TD[token])  # type: ignore[operator]
            mixed_TD = mixed_TD.index_add(0, token, said.to(mixed_TD.dtype))
        return tokens_BND.masked_scatter(mask_BN.unsqueeze(-1), mixed_TD), logits_BNE


class MoEFusion(TokenFusion):
    """All modalities' tokens, and slots beside them, go through layers whose feed-forward is a sparse mixture.

    While training it has three terms, each a mean over the layers. `local` makes a router sure: the mean entropy of
    the choice of each token, a mean over the modalities. `global` lets each modality use at least `min_experts`: how
    far the entropy of its mean choice is below their logarithm. `router_z` keeps logits small (Zoph et al. 2022).

    Args:
        modalities: Their names.
        width: D.
        slots: L.
        layers: How many.
        experts: E.
        top_k: K.
        min_experts: The least number of experts, softly, that a modality spreads over.
        entropy: The weight of `local` and of `global`.
        router_z: The weight of the logits' size.
        num_heads: H of all attention.
        dropout: In the experts.

    Raises:
        ValueError: The width is not a multiple of the number of heads, a count is too small, or more experts are
            asked for than there are.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        width: int = 128,
        slots: int = 4,
        layers: int = 2,
        experts: int = 4,
        top_k: int = 1,
        min_experts: int = 2,
        entropy: float = 0.04,
        router_z: float = 0.001,
        num_heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(modalities, width=width)
        at_least_1(slots=slots, layers=layers, experts=experts, top_k=top_k, min_experts=min_experts)
        for name, count in {"top_k": top_k, "min_experts": min_experts}.items():
            if count > experts:
                raise ValueError(f"{name} ({count}) must be at most experts ({experts})")
        self.min_experts = min_experts
        self.entropy = entropy
        self.router_z = router_z
        self.slots_LD = nn.Parameter(torch.randn(slots, width) / width**0.5)
        self.layers = nn.ModuleList(
            SparseLayer(width, experts=experts, top_k=top_k, num_heads=num_heads, dropout=dropout)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        """Fuse to the slots after the last layer, shape (B, L, D)."""
        tokens_BND, mask_BN = self.all_tokens(tokens)
        slots = len(self.slots_LD)
        tokens_BND = torch.cat([self.slots_LD.expand(len(tokens_BND), -1, -1), tokens_BND], dim=1)
        mask_BN = nn.functional.pad(mask_BN, (slots, 0), value=True)
        routed = []
        for layer in self.layers:
            tokens_BND, logits_BNE = layer(tokens_BND, mask_BN)
            routed.append(logits_BNE[:, slots:-1])  # without the slots and the null token, which have no modality
        self.terms = self._terms(routed, tokens) if self.training else {}
        normed_BLD: Tensor = self.norm(tokens_BND[:, :slots])
        return normed_BLD

    def _terms(self, routed: list[Tensor], tokens: dict[str, ExpertTokens]) -> dict[str, Tensor]:
        masks = [tokens[name].mask_BN for name in (*self.modalities, *self.joined) if name in tokens]
        sizes = [mask_BN.shape[1] for mask_BN in masks]
        zero = routed[0].new_zeros((), dtype=torch.float32)
        local, overall, size = [zero], [zero], [zero]
        for logits_BNE in routed:
            for part_BNE, mask_BN in zip(torch.split(logits_BNE.float(), sizes, dim=1), masks, strict=True):
                if not mask_BN.any():
                    continue
                log_TE = part_BNE[mask_BN].log_softmax(-1)
                local.append(-(log_TE.exp() * log_TE).sum(-1).mean())
                mean_E = log_TE.exp().mean(0)
                overall.append((math.log(self.min_experts) + torch.xlogy(mean_E, mean_E).sum()).clamp(min=0))
                size.append(part_BNE[mask_BN].logsumexp(-1).square().mean())
        count = max(1, len(local) - 1)
        return {
            "local": self.entropy * torch.stack(local).sum() / count,
            "global": self.entropy * torch.stack(overall).sum() / count,
            "router_z": self.router_z * torch.stack(size).sum() / count,
        }
