"""Trials that are worse than others are stopped, also by a sweep that is killed meanwhile."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossmodal import sweep_cli
from crossmodal.sweep.search import Search
from crossmodal.sweep.study import state_of
from crossmodal.sweep.trial import Outcome
from tests.crossmodal.sweep.test_study import SEARCH, open_study


@pytest.mark.parametrize(("early", "after"), [(None, 2), ({"min_iter": 2, "eta": 2}, 2)])
def test_what_is_worse_than_most_is_stopped(tmp_path: Path, early: dict[str, int] | None, after: int) -> None:
    search = Search(SEARCH.parameters, metric="x", goal="maximize", early=early)
    study = open_study(tmp_path, search, prune_after=after)
    stopped = {}
    for number, level in enumerate([0.5, 0.6, 0.7, 0.8, 0.9, 0.1, 1.0]):
        with study.next_trial(7) as trial:
            assert trial is not None
            for epoch in range(1, 5):
                trial.report(level, epoch)
                if trial.should_prune():
                    stopped[number] = epoch
                    study.tell(trial, "pruned", None)
                    break
            else:
                study.tell(trial, "complete", level)
    assert stopped[5] == after
    assert 6 not in stopped
    never = open_study(tmp_path / "never", search, prune_after=None)
    with never.next_trial(1) as trial:
        assert trial is not None
        trial.report(-9.0, 4)
        assert not trial.should_prune()


def test_a_trial_that_is_to_be_stopped_is_whatever_becomes_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the trial is being saved. Successive halving says only once that it is to be stopped."""
    search = Search(SEARCH.parameters, metric="x", goal="maximize", early={"min_iter": 1, "eta": 2})
    study = open_study(tmp_path / "dots" / "sweep", search, prune_after=1)
    plan = sweep_cli.Plan(search, [], "dots/sweep", tmp_path, 9, None, multiprocessing.get_context("spawn"))
    levels = iter([0.9, 0.8, 0.1])

    def train(*_: Any, should_stop: Callable[[int, float], bool], **__: Any) -> Outcome:
        level = next(levels)
        if should_stop(1, level) and level == 0.1:
            raise KeyboardInterrupt
        return Outcome("complete", level)

    monkeypatch.setattr(sweep_cli, "train", train)
    for _ in range(2):
        with study.next_trial(9) as trial:
            assert trial is not None
            sweep_cli._train(study, trial, plan)
    with study.next_trial(9) as trial:
        assert trial is not None
        with pytest.raises(KeyboardInterrupt):
            sweep_cli._train(study, trial, plan)
    again = open_study(tmp_path / "dots" / "sweep", search, prune_after=1)
    with again.next_trial(9) as trial:
        assert trial is not None
        assert trial.number == 2
        sweep_cli._train(again, trial, plan)  # without training: there is no fourth level
    assert state_of(again.trials[2]) == "pruned"


def test_none_is_stopped_in_its_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = open_study(tmp_path / "dots" / "sweep", prune_after=1)
    plan = sweep_cli.Plan(SEARCH, [], "dots/sweep", tmp_path, 9, 2, multiprocessing.get_context("spawn"))
    levels = iter([0.9, 0.9, 0.9, 0.9, 0.9, 0.1, 0.1])
    asked: list[int] = []

    def train(*_: Any, should_stop: Callable[[int, float], bool], **__: Any) -> Outcome:
        level = next(levels)
        for epoch in (1, 2) if len(asked) < 11 else (2,):  # the last one says nothing before its end
            asked.append(epoch)
            if should_stop(epoch, level):
                return Outcome("pruned")
        return Outcome("complete", level)

    monkeypatch.setattr(sweep_cli, "train", train)
    for _ in range(7):
        with study.next_trial(9) as trial:
            assert trial is not None
            sweep_cli._train(study, trial, plan)
    assert [state_of(one) for one in study.trials] == [*["complete"] * 5, "pruned", "complete"]
