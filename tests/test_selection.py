"""Inputs of every kind of expert, of which only some rows are given: what a selector and balancing do to raw inputs.

Legend: N tokens of an input, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from PIL import Image
from torch.testing import assert_close

from crossmodal.building import build_model
from crossmodal.fusion import ConcatFusion
from crossmodal.heads import ClassificationHead
from crossmodal.meta_learner import MetaLearner
from crossmodal.selector import Selector
from datamodules.batch import PairedBatch
from experts.another import another_expert
from experts.audio import ConformerExpert, RecurrentExpert, SpectrogramExpert
from experts.base import Expert, ExpertTokens
from experts.features import FeatureExpert
from experts.glimpse import GlimpseExpert
from experts.grid import GridExpert
from experts.image import ImageExpert
from experts.sequence import SequenceExpert
from experts.table import TableExpert
from tests.experts.test_base import image_expert, text_expert
from tests.experts.test_features import collated, vectors

RATE = 16_000
PICTURES = [Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), np.uint8)) for seed in range(6)]
SOUNDS = [
    (np.random.default_rng(seed).normal(0, 0.1, (length, 1)).astype(np.float32), RATE)
    for seed, length in enumerate((12_000, 16_000, 8_000))
]
ARRAYS = [vectors(count, 4, seed=count) for count in (2, 5, 1, 3, 4, 6)]
ALBUMS = [PICTURES[:2], PICTURES[2:3], PICTURES[3:]]
CASES: dict[str, tuple[Callable[[], Expert], list[Any]]] = {
    "image": (image_expert, PICTURES[:3]),
    "grid": (partial(GridExpert, image_size=40), PICTURES[:3]),
    "glimpse": (partial(GlimpseExpert, image_size=40), PICTURES[:3]),
    "another": (lambda: another_expert("photo", image_expert()), PICTURES[:3]),
    "text": (lambda: text_expert(tokens="all"), ["a cat", "one longer sentence of words", "no"]),
    "array": (lambda: FeatureExpert(4), ARRAYS[:3]),
    "table": (lambda: TableExpert(numeric=["a"], categorical=["b"]), [{"a": n, "b": "xyx"[n]} for n in range(3)]),
    "spectrogram": (SpectrogramExpert, SOUNDS),
    "conformer": (ConformerExpert, SOUNDS),
    "recurrent": (RecurrentExpert, SOUNDS),
    "pictures": (lambda: SequenceExpert(image_expert(tokens="grid")), ALBUMS),
    "texts": (lambda: SequenceExpert(text_expert()), [["one", "two"], ["three words here"], ["four"] * 3]),
    "arrays": (lambda: SequenceExpert(FeatureExpert(4)), [ARRAYS[:1], ARRAYS[1:4], ARRAYS[4:]]),
    "sequences": (
        lambda: SequenceExpert(SequenceExpert(image_expert())),
        [[ALBUMS[0], ALBUMS[1]], [ALBUMS[2]], [ALBUMS[1]] * 3],
    ),
}


def an_expert(case: str) -> tuple[Expert, list[Any]]:
    build, raws = CASES[case]
    torch.manual_seed(0)
    expert = build().eval()
    if expert.needs_statistics:
        expert.learn_statistics([collated(expert, raws)])
    return expert.eval(), raws


def as_rows(tokens: ExpertTokens) -> list[torch.Tensor]:
    return [tokens_ND[mask_N] for tokens_ND, mask_N in zip(tokens.tokens_BND, tokens.mask_BN, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_some_inputs_are_as_if_they_stood_alone(case: str) -> None:
    expert, raws = an_expert(case)
    batch = PairedBatch({"x": collated(expert, raws)}, {"x": torch.arange(3)}, {}, list("abc"))
    some = move_data_to_device(batch, "cpu").take(torch.tensor([2, 0]))
    assert some.index["x"].tolist() == [1, 0]
    for found_ND, raw in zip(as_rows(expert(some.inputs["x"])), (raws[0], raws[2]), strict=True):
        (expected_ND,) = as_rows(expert(collated(expert, [raw])))
        assert_close(found_ND, expected_ND, atol=1e-4, rtol=1e-4)
    assert {value.device.type for value in tensors_of(some.to("meta").inputs)} == {"meta"}


def tensors_of(inputs: Any) -> list[torch.Tensor]:
    return [value for value in torch.utils._pytree.tree_leaves(inputs) if isinstance(value, torch.Tensor)]


def test_items_of_what_is_not_chosen_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    album, glance = SequenceExpert(image_expert()), image_expert()
    model = build_model(
        {"glance": glance, "album": album},
        {"answer": ["a", "b"]},
        fusion=partial(ConcatFusion, width=8),
        heads={"answer": ClassificationHead},
        meta_learner=MetaLearner,
        selector=partial(Selector, first=["glance"], budget=0.5, costs={"glance": 1.0, "album": 9.0}),
    ).eval()
    inputs = {"glance": collated(glance, PICTURES[:3]), "album": collated(album, ALBUMS)}
    batch = PairedBatch(inputs, {name: torch.arange(3) for name in inputs}, {}, list("abc"))
    worth_BE = torch.tensor([[0.0, 5.0], [0.0, -5.0], [0.0, -5.0]])
    assert model.mixture is not None
    monkeypatch.setattr(model.mixture.selector, "forward", lambda *_: worth_BE)
    seen: list[int] = []
    encode = ImageExpert.encode

    def counted(expert: ImageExpert, pixels: torch.Tensor) -> ExpertTokens:
        seen.append(len(pixels))
        return encode(expert, pixels)

    monkeypatch.setattr(ImageExpert, "encode", counted)
    with torch.no_grad():
        found_BC = model(batch)["answer"]
        whole = model.encode(batch)
        lacking = batch.keeping({"album": torch.tensor([True, False, False])})
        expected_BC = model.predict({**whole, "album": whole["album"].take(torch.tensor([0]))}, lacking)["answer"]
    assert seen == [3, 2, 3, 6]  # the first album has two pictures
    assert_close(found_BC, expected_BC)
