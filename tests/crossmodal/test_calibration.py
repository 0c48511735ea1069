from __future__ import annotations

import pytest
import torch

from crossmodal.calibration import reliability


def test_bins_of_equal_count_against_a_literal_reference() -> None:
    draw = torch.Generator().manual_seed(0)
    sure_R = torch.rand(103, generator=draw)
    right_R = (torch.rand(103, generator=draw) < sure_R).float()
    found = reliability(sure_R, right_R, bins=7)
    pairs = sorted(zip(sure_R.tolist(), right_R.tolist(), strict=True))
    assert found.rows == [15, 15, 15, 15, 15, 14, 14]
    start, error = 0, 0.0
    for number, rows in enumerate(found.rows):
        part = pairs[start : start + rows]
        sure, right = (sum(column) / rows for column in zip(*part, strict=True))
        assert found.confidence[number] == pytest.approx(sure)
        assert found.accuracy[number] == pytest.approx(right)
        error += abs(sure - right) * rows / len(pairs)
        start += rows
    assert found.error == pytest.approx(error)


def test_who_is_as_sure_as_right_has_no_error_and_who_boasts_has() -> None:
    right_R = torch.tensor([1.0, 0.0] * 50)
    assert reliability(torch.full((100,), 0.5), right_R, bins=5).error == pytest.approx(0)
    assert reliability(torch.ones(100), right_R, bins=5).error == pytest.approx(0.5)


def test_fewer_rows_than_bins_and_none() -> None:
    found = reliability(torch.tensor([0.9, 0.2]), torch.tensor([1.0, 0.0]))
    assert found.rows == [1, 1]
    assert found.error == pytest.approx((0.1 + 0.2) / 2)
    with pytest.raises(ValueError, match="no row"):
        reliability(torch.tensor([]), torch.tensor([]))
