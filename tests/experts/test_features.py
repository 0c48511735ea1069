"""Legend: U inputs, N tokens, D features."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from crossmodal.fusion import ConcatFusion, Fusion, WorkspaceFusion
from crossmodal.heads import ClassificationHead
from crossmodal.model import CrossModalModel
from datamodules.batch import PairedBatch
from experts.base import Expert
from experts.features import FeatureExpert, FeatureTransform, Moments, Standardize


def collated(expert: Expert, raws: Sequence[Any]) -> Any:
    return expert.transform.collate([expert.transform(raw) for raw in raws])


def trained_accuracy(
    build: Callable[[], Expert],
    raws: Sequence[Any],
    labels: Sequence[int],
    *,
    steps: int = 60,
    fusion: type[Fusion] = ConcatFusion,
) -> float:
    """Learn statistics and labels of all inputs; return the share of inputs that it then gets right."""
    torch.manual_seed(0)
    expert = build()
    inputs, targets = collated(expert, raws), torch.tensor(labels)
    ids = [str(row) for row in range(len(raws))]
    batch = PairedBatch({"x": inputs}, {"x": torch.arange(len(raws))}, {"y": targets}, ids)
    assert expert.needs_statistics
    expert.learn_statistics([inputs])
    model = CrossModalModel({"x": expert}, fusion(["x"], width=32), {"y": ClassificationHead(32, 2)})
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model.heads["y"].loss(model(batch)["y"], targets).backward()
        optimizer.step()
    with torch.no_grad():
        return float((model.eval()(batch)["y"].argmax(1) == targets).float().mean())


def check_checkpoint(expert: Expert, fresh: Expert, inputs: Any) -> None:
    """What is learned of the training split comes back by a checkpoint that only holds tensors."""
    assert fresh.needs_statistics
    with pytest.raises(ValueError, match="has no statistics of the training split"):
        fresh(inputs)
    expert.learn_statistics([inputs])
    file = io.BytesIO()
    torch.save(expert.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert not fresh.needs_statistics
    expected, actual = expert.eval()(inputs), fresh.eval()(inputs)
    assert torch.equal(actual.tokens_BND, expected.tokens_BND)
    assert torch.equal(actual.mask_BN, expected.mask_BN)


def check_travels(expert: Expert, raws: Sequence[Any]) -> None:
    """Transform and inputs survive workers, and the way to a device; every tensor can be pinned."""
    transform = pickle.loads(pickle.dumps(expert.transform))
    inputs = pickle.loads(pickle.dumps(transform.collate([transform(raw) for raw in raws])))
    inputs = move_data_to_device(inputs, torch.device("cpu"))
    batch = PairedBatch({"x": inputs}, {"x": torch.arange(len(raws))}, {}, [""] * len(raws))
    moved = batch.to("meta").inputs["x"]
    leaves, _ = torch.utils._pytree.tree_flatten(moved)
    assert all(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves)
    expert.eval()
    expected, actual = expert(collated(expert, raws)), expert(inputs)
    assert torch.equal(actual.tokens_BND, expected.tokens_BND)
    assert torch.equal(expected.tokens_BND, expert(collated(expert, raws)).tokens_BND)


def check_learns(expert: Expert, inputs: Any) -> None:
    """Every parameter gets a finite gradient, and some get one that is not zero."""
    expert.train()
    expert(inputs).tokens_BND.square().sum().backward()
    gradients = [parameter.grad for parameter in expert.parameters()]
    assert gradients
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(float(gradient.abs().sum()) for gradient in gradients if gradient is not None) > 0
    assert expert.why_not_stored() == "it is trained"


def vectors(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


RAWS = [vectors(4), vectors(3, 4), vectors(1, 4)]


def fitted(**arguments: Any) -> FeatureExpert:
    torch.manual_seed(0)
    expert = FeatureExpert(4, **arguments)
    expert.learn_statistics([collated(expert, RAWS)])
    return expert.eval()


def test_moments_of_batches_are_those_of_the_whole() -> None:
    values_ND = 1e4 + torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values_ND[:, 2] *= 50
    moments = Moments(3)
    for batch_ND in values_ND.split(77):
        moments.add(batch_ND)
    mean_D, std_D = moments.mean_and_std()
    assert moments.num_vectors == 1000
    assert torch.allclose(mean_D, values_ND.mean(0).float(), rtol=1e-6)
    assert torch.allclose(std_D, values_ND.std(0, correction=0).float(), rtol=1e-6)


def test_moments_leave_missing_values_out() -> None:
    moments = Moments(3)
    moments.add(torch.tensor([[1, torch.nan, torch.nan], [3, torch.nan, torch.nan]]))
    moments.add(torch.tensor([[5, 7, torch.nan]]))
    mean_D, std_D = moments.mean_and_std()
    assert torch.allclose(mean_D, torch.tensor([3.0, 7.0, 0.0]))
    assert torch.allclose(std_D, torch.tensor([(8 / 3) ** 0.5, 1.0, 1.0]))


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30, 3e38])
def test_a_constant_feature_is_not_divided_by_zero(value: float) -> None:
    moments = Moments(1)
    for size in (3, 7, 1):
        moments.add(torch.full((size, 1), value))
    standardize = Standardize(1)
    standardize.learn(moments)
    assert standardize.std_D == 1
    assert torch.equal(standardize(torch.full((2, 1), value)), torch.zeros(2, 1))
    assert standardize(torch.tensor([[-3e38], [3e38]])).isfinite().all()


def test_training_values_of_all_sizes_stay_finite() -> None:
    values_ND = torch.tensor([[3e38, 1e-38], [-3e38, 2e-38], [0.0, 3e-38]])
    moments = Moments(2)
    moments.add(values_ND)
    standardize = Standardize(2)
    standardize.learn(moments)
    assert standardize(values_ND).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_cast_expert_takes_float32(dtype: torch.dtype) -> None:
    assert fitted().to(dtype)(collated(fitted(), RAWS)).tokens_BND.dtype == dtype


def test_vectors_and_sequences_become_tokens() -> None:
    tokens = fitted(width=6)(collated(fitted(), RAWS))
    assert tokens.tokens_BND.shape == (3, 3, 6)
    assert tokens.mask_BN.tolist() == [[True, False, False], [True, True, True], [True, False, False]]


def test_padding_changes_nothing() -> None:
    expert = fitted()
    together = expert(collated(expert, RAWS))
    for row, raw in enumerate(RAWS):
        alone = expert(collated(expert, [raw]))
        assert torch.allclose(together.tokens_BND[row][together.mask_BN[row]], alone.tokens_BND[0], atol=1e-6)
        assert not together.tokens_BND[row][~together.mask_BN[row]].any()


def test_statistics_leave_padding_out() -> None:
    expert = FeatureExpert(4)
    expert.learn_statistics([collated(expert, RAWS[:1]), collated(expert, RAWS[1:])])
    values_ND = torch.from_numpy(np.concatenate([raw.reshape(-1, 4) for raw in RAWS]))
    assert expert.standardize.count == 5
    assert torch.allclose(expert.standardize.mean_D, values_ND.mean(0), atol=1e-6)
    assert torch.allclose(expert.standardize.std_D, values_ND.std(0, correction=0), atol=1e-6)


def test_statistics_are_learned_anew() -> None:
    expert = fitted()
    before = copy.deepcopy(expert.standardize.state_dict())
    expert.learn_statistics([collated(expert, RAWS)])
    assert all(torch.equal(value, before[name]) for name, value in expert.standardize.state_dict().items())


def test_no_input_teaches_nothing() -> None:
    expert = FeatureExpert(4)
    expert.learn_statistics([])
    assert expert.needs_statistics


def test_max_length_cuts_and_tells() -> None:
    transform = FeatureTransform(4, max_length=2)
    assert torch.equal(transform(RAWS[1]), torch.from_numpy(RAWS[1][:2]))
    assert transform.complaint(RAWS[1]) == ("array too long", "3 vectors, cut to 2")
    assert transform.complaint(RAWS[0]) is transform.complaint(RAWS[1][:2]) is None
    assert FeatureTransform(4).complaint(RAWS[1]) is None
    assert transform.describe() != FeatureTransform(4).describe()


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "bool"])
def test_numbers_of_any_type_are_taken(dtype: str) -> None:
    assert FeatureTransform(4)(np.ones(4, dtype)).dtype == torch.float32


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((3, 7)), r"expected vectors of 4 numbers, found shape \(3, 7\)"),
        (np.zeros(3), r"found shape \(3,\)"),
        (np.zeros((2, 3, 4)), r"found shape \(2, 3, 4\)"),
        (np.float32(1), r"found shape \(\)"),
        (np.array(list("abcd")), "expected vectors of 4 numbers, found <U1"),
        (np.zeros((0, 4)), "a sequence of no vectors"),
        (np.array([[0, 0, 0, 0], [0, np.nan, 0, 0]]), "value 1 of vector 1 is nan"),
        (np.array([0, 0, 0, 1e300]), "value 3 of vector 0 is inf"),
    ],
    ids=str,
)
def test_refuses_an_array(raw: NDArray[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureTransform(4)(raw)


@pytest.mark.parametrize(("name", "value"), [("dim", 0), ("width", 0), ("hidden", -1), ("max_length", 0)])
def test_refuses_a_setting(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not {value}"):
        FeatureExpert(**{"dim": 4, name: value})


def test_checkpoint_brings_the_statistics() -> None:
    check_checkpoint(FeatureExpert(4), FeatureExpert(4), collated(fitted(), RAWS))


def test_travels() -> None:
    check_travels(fitted(), RAWS)


def test_every_parameter_learns() -> None:
    check_learns(fitted(), collated(fitted(), RAWS))


@pytest.mark.parametrize("fusion", [ConcatFusion, WorkspaceFusion])
def test_learns_the_size_of_a_single_feature(fusion: type[Fusion]) -> None:
    # a layer norm of one feature gives 0 whatever it is
    raws = [np.array([1e6 + value], np.float32) for value in range(-100, 100, 5)]
    assert trained_accuracy(lambda: FeatureExpert(1), raws, [int(raw[0] > 1e6) for raw in raws], fusion=fusion) > 0.95
