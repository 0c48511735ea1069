from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossmodal.replicas.compression import compress, decompress, num_bytes, to_eight_bits, top_k

HOWS = {
    "top_k": partial(top_k, share=0.1),
    "nearest": to_eight_bits,
    "random": lambda entry: to_eight_bits(entry, torch.Generator().manual_seed(0)),
}


def change(seed: int, size: tuple[int, ...] = (20, 10)) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {"weight": torch.randn(size, generator=draw), "batches": torch.tensor(seed)}


@given(st.integers(1, 200), st.floats(0.001, 1))
def test_the_largest_numbers_are_kept(size: int, share: float) -> None:
    entry = torch.randn(size, generator=torch.Generator().manual_seed(size))
    found = top_k(entry, share).dense()
    kept = found != 0
    assert int(kept.sum()) == max(1, min(size, -int(-share * size // 1)))
    assert torch.equal(found[kept], entry[kept])
    assert entry[kept].abs().min() >= entry[~kept].abs().max() if not kept.all() else True


@given(st.integers(0, 1000))
def test_eight_bits_are_off_by_a_step_at_most(seed: int) -> None:
    entry = change(seed)["weight"] * 10 ** (seed % 7 - 3)
    step = float(entry.abs().max()) / 127
    assert (to_eight_bits(entry).dense() - entry).abs().max() <= 0.5001 * step
    rounded = to_eight_bits(entry, torch.Generator().manual_seed(seed)).dense()
    assert (rounded - entry).abs().max() <= 1.0001 * step


def test_rounding_at_random_is_right_in_the_mean() -> None:
    entry = torch.tensor([1.0, 0.3333, -0.7777, 0.0])
    draw = torch.Generator().manual_seed(0)
    found = torch.stack([to_eight_bits(entry, draw).dense() for _ in range(4000)]).mean(0)
    assert (found - entry).abs().max() < 3e-4  # a step is 0.008


@pytest.mark.parametrize("how", HOWS)
def test_zeros_and_single_numbers_can_be_sent(how: str) -> None:
    for entry in (torch.zeros(3, 2), torch.tensor(2.5), torch.zeros(1)):
        found = HOWS[how](entry).dense()
        assert found.shape == entry.shape
        torch.testing.assert_close(found, entry)


@pytest.mark.parametrize("how", HOWS)
def test_what_is_lost_is_sent_later(how: str) -> None:
    """The sum of all that was sent is the sum of all changes, but for what is left."""
    left: dict[str, Tensor] = {}
    total, received = torch.zeros(20, 10), torch.zeros(20, 10)
    for number in range(30):
        own = change(number)
        sent, left = compress(own, left, HOWS[how])
        received += decompress(sent)["weight"]
        total += own["weight"]
        assert decompress(sent)["batches"].item() == number  # a counter is sent as it is
    torch.testing.assert_close(received + left["weight"], total, rtol=0, atol=1e-4)


def test_what_is_left_of_an_entry_that_does_not_change_is_kept() -> None:
    """As of an expert that no row of this round had."""
    first, left = compress({"a": torch.tensor([3.0, 1.0])}, {}, partial(top_k, share=0.5))
    _, left = compress({"b": torch.tensor([5.0, 2.0])}, left, partial(top_k, share=0.5))
    assert {name: value.tolist() for name, value in left.items()} == {"a": [0.0, 1.0], "b": [0.0, 2.0]}
    later, _ = compress({"a": torch.zeros(2)}, left, partial(top_k, share=0.5))
    assert (decompress(first)["a"] + decompress(later)["a"]).tolist() == [3.0, 1.0]


def test_bytes_are_counted() -> None:
    own = {"weight": torch.randn(1000), "batches": torch.tensor(1)}
    assert num_bytes(own) == 4000 + 8
    assert num_bytes(compress(own, {}, partial(top_k, share=0.01))[0]) == 10 * (4 + 4) + 8
    assert num_bytes(compress(own, {}, to_eight_bits)[0]) == 1000 + 4 + 8
    with pytest.raises(ValueError, match="share must be above 0"):
        top_k(torch.ones(2), 0.0)
    with pytest.raises(ValueError, match="not finite"):
        to_eight_bits(torch.tensor([1.0, torch.nan]))
