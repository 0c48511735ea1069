from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from crossmodal.replicas.compression import EightBits, TopK, compress, num_bytes
from crossmodal.replicas.engine import Hiding, Job, Update
from crossmodal.replicas.fedka import Alignment
from crossmodal.replicas.masking import hidden
from crossmodal.replicas.node import arrived
from crossmodal.replicas.wire import (
    Parcel,
    job_of,
    loss_of,
    pack,
    parcel_of_job,
    parcel_of_score,
    parcel_of_update,
    state_of,
    unpack,
    update_of,
)


def state(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "a.weight": torch.randn(4, 3, generator=draw),
        "a.steps": torch.tensor(7),
        "b.half": torch.randn(5, generator=draw).bfloat16(),
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_what_is_hidden_arrives_whole_or_not_at_all() -> None:
    hiding = Hiding((1, 2), "once")
    job, change = Job(2, state(), 3, hiding=hiding), {"a.weight": torch.ones(4, 3)}
    sent = hidden(change, job.state, weight=9.0, node=2, hiding=hiding, secret="words")
    came = unpack(pack(parcel_of_update(Update(2, sent, 9, 0.5, num_bytes(sent)))))
    assert same(update_of(came, job).state, sent)
    less = replace(came, tensors={name: value for name, value in came.tensors.items() if name != "b.half"})
    with pytest.raises(ValueError, match=r"its answer lacks 'b\.half'"):
        update_of(less, job)
    with pytest.raises(ValueError, match=r"a\.weight is"):
        update_of(replace(came, tensors={**came.tensors, "a.weight": torch.ones(4, 3)}), job)


@pytest.mark.parametrize("settings", [{"rows": float("inf")}, {"rows": 10**400}, {"smaller": {"a.weight": "Sparse"}}])
def test_what_does_not_go_together_is_refused(settings: dict[str, Any]) -> None:
    job = Job(2, state(), 3)
    told = {"node": 2, "rows": 9, "loss": 0.5, "terms": {}, "smaller": {}, "is_change": "smaller" in settings}
    parts = {"values": torch.ones(2), "places": torch.tensor([0.5, torch.nan]), "shape": torch.tensor(12)}
    tensors = {f"a.weight/{name}": value for name, value in parts.items()} if "smaller" in settings else {}
    with pytest.raises(ValueError, match="its answer cannot be read"):
        update_of(Parcel("update", {**told, **settings}, tensors), job)


def test_what_is_not_finite_is_refused() -> None:
    job, broken = Job(2, state(), 3), {"a.weight": torch.full((4, 3), torch.nan)}
    with pytest.raises(ValueError, match=r"a\.weight is not finite"):
        update_of(unpack(pack(parcel_of_update(Update(2, broken, 9, 0.5, 48)))), job)


def test_how_it_is_hidden_must_be_said() -> None:
    job = parcel_of_job(Job(2, state(), 3))
    wrong = replace(job, settings={**job.settings, "hiding": {"among": ["all"], "nonce": "once", "by_rows": True}})
    with pytest.raises(ValueError, match="does not say how"):
        job_of(wrong, fits=state())


@pytest.mark.parametrize("hiding", [None, Hiding((0, 2, 5), "once", by_rows=False)])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_job_arrives_as_it_was_sent(clip: float | None, hiding: Hiding | None) -> None:
    job = Job(2, state(), 3, proximal=0.01, clip=clip, hiding=hiding)
    came = job_of(unpack(pack(parcel_of_job(job))), fits=state(1))
    assert same(came.state, job.state)
    assert replace(came, state={}) == replace(job, state={})


def test_an_update_arrives_as_it_was_sent() -> None:
    job = Job(2, state(), 3)
    update = Update(2, {"a.weight": state(1)["a.weight"]}, 17, 0.25, 48, {"match": 0.5})
    came = update_of(unpack(pack(parcel_of_update(update))), job)
    assert same(came.state, update.state)
    assert replace(came, state={}) == replace(update, state={})
    nothing = Update(2, {}, 0, float("nan"), 0)
    assert str(update_of(unpack(pack(parcel_of_update(nothing))), job).loss) == "nan"


@pytest.mark.parametrize("how", [TopK(0.25), EightBits()])
def test_what_was_made_smaller_is_sent_small_and_arrives_as_in_one_process(how: TopK | EightBits) -> None:
    began, large = (
        {"w": torch.zeros(100, 100)},
        {"w": torch.randn(100, 100, generator=torch.Generator().manual_seed(0))},
    )
    small, _ = compress(large, {}, how)
    update = Update(0, arrived(began, {"w": small["w"].dense()}), 3, 0.5, num_bytes(small), {}, small)  # type: ignore[union-attr]
    data = pack(parcel_of_update(update))
    assert len(data) < num_bytes(small) + 1000
    came = update_of(unpack(data), Job(0, began, 0))
    assert same(came.state, update.state)
    assert came.num_bytes == num_bytes(small) < num_bytes(large)


def test_scores_cross() -> None:
    assert same(state_of(unpack(pack(parcel_of_score(state()))), state(1)), state())
    assert loss_of(Parcel("scored", {"loss": 0.5})) == 0.5
    with pytest.raises(ValueError, match="has no number 'loss'"):
        loss_of(Parcel("scored", {"loss": "low"}))


def test_what_changes_how_nodes_train_is_not_sent() -> None:
    with pytest.raises(ValueError, match=r"replicas\.method: Alignment changes how nodes train"):
        parcel_of_job(Job(0, state(), 0, local=Alignment.__new__(Alignment)))


@pytest.mark.parametrize(
    "data",
    [b"", b"1234567", pickle.dumps({"a": 1}), b"\xff" * 40, pack(Parcel("train"))[:-3]],
    ids=["nothing", "too short", "pickled", "no header", "cut"],  # how it is packed differs from process to process
)
def test_what_is_no_parcel_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        unpack(data)


@pytest.mark.parametrize(
    ("settings", "tensors", "message"),
    [
        ({"node": 1}, {}, "no update of node 0"),
        ({"rows": -1}, {}, "-1 rows"),
        ({"rows": "many"}, {}, "no number 'rows'"),
        ({"terms": [1]}, {}, "no terms"),
        ({}, {"b": torch.zeros(2)}, "the model has no 'b'"),
        ({}, {"w": torch.zeros(3)}, r"w is \(3,\) of torch.float32, where the model has \(2,\)"),
        ({}, {"w": torch.zeros(2).double()}, "torch.float64"),
        ({"is_change": True, "smaller": {"w": "Sparse"}}, {}, "no 'w' that could be read"),
        ({"is_change": True, "smaller": {"w": "Evil"}}, {"w": torch.zeros(2)}, "no 'w' that could be read"),
        (
            {"is_change": True, "smaller": {"w": "Sparse"}},
            {"w/values": torch.zeros(1), "w/places": torch.tensor([2]), "w/shape": torch.tensor([2])},
            "places in 'w' that are not there",
        ),
        (
            {"is_change": True, "smaller": {"w": "Sparse"}},
            {"w/values": torch.zeros(1), "w/places": torch.tensor([0]), "w/shape": torch.tensor([3])},
            r"w is \(3,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, object], tensors: dict[str, Tensor], message: str) -> None:
    told = {"node": 0, "rows": 1, "loss": 0.0, "terms": {}, **settings}
    with pytest.raises(ValueError, match=message):
        update_of(unpack(pack(Parcel("update", told, tensors))), Job(0, {"w": torch.zeros(2)}, 0))
