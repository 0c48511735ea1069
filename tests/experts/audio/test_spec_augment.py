"""Legend: U inputs, F frames, M mel bands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experts.audio import SpecAugment, VoiceWarp


def augmented(lengths: list[int], num_mels: int = 40, **masks: int) -> tuple[Tensor, Tensor]:
    """What was hidden of ones, of shape (U, F, M), and which frames are real."""
    mask_UF = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    frames_UFM = torch.ones(len(lengths), max(lengths), num_mels)
    return SpecAugment(**{"time_masks": 0, "band_masks": 0, **masks}).train()(frames_UFM, mask_UF) == 0, mask_UF


def test_time_masks_are_one_stretch_of_at_most_a_tenth_anywhere() -> None:
    torch.manual_seed(0)
    hidden_UFM, _ = augmented([100] * 4000, time_masks=1)
    hidden_UF = hidden_UFM.all(2)
    assert torch.equal(hidden_UF, hidden_UFM.any(2))
    widths_U = hidden_UF.sum(1)
    assert sorted(widths_U.unique().tolist()) == list(range(11))
    assert abs(float(widths_U.float().mean()) - 5) < 0.2
    edges_U = hidden_UF.int().diff(dim=1, prepend=torch.zeros(4000, 1), append=torch.zeros(4000, 1)).abs().sum(1)
    assert torch.equal(edges_U, 2 * (widths_U > 0))
    share_F = hidden_UF.float().mean(0)
    assert share_F.min() > 0
    assert abs(float(share_F[20:40].mean() - share_F[60:80].mean())) < 0.01


def test_band_masks_are_stretches_of_at_most_a_fifth() -> None:
    torch.manual_seed(0)
    hidden_UFM, _ = augmented([10] * 2000, band_masks=1)
    hidden_UM = hidden_UFM.all(1)
    assert torch.equal(hidden_UM, hidden_UFM.any(1))
    assert sorted(hidden_UM.sum(1).unique().tolist()) == list(range(9))
    assert hidden_UM.any(0).all()


def test_padding_is_left_alone_and_a_short_sound_stays_whole() -> None:
    torch.manual_seed(0)
    hidden_UFM, mask_UF = augmented([100, 30, 9, 1] * 300, time_masks=2)
    hidden_UF = hidden_UFM.all(2)
    assert not hidden_UF[~mask_UF].any()
    widths_U4 = hidden_UF.sum(1).view(-1, 4)
    assert widths_U4.amax(0).tolist()[2:] == [0, 0]
    assert widths_U4[:, 1].max() <= 6
    assert (widths_U4[:, 0] > 10).any()


def test_sounds_are_masked_each_by_itself() -> None:
    torch.manual_seed(0)
    hidden_UFM, _ = augmented([100, 100], time_masks=2, band_masks=2)
    assert not torch.equal(hidden_UFM[0], hidden_UFM[1])


def test_nothing_is_hidden_outside_training() -> None:
    frames_UFM, mask_UF = torch.randn(3, 50, 40), torch.ones(3, 50, dtype=torch.bool)
    assert torch.equal(SpecAugment(time_masks=5, band_masks=5).eval()(frames_UFM, mask_UF), frames_UFM)
    assert torch.equal(SpecAugment(time_masks=0, band_masks=0).train()(frames_UFM, mask_UF), frames_UFM)


def test_is_drawn_by_torchs_generator() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(augmented([100] * 3, time_masks=2, band_masks=2)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", ["time_masks", "band_masks"])
def test_refuses_a_negative_number(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0, not -1"):
        SpecAugment(**{"time_masks": 0, "band_masks": 0, name: -1})


def test_a_voice_is_stretched_along_both_axes() -> None:
    """A ramp along both: what stands at a place of the result was at that place times the factor."""
    torch.manual_seed(0)
    lengths = [50, 20, 1] * 200
    mask_UF = torch.arange(50) < torch.tensor(lengths).unsqueeze(1)
    frames_UFM = torch.arange(50.0).view(1, -1, 1) + 100 * torch.arange(16.0)
    warped_UXM, mask_UX = VoiceWarp(0.2).train()(
        frames_UFM.expand(len(lengths), -1, -1) * mask_UF.unsqueeze(2), mask_UF
    )
    assert warped_UXM.shape == (*mask_UX.shape, 16)
    assert not warped_UXM[~mask_UX].any()
    new_lengths = mask_UX.sum(1).view(-1, 3)
    assert new_lengths.amin(0).tolist() == [40, 16, 1]
    assert new_lengths.amax(0).tolist() == [60, 24, 1]
    assert torch.equal(mask_UX, torch.arange(mask_UX.shape[1]) < new_lengths.view(-1, 1))
    longest = warped_UXM[::3]
    ends = longest[torch.arange(200), new_lengths[:, 0] - 1, 0]
    assert torch.allclose(ends, torch.tensor(49.0), atol=1e-2)  # the last frame is the last
    factors = longest[:, 0, 5] / 500
    assert 0.8 <= factors.min() < 0.83
    assert 1.17 < factors.max() <= 1.2


def test_a_voice_is_bent_in_parts_and_bands_keep_their_order() -> None:
    torch.manual_seed(0)
    frames_UFM = torch.arange(64.0).expand(400, 5, 64)
    warped_UFM, mask_UF = VoiceWarp(0.0, bend=6.0).train()(frames_UFM, torch.ones(400, 5, dtype=torch.bool))
    assert mask_UF.all()
    moved_UM = (warped_UFM - frames_UFM)[:, 0]
    assert torch.allclose(warped_UFM, warped_UFM[:, :1].expand_as(frames_UFM))
    assert 5 < moved_UM.max() < 6.01
    assert -6.01 < moved_UM.min() < -5
    # what is low and what is high move each by itself
    assert abs(float(torch.corrcoef(moved_UM[:, [16, 40]].T)[0, 1])) < 0.2
    assert warped_UFM[:, 0].diff(dim=1).min() > -1e-3


@pytest.mark.parametrize("module", [VoiceWarp(0.0).train(), VoiceWarp(0.3, 3.0).eval()])
def test_a_voice_stays_as_it_is(module: VoiceWarp) -> None:
    frames_UFM, mask_UF = torch.randn(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)
    assert module(frames_UFM, mask_UF) == (frames_UFM, mask_UF)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_the_share_of_a_warp(share: float) -> None:
    with pytest.raises(ValueError, match="warp is a share"):
        VoiceWarp(share)


@pytest.mark.parametrize("bend", [-1.0, 6.5])
def test_the_size_of_a_bend(bend: float) -> None:
    with pytest.raises(ValueError, match="bend must be 0 to 6 bands"):
        VoiceWarp(0.1, bend)
