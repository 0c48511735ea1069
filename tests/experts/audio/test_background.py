"""Legend: U inputs, F frames, M mel bands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experts.audio import Background, LogMel
from experts.audio.front_end import QUIET

NUM_MELS = 32
LENGTHS = torch.tensor([40, 60, 100, 1] * 50)
MASK_UF = torch.arange(100) < LENGTHS.unsqueeze(1)


@pytest.fixture(scope="module")
def front() -> LogMel:
    return LogMel(sample_rate=8_000, num_mels=NUM_MELS)


def sounds() -> Tensor:
    """Each with its power in one band, another one for each length, and nothing behind its end."""
    power_UFM = torch.zeros(*MASK_UF.shape, NUM_MELS)
    for number, band in enumerate((4, 12, 20, 28)):
        power_UFM[number::4, :, band] = 3.0
    return power_UFM.masked_fill(~MASK_UF.unsqueeze(2), 0).clamp_min(QUIET).log()


def added(front: LogMel, *, share: float = 1.0, seed: int = 0) -> Tensor:
    """The power that is added."""
    torch.manual_seed(seed)
    return Background(share, front).train()(sounds(), MASK_UF).exp() - sounds().exp()


def test_noise_is_so_much_quieter_as_is_drawn(front: LogMel) -> None:
    total_U = added(front).sum((1, 2))
    decibels_U = 10 * (3 * LENGTHS / total_U).log10()
    assert 2.9 < decibels_U.min() < 4
    assert 19 < decibels_U.max() < 20.1


def test_noise_is_pink_or_of_others(front: LogMel) -> None:
    share_UM = added(front).sum(1)
    share_UM = share_UM / share_UM.sum(1, keepdim=True)
    in_voices_U = share_UM[:, [4, 12, 20, 28]].sum(1)
    is_voices_U = in_voices_U > 0.9
    assert 120 < is_voices_U.sum() < 180
    # three others: seldom all of one length
    assert ((share_UM[is_voices_U] > 0.05).sum(1) > 1).float().mean() > 0.8
    pink_M = share_UM[~is_voices_U & (LENGTHS == 100)].mean(0)
    assert pink_M[:4].sum() > 5 * pink_M[-4:].sum()


def test_a_share_of_the_sounds_is_given_noise_and_no_padding(front: LogMel) -> None:
    changed_UF = added(front, share=0.3).amax(2) > 1e-4
    assert not changed_UF[~MASK_UF].any()
    assert 30 < changed_UF.any(1).sum() < 90


def test_it_is_drawn_by_torchs_generator(front: LogMel) -> None:
    assert torch.equal(added(front), added(front))
    assert not torch.equal(added(front), added(front, seed=1))


def test_a_sound_alone(front: LogMel) -> None:
    noisy_UFM = Background(1.0, front).train()(sounds()[:1], MASK_UF[:1])
    assert noisy_UFM.isfinite().all()


def test_a_silent_sound_stays_silent(front: LogMel) -> None:
    silent_UFM = torch.full((4, 100, NUM_MELS), QUIET).log()
    noisy_UFM = Background(1.0, front).train()(silent_UFM, MASK_UF[:4])
    assert noisy_UFM.max() < silent_UFM.max() + 5


@pytest.mark.parametrize(("share", "training"), [(0.0, True), (1.0, False)])
def test_sounds_stay_as_they_are(front: LogMel, share: float, training: bool) -> None:
    frames_UFM = sounds()
    assert Background(share, front).train(training)(frames_UFM, MASK_UF) is frames_UFM


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_the_share(front: LogMel, share: float) -> None:
    with pytest.raises(ValueError, match="noise is a share"):
        Background(share, front)
