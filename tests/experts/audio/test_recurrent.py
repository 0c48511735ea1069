"""Legend: U inputs, N tokens, D width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from experts.audio import RecurrentExpert
from tests.experts.audio.sounds import RATE, SOUNDS, check_padding_changes_nothing, tokens_of, tone
from tests.experts.test_features import check_checkpoint, check_learns, check_travels, collated, trained_accuracy

SMALL: dict[str, Any] = {"sample_rate": RATE, "num_mels": 32, "width": 16, "max_seconds": 2.0}


def fitted(**arguments: Any) -> RecurrentExpert:
    torch.manual_seed(0)
    expert = RecurrentExpert(**{**SMALL, **arguments})
    expert.learn_statistics([collated(expert, SOUNDS)])
    return expert.eval()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("tokens", ["mean", "all"])
def test_padding_changes_nothing(tokens: str, depth: int) -> None:
    check_padding_changes_nothing(fitted(tokens=tokens, depth=depth), SOUNDS)


def test_it_learns_the_order_of_sounds() -> None:
    """Low then high, or high then low, of many lengths: the mean of the frames is the same."""
    sounds, labels = [], []
    for number in range(12):
        parts = [tone(hertz, 0.2 + 0.03 * number, seed=number)[0] for hertz in (300 + number, 1500 - number)]
        for label, order in enumerate((parts, parts[::-1])):
            sounds.append((np.concatenate(order), RATE))
            labels.append(label)
    assert trained_accuracy(lambda: RecurrentExpert(**SMALL), sounds, labels) == 1


@pytest.mark.parametrize(("seconds", "num_tokens"), [(0.8, 20), (0.81, 21), (0.01, 1)])
def test_a_token_every_40_ms(seconds: float, num_tokens: int) -> None:
    assert tokens_of(fitted(tokens="all"), [tone(440, seconds)]).tokens_BND.shape == (1, num_tokens, 16)


def test_loudness_changes_nothing() -> None:
    samples, rate = tone(440, 0.5)
    expert = fitted(tokens="all")
    loud, soft = (tokens_of(expert, [(factor * samples, rate)]).tokens_BND for factor in (1.0, 0.1))
    torch.testing.assert_close(loud, soft, atol=2e-2, rtol=0)


def test_a_checkpoint_and_a_worker_bring_it_back() -> None:
    expert, fresh = RecurrentExpert(**SMALL), RecurrentExpert(**SMALL)
    check_checkpoint(expert.eval(), fresh.eval(), collated(expert, SOUNDS))
    check_travels(expert, SOUNDS)


def test_all_of_it_learns() -> None:
    expert = fitted(depth=2)
    check_learns(expert, collated(expert, SOUNDS))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"width": 15}, "width must be even, not 15"),
        ({"depth": 0}, "depth must be at least 1, not 0"),
        ({"dropout": 1.0}, "dropout is a share"),
        ({"max_seconds": 0.0}, "max_seconds must be above 0"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RecurrentExpert(**{**SMALL, **arguments})
