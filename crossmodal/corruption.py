"""What may befall an expert once it is in use: noise, a shift, a loss of detail, a sensor that is stuck.

A meta-learner meets them while it trains, so that it knows them when they come.

Legend: U distinct inputs, N tokens, D width.
"""

from __future__ import annotations

import torch

from experts.base import ExpertTokens

LEAST, MOST = 0.3, 10.0  # size of noise and shift, in deviations of the tokens
KINDS = 3


def corrupt(tokens: ExpertTokens, rate: float) -> ExpertTokens:
    """Corrupt some inputs' tokens, drawn from torch's generator.

    An input is corrupted at this rate, in one of three ways: noise on each number; a shift of each channel, the same
    for all inputs; fading to the mean. At half the rate all inputs have the tokens of one of them instead.

    Args:
        tokens: Of U inputs.
        rate: 0 to 1.
    """
    mask_UN1 = tokens.mask_BN.unsqueeze(-1)
    if not rate or not len(tokens):
        return tokens
    device = tokens.tokens_BND.device
    clean_UND = tokens.tokens_BND.masked_fill(~mask_UN1, 0).float()
    count = mask_UN1.sum().clamp_min(1)
    mean_D = clean_UND.sum((0, 1)) / count
    deviation_D = ((clean_UND - mean_D).square() * mask_UN1).sum((0, 1)).div(count).sqrt().detach()
    is_stuck, which = torch.rand(2, device=device)
    own_U = torch.arange(len(tokens), device=device)
    from_U = torch.where(is_stuck < rate, (which * len(tokens)).long(), own_U)
    clean_UND, mask_UN = clean_UND[from_U], tokens.mask_BN[from_U]
    kind_U11 = torch.rand(len(tokens), 1, 1, device=device) * KINDS / rate  # at KINDS and above it stays as it is
    size_U11 = LEAST * (MOST / LEAST) ** torch.rand_like(kind_U11)
    noisy_UND = clean_UND + size_U11 * deviation_D * torch.randn_like(clean_UND)
    shifted_UND = clean_UND + size_U11 * deviation_D * torch.randn_like(mean_D)
    faded_UND = mean_D + torch.rand_like(kind_U11) * (clean_UND - mean_D)
    worse_UND = torch.where(kind_U11 < 1, noisy_UND, torch.where(kind_U11 < 2, shifted_UND, faded_UND))
    tokens_UND = torch.where((kind_U11 < KINDS) & (is_stuck >= rate), worse_UND, clean_UND)
    return ExpertTokens(tokens_UND.to(tokens.tokens_BND.dtype), mask_UN)
