"""What fusions have in common that read the tokens of all modalities side by side.

Legend: B rows, N tokens of all modalities together (and a null token), D width, M modalities.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossmodal.fusion.base import Fusion
from experts.base import ExpertTokens


class TokenFusion(Fusion):
    """Reads all tokens; an embedding tells which modality each is of.

    Args:
        modalities: Their names.
        width: D.
    """

    def __init__(self, modalities: Sequence[str], *, width: int) -> None:
        super().__init__(modalities, width=width)
        self.modality_MD = nn.Parameter(0.02 * torch.randn(len(self.modalities), width))
        # a row without any modality still has something to read: what this token learns is the prior
        self.null_D = nn.Parameter(torch.zeros(width))
        self.added_D = nn.ParameterDict()

    def add(self, modality: str) -> None:
        """Add what tells a modality's tokens from others."""
        self.added_D[modality] = nn.Parameter(0.02 * torch.randn(self.width))

    @torch.no_grad()
    def imitate(self, modality: str, like: str) -> None:
        """Let the tokens of a modality be those of another."""
        self.added_D[modality].copy_(self._embeddings()[like])

    def _embeddings(self) -> dict[str, Tensor]:
        return dict(zip(self.modalities, self.modality_MD, strict=True)) | {
            modality: self.added_D[modality] for modality in self.joined
        }

    def owners(self, tokens: dict[str, ExpertTokens]) -> list[str]:
        """Return which modality each of the N tokens is of, and `nothing` for the null token."""
        there = [name for name in self._embeddings() if name in tokens]
        return [name for name in there for _ in range(tokens[name].tokens_BND.shape[1])] + ["nothing"]

    def all_tokens(self, tokens: dict[str, ExpertTokens]) -> tuple[Tensor, Tensor]:
        """Return the tokens (B, N, D), zeros where there are none, and their mask (B, N); the null token is last."""
        embeddings = {name: embedding_D for name, embedding_D in self._embeddings().items() if name in tokens}
        parts = [tokens[modality].tokens_BND + embedding_D for modality, embedding_D in embeddings.items()]
        masks = [tokens[modality].mask_BN for modality in embeddings]
        num_rows = len(masks[0])
        parts.append(self.null_D.expand(num_rows, 1, -1))
        masks.append(masks[0].new_ones(num_rows, 1))
        mask_BN = torch.cat(masks, dim=1)
        # attention gives what is masked a weight of zero; zero times NaN would still be NaN
        return torch.cat(parts, dim=1).masked_fill(~mask_BN.unsqueeze(-1), 0), mask_BN
