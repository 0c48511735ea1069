"""What goes together in a model."""

from __future__ import annotations

from functools import partial

import pytest

from crossmodal.building import build_model
from crossmodal.fusion import ConcatFusion
from crossmodal.heads import ClassificationHead
from crossmodal.joining import Joined
from crossmodal.meta_learner import MetaLearner
from tests.crossmodal.mixtures import GivenTokens


def test_a_meta_learner_weighs_answers() -> None:
    with pytest.raises(ValueError, match=r"model.meta_learner: it weighs answers"):
        build_model({"sees": GivenTokens()}, {}, meta_learner=MetaLearner)


def test_a_meta_learner_cannot_be_extended() -> None:
    with pytest.raises(ValueError, match="cannot be extended yet, but hears joined"):
        build_model(
            {"sees": GivenTokens(), "hears": GivenTokens()},
            {"answer": ["yes", "no"]},
            fusion=partial(ConcatFusion, width=8),
            heads={"answer": ClassificationHead},
            joined={"hears": Joined("model.ckpt")},
            meta_learner=MetaLearner,
        )
