"""Legend: B rows of a batch, U distinct inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from datamodules.batch import ABSENT, PairedBatch, gather_rows, scatter_rows
from experts.base import ExpertTokens


@st.composite
def pairings(draw: st.DrawFn) -> tuple[Tensor, int]:
    num_inputs = draw(st.integers(0, 6))
    rows = draw(st.lists(st.integers(ABSENT, num_inputs - 1), max_size=9))
    return torch.tensor(rows, dtype=torch.int64), num_inputs


shapes = st.sampled_from([(), (3,), (2, 3), (0,)])
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool])


def values(count: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(count, *shape, generator=torch.Generator().manual_seed(count)) * 3
    if dtype.is_floating_point and drawn.numel() > 2:
        drawn.view(-1)[:3] = torch.tensor([torch.nan, -0.0, -torch.inf])
    return drawn.to(dtype)


def same_bits(left: Tensor, right: Tensor) -> bool:
    return (left.shape, left.dtype) == (right.shape, right.dtype) and torch.equal(
        left.flatten().view(torch.uint8), right.flatten().view(torch.uint8)
    )


def used(index_B: Tensor, num_inputs: int) -> Tensor:
    return torch.isin(torch.arange(num_inputs), index_B)


@given(pairings(), shapes, dtypes)
def test_gather_gives_each_row_its_own_input(
    pairing: tuple[Tensor, int], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    index_B, num_inputs = pairing
    values_U = values(num_inputs, shape, dtype)
    expected = [values_U[row] if row >= 0 else torch.zeros(shape, dtype=dtype) for row in index_B.tolist()]
    expected_B = torch.stack(expected) if expected else values_U.new_zeros((0, *shape))
    assert same_bits(gather_rows(values_U, index_B), expected_B)


@given(pairings(), shapes, dtypes)
def test_scatter_and_gather_are_inverses(
    pairing: tuple[Tensor, int], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    index_B, num_inputs = pairing
    values_U = values(num_inputs, shape, dtype)
    rows_B = gather_rows(values_U, index_B)
    expected_U = values_U.clone()
    expected_U[~used(index_B, num_inputs)] = 0
    scattered_U = scatter_rows(rows_B, index_B, num_inputs)
    assert same_bits(scattered_U, expected_U)
    assert same_bits(gather_rows(scattered_U, index_B), rows_B)


@given(pairings())
def test_scatter_ignores_what_stands_in_rows_without_the_modality(pairing: tuple[Tensor, int]) -> None:
    index_B, num_inputs = pairing
    rows_B = gather_rows(values(num_inputs, (3,)), index_B)
    expected_U = scatter_rows(rows_B, index_B, num_inputs)
    rows_B[index_B < 0] = torch.nan
    assert same_bits(scatter_rows(rows_B, index_B, num_inputs), expected_U)


@given(pairings(), st.sampled_from([torch.nan, torch.inf]))
def test_gather_sends_gradients_only_to_inputs_that_some_row_has(pairing: tuple[Tensor, int], unused: float) -> None:
    index_B, num_inputs = pairing
    used_U = used(index_B, num_inputs)
    values_U = torch.randn(num_inputs, 2, generator=torch.Generator().manual_seed(0))
    values_U[~used_U] = unused
    values_U.requires_grad_()
    rows_B = gather_rows(values_U, index_B)
    weights_B = torch.arange(1.0, len(index_B) + 1).unsqueeze(1)
    loss = (rows_B * weights_B).sum() + 0 * values_U[used_U].sum()
    assert torch.isfinite(loss)
    loss.backward()
    present_B = index_B >= 0
    expected_U = torch.zeros(num_inputs, 2).index_add(0, index_B[present_B], weights_B[present_B].expand(-1, 2))
    assert values_U.grad is not None
    assert torch.equal(values_U.grad, expected_U)


@given(pairings(), st.sampled_from([torch.nan, torch.inf]))
def test_scatter_sends_gradients_only_to_rows_with_the_modality(pairing: tuple[Tensor, int], absent: float) -> None:
    index_B, num_inputs = pairing
    rows_B = gather_rows(torch.ones(num_inputs, 2), index_B)
    rows_B[index_B < 0] = absent
    rows_B.requires_grad_()
    weights_U = torch.arange(1.0, num_inputs + 1).unsqueeze(1)
    (scatter_rows(rows_B, index_B, num_inputs) * weights_U).sum().backward()
    assert rows_B.grad is not None
    assert torch.equal(rows_B.grad[index_B < 0], torch.zeros(int((index_B < 0).sum()), 2))
    # what each input gets in all stays its own, whichever of its rows is read
    total_U = torch.zeros(num_inputs, 2).index_add(0, index_B[index_B >= 0], rows_B.grad[index_B >= 0])
    assert torch.equal(total_U, (weights_U * used(index_B, num_inputs).unsqueeze(1)).expand(-1, 2))


@given(pairings())
def test_batch_knows_who_has_what(pairing: tuple[Tensor, int]) -> None:
    index_B, num_inputs = pairing
    ids = [f"row {number}" for number in range(len(index_B))]
    inputs = {"image": values(num_inputs, (3,))} if num_inputs else {}
    batch = PairedBatch(inputs=inputs, index={"image": index_B}, targets={"answer": index_B}, ids=ids)
    assert len(batch) == len(ids)
    assert batch.present("image").tolist() == [position >= 0 for position in index_B.tolist()]


def two_rows(**changes: Any) -> PairedBatch:
    return PairedBatch(
        **{
            "inputs": {"image": torch.ones(1, 3), "question": {"pieces": torch.ones(2, 4), "raw": ["a", "b"]}},
            "index": {"image": torch.tensor([0, ABSENT]), "question": torch.tensor([1, 0])},
            "targets": {"answer": torch.tensor([3, 4])},
            "ids": ["one", "two"],
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": {"image": torch.tensor([0, 0], dtype=torch.int32)}, "inputs": {}}, "'image'.*int64.*int32"),
        ({"index": {"image": torch.tensor([0.0, 0.0])}, "inputs": {}}, "'image'.*int64.*float32"),
        ({"index": {"image": torch.tensor([0, 0, 0])}, "inputs": {}}, r"'image'.*\(2,\).*\(3,\)"),
        ({"index": {"image": torch.tensor([[0], [0]])}, "inputs": {}}, r"'image'.*\(2,\).*\(2, 1\)"),
        ({"index": {"image": torch.tensor([0, 0])}}, r"without an index: \['question'\]"),
        ({"targets": {"answer": torch.tensor([1])}}, "'answer' have 1 rows, the batch has 2"),
    ],
)
def test_batch_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        two_rows(**changes)


def test_without_takes_modalities_from_all_rows() -> None:
    batch = two_rows()
    fewer = batch.without("image")
    assert not fewer.present("image").any()
    assert fewer.inputs.keys() == {"question"}
    assert fewer.index["image"].dtype == torch.int64
    assert fewer.index["question"] is batch.index["question"]
    assert fewer.targets is batch.targets
    assert batch.present("image").tolist() == [True, False]
    assert batch.without("image", "question").inputs == {}
    assert batch.without().inputs == batch.inputs


def test_to_moves_all_tensors_and_leaves_the_rest() -> None:
    tokens = ExpertTokens(torch.ones(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
    moved = two_rows(inputs={"image": tokens, "question": {"pieces": torch.ones(2, 4), "raw": ["a", "b"]}}).to("meta")
    tensors = [moved.inputs["image"].tokens_BND, moved.inputs["image"].mask_BN, moved.inputs["question"]["pieces"]]
    assert {tensor.device.type for tensor in [*tensors, *moved.index.values(), *moved.targets.values()]} == {"meta"}
    assert moved.inputs["question"]["raw"] == ["a", "b"]
    assert moved.ids == ["one", "two"]


def test_some_rows_over_the_same_inputs() -> None:
    inputs = {"a": torch.arange(3)}
    index = {"a": torch.tensor([2, ABSENT, 0])}
    batch = PairedBatch(inputs, index, {"answer": torch.tensor([4, 5, 6])}, ["x", "y", "z"], {"a": torch.arange(3)})
    chosen = batch.select(torch.tensor([True, False, True]))
    assert chosen.inputs is batch.inputs
    assert (chosen.index["a"].tolist(), chosen.targets["answer"].tolist(), chosen.ids) == ([2, 0], [4, 6], ["x", "z"])


def test_some_rows_without_the_inputs_of_others() -> None:
    inputs = {"a": {"raw": ["k", "l", "m"], "x": torch.arange(6).view(3, 2)}, "b": torch.arange(2)}
    index = {"a": torch.tensor([2, ABSENT, 0, 1, 2]), "b": torch.tensor([0, 1, ABSENT, 0, 0])}
    positions = {"a": torch.tensor([10, 11, 12]), "b": torch.tensor([7, 8])}
    batch = PairedBatch(inputs, index, {"answer": torch.arange(5)}, list("vwxyz"), positions)
    some = batch.take(torch.tensor([4, 2]))
    assert some.inputs["a"]["raw"] == ["k", "m"]
    assert some.inputs["a"]["x"].tolist() == [[0, 1], [4, 5]]
    assert (some.index["a"].tolist(), some.positions["a"].tolist()) == ([1, 0], [10, 12])
    assert (some.index["b"].tolist(), some.inputs["b"].tolist(), some.positions["b"].tolist()) == ([0, -1], [0], [7])
    assert (some.ids, some.targets["answer"].tolist()) == (["z", "x"], [4, 2])


def test_keeping_some_inputs() -> None:
    inner = PairedBatch({"c": torch.arange(2)}, {"c": torch.tensor([1, 0, 1])}, {}, list("pqr"))
    index = {"a": torch.tensor([2, 0, 1]), "b": torch.tensor([0, ABSENT, 1])}
    batch = PairedBatch({"a": inner, "b": torch.arange(2)}, index, {}, list("xyz"))
    kept = batch.keeping({"a": torch.tensor([True, False, True]), "b": torch.zeros(3, dtype=torch.bool)})
    assert "b" not in kept.inputs
    assert kept.index["b"].tolist() == [-1] * 3
    assert kept.index["a"].tolist() == [1, ABSENT, 0]
    assert (kept.inputs["a"].ids, kept.inputs["a"].index["c"].tolist()) == (["q", "r"], [0, 1])
    assert batch.index is index  # as it was
    with pytest.raises(TypeError, match=r"collated inputs may be tensors, .*, not str"):
        PairedBatch({"a": "raw"}, {"a": torch.zeros(1, dtype=torch.int64)}, {}, ["x"]).take(torch.tensor([0]))
