from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from crossmodal.replicas.aggregation import mean
from crossmodal.replicas.engine import Hiding
from crossmodal.replicas.masking import hidden, opened

AMONG = (0, 3, 4)


def states(seed: int, count: int) -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [{"w": torch.randn(50, 2, generator=draw), "b": torch.randn((), generator=draw)} for _ in range(count)]


def parts(changes: list[dict[str, Tensor]], weights: list[float], began: dict[str, Tensor], secret: str = "words"):  # type: ignore[no-untyped-def]
    return [
        hidden(change, began, weight=weight, node=node, hiding=Hiding(AMONG, "once"), secret=secret)
        for change, weight, node in zip(changes, weights, AMONG, strict=True)
    ]


@given(
    seed=st.integers(0, 1000),
    weights=st.lists(st.integers(1, 100_000).map(float), min_size=3, max_size=3),
    lacking=st.sets(st.tuples(st.integers(0, 2), st.sampled_from("wb"))),
)
def test_the_sum_is_the_mean_of_what_was_hidden(seed: int, weights: list[float], lacking: set[tuple[int, str]]) -> None:
    began, *changes = states(seed, 4)
    changes = [
        {name: value for name, value in change.items() if (number, name) not in lacking}
        for number, change in enumerate(changes)
    ]
    found = opened(parts(changes, weights, began), began, weight=sum(weights))
    wanted = (
        mean([{name: began[name] + value for name, value in change.items()} for change in changes], weights)
        if any(changes)
        else {}
    )
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_part_tells_nothing() -> None:
    began = {"w": torch.zeros(50, 2), "b": torch.zeros(50, 2)}
    changes = [{name: torch.full_like(value, 1e-3) for name, value in began.items()}] * 3
    one, other, last = parts(changes, [1.0, 1.0, 1.0], began)
    # of what is small and alike all bits but a few are 0; nor do two of three tell
    for part in (one["w"], other["w"], last["w"], one["w"] + other["w"], one["w"] - other["w"], one["w"] - one["b"]):
        bits = torch.stack([(part >> place) & 1 for place in range(64)]).double().mean((1, 2))
        assert ((bits - 0.5).abs() < 0.25).all()  # as coins fall
    pair = [
        hidden(changes[0], began, weight=1.0, node=node, hiding=Hiding((0, 3), "once"), secret="words")["w"]
        for node in (0, 3)
    ]
    assert not torch.equal(pair[0], one["w"] + last["w"])  # among others it hides otherwise
    apart = parts(changes, [1.0, 1.0, 1.0], began, secret="other words")
    assert not torch.equal(apart[0]["w"], one["w"])
    again = hidden(changes[0], began, weight=1.0, node=0, hiding=Hiding(AMONG, "twice"), secret="words")
    assert not torch.equal(again["w"], one["w"])


def test_masks_of_unlike_secrets_do_not_cancel() -> None:
    began, *changes = states(0, 4)
    one, other, _ = parts(changes, [1.0, 1.0, 1.0], began)
    last = parts(changes, [1.0, 1.0, 1.0], began, secret="other words")[2]
    with pytest.raises(ValueError, match="is CROSSMODAL_REPLICAS_SECRET the same at all of them"):
        opened([one, other, last], began, weight=3.0)


def test_what_cannot_be_hidden_is_refused() -> None:
    began, change = states(0, 2)
    how = {"weight": 1.0, "node": 0}
    with pytest.raises(ValueError, match="knows no secret: set CROSSMODAL_REPLICAS_SECRET"):
        hidden(change, began, **how, hiding=Hiding(AMONG, "once"), secret="")
    with pytest.raises(ValueError, match="it takes two"):
        hidden(change, began, **how, hiding=Hiding((0,), "once"), secret="words")
    for wrong in (torch.nan, torch.inf, 1e15):
        with pytest.raises(ValueError, match="w has changed by more than can be hidden"):
            hidden({"w": change["w"] + wrong}, began, **how, hiding=Hiding(AMONG, "once"), secret="words")
