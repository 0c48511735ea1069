"""How like those of training inputs are."""

from __future__ import annotations

import pytest
import torch

from crossmodal.familiarity import Familiarity


@pytest.fixture
def familiarity() -> Familiarity:
    torch.manual_seed(0)
    learned = Familiarity(16)
    for _ in range(50):
        learned.learn(drawn(64))
    return learned


def drawn(count: int) -> torch.Tensor:
    return torch.randn(count, 16) * torch.linspace(0.1, 3, 16) + 5


def test_distance_is_that_of_mahalanobis(familiarity: Familiarity) -> None:
    inputs_UD = drawn(4000)
    for _ in range(500):
        familiarity.learn(inputs_UD)
    along_UK = (inputs_UD @ familiarity.directions_DK).double()
    covariance_KK = torch.cov(along_UK.T, correction=0)
    covariance_KK += 0.01 * covariance_KK.diagonal().mean() * torch.eye(16)
    off_UK = along_UK - along_UK.mean(0)
    expected_U = torch.stack([(off @ covariance_KK.inverse() @ off / 16).sqrt() for off in off_UK[:50]])
    found_U = familiarity._distance(inputs_UD[:50] @ familiarity.directions_DK).double()
    torch.testing.assert_close(found_U, expected_U, rtol=0.02, atol=0.02)


def test_what_is_far_is_new(familiarity: Familiarity) -> None:
    assert familiarity.novelty(drawn(200)).mean() < 0.25
    assert familiarity.novelty(drawn(200) + 3 * torch.randn(200, 16)).mean() > 0.6
    assert familiarity.novelty(torch.full((2, 16), torch.nan)).eq(1).all()


def test_what_is_stuck_is_stale(familiarity: Familiarity) -> None:
    assert familiarity.staleness(drawn(64)) == 0
    assert familiarity.staleness(drawn(1)) == 0  # of one input nothing can be said
    assert familiarity.staleness(drawn(1).expand(64, -1)) > 0.9
    assert familiarity.staleness(drawn(0)) == 0


def test_it_is_kept(familiarity: Familiarity) -> None:
    other = Familiarity(16)
    other.load_state_dict(familiarity.state_dict())
    inputs_UD = drawn(8)
    assert torch.equal(other.novelty(inputs_UD), familiarity.novelty(inputs_UD))


@pytest.mark.parametrize("count", [1, 4, 64])
@pytest.mark.parametrize("mean", [0.0, 100.0, 1000.0])
def test_tokens_far_from_zero_or_all_alike(mean: float, count: int) -> None:
    draw = torch.Generator().manual_seed(0)
    for deviation in (1.0, 0.0):
        familiarity = Familiarity(16)
        for _ in range(50):
            means_UD = mean + deviation * torch.randn(count, 16, generator=draw)
            means_UD[:, 0] = torch.nan if count == 1 else mean
            familiarity.learn(means_UD)
        usual_U = familiarity.novelty(mean + deviation * torch.randn(64, 16, generator=draw))
        assert usual_U.isfinite().all()
        if count == 64 and deviation:
            assert usual_U.mean() < 0.5 < familiarity.novelty(mean + 20 * torch.randn(64, 16, generator=draw)).mean()


def test_it_is_the_covariance_of_all_that_came() -> None:
    draw = torch.Generator().manual_seed(0)
    familiarity = Familiarity(4)
    batches = [5 + torch.randn(8, 4, generator=draw) for _ in range(10)]
    for means_UD in batches:
        familiarity.learn(means_UD)
    along_UK = torch.cat(batches) @ familiarity.directions_DK
    torch.testing.assert_close(familiarity.mean_K, along_UK.mean(0), atol=1e-4, rtol=1e-4)
    expected_KK = (along_UK - along_UK.mean(0)).T @ (along_UK - along_UK.mean(0)) / 80
    torch.testing.assert_close(familiarity.covariance_KK, expected_KK, atol=1e-4, rtol=1e-4)
