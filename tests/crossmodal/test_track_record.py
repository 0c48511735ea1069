"""What is known of the members of a mixture."""

from __future__ import annotations

import torch

from crossmodal.track_record import GAIN, SLOWEST, TrackRecord


def test_a_mean_that_becomes_a_running_one() -> None:
    record = TrackRecord(3)
    present_BM = torch.tensor([[True, True, False], [True, False, False]])
    losses = []
    for number in range(80):
        losses_BM = torch.full((2, 3), float(number))
        losses_BM[1, 1] = torch.nan  # it did not answer
        record.note(losses_BM, torch.ones(2, 3), present_BM)
        losses.append(number)
    expected = 0.0
    for number, loss in enumerate(losses):
        expected += max(1 / (number + 1), SLOWEST) * (loss - expected)
    torch.testing.assert_close(record.loss_M, torch.tensor([expected, expected, 1.0]))
    assert record.accuracy_M.tolist() == [1, 1, 0]
    assert record.batches_M.tolist() == [80, 80, 0]


def test_gain_of_one() -> None:
    record = TrackRecord(3)
    record.note_gain(1, torch.tensor(2.0), 0.5)
    assert torch.equal(record.gain_M, torch.tensor([0, 2.0 * GAIN * 0.5, 0]))
    assert record().shape == (3, 3)
    assert record().abs().max() <= 1
