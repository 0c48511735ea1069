"""What a sweep came to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from crossmodal.sweep.search import Search
from crossmodal.sweep.study import state_of
from crossmodal.sweep.summary import write_summary
from tests.crossmodal.sweep.test_study import SEARCH, open_study, try_all


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_the_best_is_the_earliest_of_equal_ones_and_none_that_failed(tmp_path: Path, goal: str) -> None:
    search = Search(SEARCH.parameters, metric="x", goal=goal)
    study = open_study(tmp_path, search)
    sign = 1 if goal == "maximize" else -1
    for value in (0.1, 0.5, None, 0.5, 0.2):
        with study.next_trial(5) as trial:
            assert trial is not None
            if value is None:
                study.tell(trial, "failed", None, error="no memory")
            else:
                study.tell(trial, "complete", sign * value)
    best = study.best()
    assert best is not None
    assert best.number == 1


def test_what_matters_is_found(tmp_path: Path) -> None:
    study = open_study(tmp_path, seed=3)
    try_all(study, 9)
    assert study.importance() == {}  # too few to tell
    try_all(study, 40)
    found = study.importance()
    assert sum(found.values()) == pytest.approx(1)
    assert next(iter(found)) == "lr"
    assert found["lr"] > 0.6


def test_the_summary_says_what_was_tried(tmp_path: Path) -> None:
    study = open_study(tmp_path, own={"lr": 0.01, "width": 64, "kind": 1})
    try_all(study, 12)
    with study.next_trial(13) as trial:
        assert trial is not None
        trial.report(0.9, 1)
        study.tell(trial, "failed", None, error="no memory")
    found = json.loads(write_summary(study, SEARCH, "dots/sweep").read_text())
    assert found["best"] == 0
    assert found["trials"][0]["settings"] == {"lr": 0.01, "width": 64, "kind": 1}
    assert [one["state"] for one in found["trials"]] == ["complete"] * 12 + ["failed"]
    assert found["trials"][12]["error"] == "no memory"
    assert found["trials"][12]["value"] is None
    assert sum(found["importance"].values()) == pytest.approx(1)


def test_a_summary_is_json_whatever_a_trial_came_to(tmp_path: Path) -> None:
    study = open_study(tmp_path, own={"lr": 0.01, "width": 64, "kind": 1})
    with study.next_trial(1) as trial:
        assert trial is not None
        study.tell(trial, "complete", math.inf)
    text = write_summary(study, SEARCH, "dots/sweep").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["trials"][0]["value"] is None


def test_a_trial_that_was_said_to_have_failed_and_was_trained_again_has_not(tmp_path: Path) -> None:
    study = open_study(tmp_path, own={"lr": 0.01, "width": 64, "kind": 1})
    with study.next_trial(1) as trial:
        assert trial is not None
        trial.set_user_attr("error", "no memory")  # and then its process was killed
    with study.next_trial(1) as trial:
        assert trial is not None
        study.tell(trial, "complete", 0.5)
    (one,) = study.trials
    assert state_of(one) == "complete"
    found = json.loads(write_summary(study, SEARCH, "dots/sweep").read_text())
    assert (found["best"], found["trials"][0]["value"], found["trials"][0]["error"]) == (0, 0.5, None)
