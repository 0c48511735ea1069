"""Several experts for one modality."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from experts import digests
from experts.another import another_expert
from experts.features import FeatureExpert
from experts.image import ImageExpert, ImageTransform
from experts.sequence import SequenceExpert


def test_it_is_the_same_expert_for_another_modality() -> None:
    plain = FeatureExpert(dim=3)
    other = another_expert("labs", plain)
    assert other is plain
    assert other.transform.modality == "labs"  # type: ignore[attr-defined]
    assert other.transform.for_evaluation is other.transform
    raw = np.arange(3.0)
    assert torch.equal(other.transform(raw), FeatureExpert(dim=3).transform(raw))
    other.learn_statistics([other.transform.collate([other.transform(raw), other.transform(raw + 1)])])  # asks for dim
    assert other(other.transform.collate([other.transform(raw)])).tokens_BND.shape == (1, 1, 64)


def test_what_does_not_depend_on_the_modality_is_the_same() -> None:
    plain, first, second = (ImageExpert("test_efficientnet", pretrained=False, image_size=32) for _ in range(3))
    first, second = (another_expert(name, one) for name, one in {"photo": first, "map": second}.items())
    assert first.transform.describe() == plain.transform.describe()
    assert first.fingerprint("float32") == second.fingerprint("float32")


def test_a_transform_whose_code_has_changed_makes_another_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = another_expert("photo", ImageExpert("test_efficientnet", pretrained=False, image_size=32))
    experts = (inner, SequenceExpert(inner))
    before = [(expert.fingerprint("float32"), expert.identity()) for expert in experts]
    unchanged = digests.source_digest
    monkeypatch.setattr(
        "experts.base.source_digest", lambda kind: "edited" if kind is ImageTransform else unchanged(kind)
    )
    for (fingerprint, identity), expert in zip(before, experts, strict=True):
        assert expert.fingerprint("float32") != fingerprint
        assert expert.identity() == identity  # a checkpoint outlives an update


def test_its_transform_travels() -> None:
    transform = another_expert("labs", FeatureExpert(dim=3)).transform
    for one in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
        assert (one.modality, one.describe()) == ("labs", transform.describe())
