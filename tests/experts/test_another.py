"""Several experts for one modality."""

from __future__ import annotations

import numpy as np
import torch

from experts.another import another_expert
from experts.features import FeatureExpert
from experts.image import ImageExpert


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
