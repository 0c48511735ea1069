"""Legend: U distinct inputs, B rows, N tokens, D width, L workspace tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from crossmodal.fusion import ConcatFusion, Fusion, MeanFusion, WorkspaceFusion
from crossmodal.heads import ClassificationHead, RegressionHead
from crossmodal.model import CrossModalModel, Projection, finite_inputs
from datamodules.batch import PairedBatch
from experts.base import Expert, ExpertTokens
from tests.transforms import AsItIs

IN, WIDTH = 3, 16


class Tiny(Expert):
    """Two tokens an input; keeps how many inputs each call had."""

    def __init__(self, width: int, *, freeze: bool) -> None:
        super().__init__(nn.Linear(IN, 2 * width), width=width, transform=AsItIs(), freeze=freeze)
        self.calls: list[int] = []

    def encode(self, inputs: Tensor) -> ExpertTokens:
        self.calls.append(len(inputs))
        tokens_UND = self.network(inputs).unflatten(-1, (2, self.width))
        return ExpertTokens(tokens_UND, torch.tensor([True, True]).repeat(len(inputs), 1))


FUSIONS = {
    "concat": lambda names: ConcatFusion(names, width=WIDTH, hidden=32),
    "mean": lambda names: MeanFusion(names, width=WIDTH),
    "workspace": lambda names: WorkspaceFusion(names, width=WIDTH, top_k=2),
}


def test_a_frozen_expert_with_a_parameter_of_its_own_is_refused() -> None:
    expert = Tiny(5, freeze=True)
    expert.scale = nn.Parameter(torch.ones(5))
    with pytest.raises(ValueError, match=r"experts\.image: Tiny is frozen, but its parameter 'scale' is not part of"):
        CrossModalModel({"image": expert}, ConcatFusion(["image"], width=WIDTH), {})
    expert.frozen = False
    CrossModalModel({"image": expert}, ConcatFusion(["image"], width=WIDTH), {})


@pytest.fixture(params=FUSIONS)
def model(request: pytest.FixtureRequest) -> CrossModalModel:
    torch.manual_seed(0)
    experts = {"image": Tiny(5, freeze=False), "question": Tiny(7, freeze=True)}
    fusion: Fusion = FUSIONS[request.param](list(experts))
    return CrossModalModel(
        experts, fusion, {"answer": ClassificationHead(WIDTH, 4), "price": RegressionHead(WIDTH, 1)}
    ).eval()


def batch_of(index: dict[str, list[int]], *, seed: int = 0) -> PairedBatch:
    draw = torch.Generator().manual_seed(seed)
    counts = {modality: max(positions) + 1 for modality, positions in index.items()}
    return PairedBatch(
        inputs={modality: torch.randn(count, IN, generator=draw) for modality, count in counts.items() if count},
        index={modality: torch.tensor(positions) for modality, positions in index.items()},
        targets={},
        ids=[f"row {row}" for row in range(len(index["image"]))],
    )


def row_of(batch: PairedBatch, row: int) -> PairedBatch:
    inputs, index = {}, {}
    for modality, index_B in batch.index.items():
        position = int(index_B[row])
        index[modality] = torch.tensor([min(position, 0)])
        if position >= 0:
            inputs[modality] = batch.inputs[modality][[position]]
    return PairedBatch(inputs, index, {}, [batch.ids[row]])


SHARED = {"image": [0, 0, 0, 1, -1, -1], "question": [0, 1, 0, 1, 1, -1]}


def calls(model: CrossModalModel) -> dict[str, list[int]]:
    return {modality: expert.calls for modality, expert in model.experts.items()}  # type: ignore[misc]


def test_outputs_by_task(model: CrossModalModel) -> None:
    outputs = model(batch_of(SHARED))
    assert {task: tuple(value.shape) for task, value in outputs.items()} == {"answer": (6, 4), "price": (6, 1)}


def test_a_shared_input_is_encoded_once(model: CrossModalModel) -> None:
    model(batch_of(SHARED))
    assert calls(model) == {"image": [2], "question": [2]}


def test_an_absent_modality_is_not_encoded(model: CrossModalModel) -> None:
    outputs = model(batch_of({"image": [-1, -1], "question": [0, -1]}))
    assert calls(model) == {"image": [], "question": [1]}
    assert all(value.isfinite().all() for value in outputs.values())


def test_rows_one_by_one_give_the_same(model: CrossModalModel) -> None:
    batch = batch_of(SHARED)
    together = model(batch)
    alone = [model(row_of(batch, row)) for row in range(len(batch))]
    for task, outputs_BC in together.items():
        assert_close(torch.cat([row[task] for row in alone]), outputs_BC, atol=1e-5, rtol=1e-5)


def test_tokens_made_earlier_give_the_same(model: CrossModalModel) -> None:
    batch = batch_of(SHARED)
    tokens = {modality: expert(batch.inputs[modality]) for modality, expert in model.experts.items()}
    stored = PairedBatch(tokens, batch.index, {}, batch.ids)
    expected = model(batch)
    for task, outputs_BC in model(stored).items():
        assert torch.equal(outputs_BC, expected[task])


def test_without_is_absent_in_every_row(model: CrossModalModel) -> None:
    batch = batch_of(SHARED)
    without = batch.without("image")
    assert without.inputs.keys() == {"question"}
    assert not without.present("image").any()
    assert torch.equal(without.index["question"], batch.index["question"])
    assert "image" in batch.inputs  # the batch itself stays as it is
    expected = model(without)
    assert_close(model(row_of(without, 4))["answer"][0], expected["answer"][4], atol=1e-5, rtol=1e-5)
    assert_close(model(batch)["answer"][4:], expected["answer"][4:], atol=1e-5, rtol=1e-5)
    assert (model(batch)["answer"][:4] - expected["answer"][:4]).abs().amax(1).min() > 1e-4
    nothing = model(batch.without("image", "question"))["answer"]
    assert_close(nothing, nothing[:1].expand_as(nothing))


def test_gradients_reach_what_trains(model: CrossModalModel) -> None:
    model(batch_of({"image": [-1, 0, 0], "question": [-1, -1, 0]}))["answer"].square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith("experts.question."):
            assert not parameter.requires_grad
        elif not name.startswith("heads.price."):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_stored_tokens_of_half_precision_are_projected_in_full() -> None:
    torch.manual_seed(0)
    projection = Projection(5, WIDTH)
    tokens_UND = torch.randn(3, 2, 5).bfloat16()
    mask_UN = torch.ones(3, 2, dtype=torch.bool)
    projected = projection(ExpertTokens(tokens_UND, mask_UN))
    assert projected.tokens_BND.dtype == torch.float32
    assert torch.equal(projected.tokens_BND, projection(ExpertTokens(tokens_UND.float(), mask_UN)).tokens_BND)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_which_inputs_are_finite(dtype: torch.dtype) -> None:
    tokens_UND = torch.full((6, 2, 4), torch.finfo(torch.float16).min, dtype=dtype)
    mask_UN = torch.ones(6, 2, dtype=torch.bool)
    for number, value in enumerate((torch.nan, torch.inf, -torch.inf, torch.finfo(dtype).min)):
        tokens_UND[number, 1, 2] = value
    tokens_UND[4, 1] = torch.nan
    mask_UN[4, 1] = False  # what is no token is not looked at
    all_can_be_squared = dtype == torch.float16  # in float32
    expected = [False, False, False, all_can_be_squared, True, True]
    assert finite_inputs(ExpertTokens(tokens_UND, mask_UN)).tolist() == expected
    assert finite_inputs(ExpertTokens(tokens_UND[:, :0], mask_UN[:, :0])).all()


def test_numbers_that_are_finite_together_can_be_squared_and_added() -> None:
    tokens_UND = torch.full((1, 1000, 1000), 0.9e15)
    assert finite_inputs(ExpertTokens(tokens_UND, torch.ones(1, 1000, dtype=torch.bool))).all()
    assert tokens_UND.square().sum().isfinite()


def test_a_row_without_any_modality_gets_the_prior(model: CrossModalModel) -> None:
    batch = batch_of({"image": [0, -1, 1, -1], "question": [-1, -1, 0, 1]})
    before = model(batch)
    model.heads["answer"].learn_prior(torch.tensor([0, 0, 1, 3]))
    model.heads["price"].learn_prior(torch.tensor([[2.0], [4.0]]))
    after = model(batch)
    assert_close(after["answer"][1].softmax(0), torch.tensor([3.0, 2.0, 1.0, 2.0]) / 8)
    assert after["price"][1].tolist() == [3.0]
    assert torch.equal(before["answer"][[0, 2, 3]], after["answer"][[0, 2, 3]])
    assert_close(before["price"][[0, 2, 3]] + 3, after["price"][[0, 2, 3]])  # about the mean, the deviation being 1
