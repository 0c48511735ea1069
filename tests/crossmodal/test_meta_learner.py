"""Scores of experts, and what they are heard of."""

from __future__ import annotations

import pytest
import torch

from crossmodal.meta_learner import FACTS, MARGIN, STEEPNESS, MetaLearner, Scores
from experts.base import ExpertTokens


def test_shares() -> None:
    scores_BE = torch.tensor([[1.0, 1.0 - MARGIN, -torch.inf], [-torch.inf] * 3])
    shares_BE = Scores(scores_BE, torch.zeros(2, 4)).shares()
    full = torch.tensor(STEEPNESS * MARGIN).sigmoid()
    torch.testing.assert_close(shares_BE, torch.tensor([[1.0, 0.5 / full, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize(("fact", "better"), [("novelty", 0.0), ("staleness", 0.0), ("accuracy", 1.0), ("gain", 1.0)])
def test_what_speaks_for_an_expert_before_anything_is_learned(fact: str, better: float) -> None:
    learner = MetaLearner(["a", "b"], 8).eval()
    facts_BEF = torch.zeros(1, 2, len(FACTS))
    facts_BEF[0, :, list(FACTS).index(fact)] = torch.tensor([better, 1 - better])
    scores = learner(torch.zeros(1, 2, 8), facts_BEF, torch.ones(1, 2, dtype=torch.bool))
    assert scores.scores_BE[0, 0] > scores.scores_BE[0, 1] + 1


def test_who_is_not_heard_says_the_same_whatever_it_says() -> None:
    learner = MetaLearner(["a"], 4)
    mask_BN = torch.ones(2, 1, dtype=torch.bool)
    first, second = (ExpertTokens(torch.randn(2, 1, 4), mask_BN) for _ in range(2))
    none_BE, all_BE = torch.zeros(2, 1), torch.ones(2, 1)
    unheard = [learner.heard({"a": tokens}, none_BE)["a"].tokens_BND for tokens in (first, second)]
    assert torch.equal(*unheard)
    torch.testing.assert_close(learner.heard({"a": first}, all_BE)["a"].tokens_BND, first.tokens_BND)


def test_who_is_absent_is_as_who_is_not_heard() -> None:
    learner = MetaLearner(["a"], 4)
    tokens_BND = torch.randn(2, 3, 4)
    absent = ExpertTokens(tokens_BND, torch.zeros(2, 3, dtype=torch.bool))
    there = ExpertTokens(tokens_BND[:, :1], torch.ones(2, 1, dtype=torch.bool))
    lacked, unheard = (learner.heard({"a": one}, torch.zeros(2, 1))["a"] for one in (absent, there))
    assert lacked.mask_BN.tolist() == [[True, False, False]] * 2
    assert torch.equal(lacked.tokens_BND[:, :1], unheard.tokens_BND)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("hidden", 0, "hidden must be at least 1"),
        ("held_out", 0.0, "held_out is a share"),
        ("held_out", 0.6, "model.meta_learner: held_out is a share .* at most 0.5, not 0.6"),
        ("held_out_by", "c", "there is no expert 'c'; there are a, b"),
        ("corruption", 1.5, "corruption is a rate"),
        ("own", -1.0, "own .* are weights"),
        ("score_z", -1.0, "score_z .* are weights"),
    ],
)
def test_refused(argument: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MetaLearner(["a", "b"], 8, **{argument: value})  # type: ignore[arg-type]
