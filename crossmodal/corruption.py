"""What may befall an expert once it is in use: noise, a shift, a loss of detail, a sensor that is stuck.

A meta-learner meets them while it trains, so that it knows them when they come.

Legend: U distinct inputs, N tokens, D width.
"""

from __future__ import annotations

import torch

from experts.base import ExpertTokens

LEAST, MOST = 0.3, 10.0  # size of noise, shift and difference, in deviations of the tokens
KINDS = 3


def corrupt(tokens: ExpertTokens, rate: float) -> ExpertTokens:
    """Corrupt some inputs' tokens, drawn from torch's generator.

    An input is corrupted at this rate, in one of three ways: noise; a shift, the same for all inputs; fading to the
    mean. Half of the noise and of the shifts is of each number by itself, half goes where inputs differ, as that does
    which befalls an input before its expert.

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
    kind_U11 = torch.rand(len(tokens), 1, 1, device=device) * KINDS / rate  # at KINDS and above it stays as it is
    size_U11 = LEAST * (MOST / LEAST) ** torch.rand_like(kind_U11)
    is_white_U11 = torch.rand_like(kind_U11) < 0.5
    first_U, second_U = torch.randint(len(tokens), (2, len(tokens)), device=device)
    between_UND = (clean_UND[first_U] - clean_UND[second_U]) / 2**0.5  # varies as the tokens do
    noise_UND = torch.where(is_white_U11, deviation_D * torch.randn_like(clean_UND), between_UND)
    shift_UND = torch.where(is_white_U11, deviation_D * torch.randn_like(mean_D), between_UND[:1])
    noisy_UND, shifted_UND = clean_UND + size_U11 * noise_UND, clean_UND + size_U11 * shift_UND
    faded_UND = mean_D + torch.rand_like(kind_U11) * (clean_UND - mean_D)
    worse_UND = torch.where(kind_U11 < 1, noisy_UND, torch.where(kind_U11 < 2, shifted_UND, faded_UND))
    tokens_UND = torch.where(kind_U11 < KINDS, worse_UND, clean_UND)
    return ExpertTokens(tokens_UND.to(tokens.tokens_BND.dtype), tokens.mask_BN)


def mislead(tokens: ExpertTokens, rate: float) -> ExpertTokens:
    """Move some inputs' tokens to where other inputs are.

    To an input's tokens the difference of those of two others is added. The greater it is, the likelier the tokens
    that it is added to are another input's, too: what is strange may tell nothing of its row.

    Args:
        tokens: Of U inputs.
        rate: 0 to 1.
    """
    if not len(tokens):
        return tokens
    device = tokens.tokens_BND.device
    clean_UND = tokens.tokens_BND.masked_fill(~tokens.mask_BN.unsqueeze(-1), 0).float()
    strength_U11, is_other_U11, is_moved_U11 = torch.rand(3, len(tokens), 1, 1, device=device)
    first_U, second_U, other_U = torch.randint(len(tokens), (3, len(tokens)), device=device)
    heard_UND = torch.where(is_other_U11 < strength_U11, clean_UND[other_U], clean_UND)
    size_U11 = LEAST * (MOST / LEAST) ** strength_U11
    moved_UND = heard_UND + size_U11 * (clean_UND[first_U] - clean_UND[second_U]) / 2**0.5
    tokens_UND = torch.where(is_moved_U11 < rate, moved_UND, clean_UND)
    return ExpertTokens(tokens_UND.to(tokens.tokens_BND.dtype), tokens.mask_BN)


def stick(tokens: ExpertTokens, rate: float) -> ExpertTokens:
    """Give all inputs the tokens of one of them, at this rate: a sensor that is stuck.

    Args:
        tokens: Of U inputs.
        rate: 0 to 1.
    """
    is_stuck, which = torch.rand(2, device=tokens.tokens_BND.device)
    if not len(tokens):
        return tokens
    own_U = torch.arange(len(tokens), device=tokens.tokens_BND.device)
    from_U = torch.where(is_stuck < rate, (which * len(tokens)).long(), own_U)
    return ExpertTokens(tokens.tokens_BND[from_U], tokens.mask_BN[from_U])


def examine(tokens: ExpertTokens, rate: float) -> ExpertTokens:
    """Do one of these to a batch's inputs, at this rate: what who weighs experts is to have seen.

    Args:
        tokens: Of U inputs.
        rate: 0 to 1.
    """
    ways = (corrupt, mislead, stick)
    return ways[int(torch.randint(len(ways), ()))](tokens, rate)
