from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from crossmodal.confusion import confusion


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=40), st.integers(1, 8))
def test_it_counts_what_is_shown_of_the_classes_that_are_mistaken_most(pairs: list[tuple[int, int]], most: int) -> None:
    targets, said = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    chosen, counts = confusion(targets, said, 6, most=most)
    numbers = chosen.tolist()
    assert numbers == sorted(set(numbers))
    assert len(numbers) == min(6, most)
    for row, target in enumerate(numbers):
        for column, answer in enumerate(numbers):
            assert counts[row, column] == pairs.count((target, answer))
    wrong = [sum(a != b and number in (a, b) for a, b in pairs) for number in range(6)]
    assert min(wrong[number] for number in numbers) >= max(
        (wrong[number] for number in range(6) if number not in numbers), default=0
    )


def test_of_very_many_classes_the_most_mistaken_are_shown() -> None:
    """All against all would be 10 billion counts."""
    classes = 100_000
    targets = torch.arange(0, classes, 500)
    said = targets.clone()
    said[:5] = targets[5:10]
    chosen, counts = confusion(targets, said, classes, most=30)
    assert {*targets[:10].tolist()} <= {*chosen.tolist()}
    assert counts[0].nonzero().tolist() == [[5]]
    assert counts.sum() == 30  # of each class one row, all of whose answers are shown, too
