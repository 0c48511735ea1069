"""Sounds for tests, and what every expert for sound must hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from experts.base import Expert, ExpertTokens
from tests.experts.test_features import collated

RATE = 8000


def tone(hertz: float, seconds: float, *, rate: int = RATE, channels: int = 1, seed: int = 0) -> Any:
    """A tone in a little noise: samples of shape (T, channels), and their rate in Hz."""
    times_T = np.arange(round(seconds * rate)) / rate
    noise_T = 0.02 * np.random.default_rng(seed).standard_normal(len(times_T))
    samples_T = (0.5 * np.sin(2 * np.pi * hertz * times_T) + noise_T).astype(np.float32)
    return np.repeat(samples_T[:, None], channels, axis=1), rate


SOUNDS = [tone(440, 0.5), tone(300, 0.037, seed=1), tone(700, 1.23, seed=2), tone(200, 1 / RATE, seed=3)]


def tokens_of(expert: Expert, sounds: Sequence[Any]) -> ExpertTokens:
    """The tokens of one batch."""
    tokens: ExpertTokens = expert(collated(expert, sounds))
    return tokens


def check_padding_changes_nothing(expert: Expert, sounds: Sequence[Any]) -> None:
    """A sound's tokens are the same alone and among others, and zero behind its own; in eval mode."""
    together = tokens_of(expert, sounds)
    assert together.tokens_BND.shape == (len(sounds), together.mask_BN.shape[1], expert.width)
    scale = float(together.tokens_BND.detach().abs().max())
    assert scale > 0
    for row, sound in enumerate(sounds):
        alone = tokens_of(expert, [sound])
        real = int(alone.mask_BN.sum())
        assert together.mask_BN[row].sum() == real > 0
        assert alone.mask_BN[0, :real].all()
        assert together.mask_BN[row, :real].all()
        difference = together.tokens_BND[row, :real] - alone.tokens_BND[0, :real]
        assert difference.abs().max() <= 1e-5 * max(1.0, scale)
        assert torch.equal(together.tokens_BND[row, real:], torch.zeros_like(together.tokens_BND[row, real:]))
