"""Trials of a made-up experiment, which are told at once; that real ones are trained is for test_sweep_cli."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from crossmodal.sweep.reading import read_search
from crossmodal.sweep.search import Choice, Interval, Search
from crossmodal.sweep.study import Study

SEARCH = Search(
    {"lr": Interval(1e-4, 1.0, log=True), "width": Interval(1, 64), "kind": Choice((True, 1, None))},
    metric="val/score",
    goal="maximize",
)


def open_study(folder: Path, search: Search = SEARCH, **more: Any) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    return Study(folder, search, **{"seed": 0, "own": None, "prune_after": None, **more})


def score(settings: dict[str, Any]) -> float:
    return -abs(math.log10(settings["lr"]) + 2) + 0.001 * settings["width"]


def try_all(study: Study, most: int) -> list[dict[str, Any]]:
    tried = []
    while True:
        with study.next_trial(most) as trial:
            if trial is None:
                return tried
            settings = study.values(trial)
            tried.append(settings)
            study.tell(trial, "complete", score(settings))


def test_what_is_tried_follows_from_the_seed(tmp_path: Path) -> None:
    first, again = (try_all(open_study(tmp_path / name), 15) for name in ("a", "b"))
    assert first == again
    assert try_all(open_study(tmp_path / "c", seed=1), 15) != first


def test_a_sweep_that_was_killed_tries_what_it_would_have_tried(tmp_path: Path) -> None:
    whole = try_all(open_study(tmp_path / "whole"), 14)
    found = []
    for killed_at in (3, 9, 12):
        found += try_all(open_study(tmp_path / "killed"), killed_at)
        for _ in range(2):  # when a trial goes on, it may be killed again
            with open_study(tmp_path / "killed").next_trial(14) as trial:
                assert trial is not None
                assert trial.number == killed_at
    found += try_all(open_study(tmp_path / "killed"), 14)
    assert found == whole


@pytest.mark.parametrize("where", ["enqueue_trial", "ask", "first", "second", "claim"])
def test_who_is_killed_while_a_trial_begins_leaves_none_of_half_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    whole = try_all(open_study(tmp_path / "whole"), 6)
    study = open_study(tmp_path / "killed")
    found = try_all(study, 3)

    def killed(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    if where in ("enqueue_trial", "ask"):
        monkeypatch.setattr(study._study, where, killed)
    elif where == "claim":
        monkeypatch.setattr(study, "_claim", killed)
    else:
        storage, calls = study._study._storage, []
        write = storage.set_trial_param

        def write_some(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) == (1 if where == "first" else 2):
                raise KeyboardInterrupt
            write(*arguments)

        monkeypatch.setattr(storage, "set_trial_param", write_some)
    with pytest.raises(KeyboardInterrupt), study.next_trial(6):
        pass
    monkeypatch.undo()
    found += try_all(open_study(tmp_path / "killed"), 6)
    assert found == whole


def test_a_trial_that_was_left_is_not_trained_where_fewer_are_wanted(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    try_all(study, 2)
    with study.next_trial(3) as trial:
        assert trial is not None
    assert try_all(open_study(tmp_path), 2) == []


def test_multiples_of_a_step_are_all_drawn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    parameters = {**read_search("a=0..1:0.3").parameters, "b": Interval(0.0, 1.0)}
    search = Search(parameters, metric="x", goal="maximize", method="random")
    drawn = {one["a"] for one in draws(open_study(tmp_path / "more", search), 24)}
    assert drawn == {0.0, 0.3, 0.6, 0.9}
    assert not recwarn.list


def draws(study: Study, most: int) -> list[dict[str, Any]]:
    tried = []
    for _ in range(most):
        with study.next_trial(most) as trial:
            assert trial is not None
            tried.append(study.values(trial))
            study.tell(trial, "complete", 0.0)
    return tried


def worker(folder: Path, names: Any) -> None:
    study = open_study(folder)
    while True:
        with study.next_trial(12) as trial:
            if trial is None:
                return
            names.put((os.getpid(), trial.number))
            time.sleep(0.05)
            study.tell(trial, "complete", 0.5)


def test_processes_share_the_trials_out(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    names = context.Queue()
    processes = [context.Process(target=worker, args=(tmp_path, names)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = [names.get(timeout=5) for _ in range(12)]
    assert names.empty()
    assert sorted(number for _, number in found) == list(range(12))
    assert len({pid for pid, _ in found}) == 2
    assert {one.state.name for one in open_study(tmp_path).trials} == {"COMPLETE"}


def test_two_do_not_train_the_same_trial(tmp_path: Path) -> None:
    one, other = open_study(tmp_path), open_study(tmp_path)
    with one.next_trial(3) as first, other.next_trial(3) as second:
        assert first is not None
        assert second is not None
        assert (first.number, second.number) == (0, 1)
    with (
        one.next_trial(3) as first,
        other.next_trial(3) as second,
        one.next_trial(3) as third,
        other.next_trial(3) as no,
    ):
        assert first is not None
        assert second is not None
        assert third is not None
        assert [one.number for one in (first, second, third)] == [0, 1, 2]
        assert no is None


def test_who_sees_a_trial_that_ends_meanwhile_takes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between looking which trials run, and claiming one of them."""
    one, other = open_study(tmp_path), open_study(tmp_path)
    with one.next_trial(3) as first:
        assert first is not None
        claim = other._claim

        def late(number: int) -> Any:
            if number == 0 and first is not None and one.trials[0].state.name == "RUNNING":
                one.tell(first, "complete", 0.5)
                monkeypatch.undo()
                return open(tmp_path / "released", "w")
            return claim(number)

        monkeypatch.setattr(other, "_claim", late)
        with other.next_trial(3) as second:
            assert second is not None
            assert second.number == 1


@pytest.mark.parametrize("method", ["bayes", "random", "grid"])
def test_no_point_is_tried_twice_where_they_can_be_counted(tmp_path: Path, method: str) -> None:
    search = Search(
        {"lr": Choice((0.1, 0.01, 0.001)), "width": Interval(1, 4)}, metric="x", goal="maximize", method=method
    )
    own = None if method == "grid" else {"lr": 0.01, "width": 2}
    tried = try_all(open_study(tmp_path / "whole", search, own=own), 12)
    assert len({tuple(one.values()) for one in tried}) == 12
    killed = []
    for most in (4, 9, 12):
        killed += try_all(open_study(tmp_path / "killed", search, own=own), most)
    assert killed == tried


def test_another_run_in_the_folder_of_trials_is_left_alone(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    try_all(study, 2)
    run = tmp_path / "2/config.yaml"  # as `fit --config 1/config.yaml` makes it
    run.parent.mkdir()
    run.touch()
    with pytest.raises(FileExistsError, match=r"2 is no trial of this sweep; move it away"), study.next_trial(3):
        pass
    run.unlink()
    run.parent.rmdir()
    assert len(try_all(study, 3)) == 1


@pytest.mark.parametrize("state", ["left", "trained by another", "complete"])
def test_a_sweep_is_withdrawn_that_came_to_nothing(tmp_path: Path, state: str) -> None:
    study = open_study(tmp_path / "dots/sweep")
    other = open_study(tmp_path / "dots/sweep")
    with study.next_trial(3) as trial:
        assert trial is not None
        if state == "complete":
            study.tell(trial, "complete", 0.5)
    with (other if state == "trained by another" else study).next_trial(3):
        if state == "trained by another":
            study.withdraw()
    if state != "trained by another":
        study.withdraw()
    assert (tmp_path / "dots/sweep").exists() == (state != "left")
    assert (tmp_path / "dots").exists() == (state != "left")


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "why? {x} #1 %20"
    try_all(open_study(folder), 2)
    assert (folder / "sweep.db").is_file()
    assert len(open_study(folder).trials) == 2


def test_the_first_trial_is_the_experiment_as_it_is(tmp_path: Path) -> None:
    own = {"lr": 0.003, "width": 16, "kind": None}
    tried = try_all(open_study(tmp_path, own=own), 3)
    assert tried[0] == own
    assert own not in tried[1:]


def test_a_grid_is_tried_in_order(tmp_path: Path) -> None:
    search = Search({"lr": Choice((0.1, 0.01)), "width": Interval(1, 3)}, method="grid", metric="x", goal="minimize")
    tried = try_all(open_study(tmp_path, search), 6)
    assert [tuple(one.values()) for one in tried] == [(lr, width) for lr in (0.1, 0.01) for width in (1, 2, 3)]


def test_values_keep_their_types_and_what_is_fixed_is_among_them(tmp_path: Path) -> None:
    search = Search(SEARCH.parameters, {"trainer.max_epochs": 3}, metric="x", goal="minimize")
    tried = try_all(open_study(tmp_path, search), 12)
    assert {type(one["kind"]) for one in tried} == {bool, int, type(None)}
    assert {type(one["width"]) for one in tried} == {int}
    assert {one["trainer.max_epochs"] for one in tried} == {3}


def test_what_fails_is_not_tried_for_ever(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    failed = []
    while True:
        with study.next_trial(40) as trial:
            if trial is None:
                break
            settings = study.values(trial)
            if settings["kind"] is not None:  # two of three
                failed.append(trial.number)
                study.tell(trial, "failed", None, error="unknown key")
            else:
                study.tell(trial, "complete", score(settings))
    assert sum(number >= 20 for number in failed) < 5  # of 20; at random it would be 13


def test_better_settings_are_found_than_at_random(tmp_path: Path) -> None:
    """The mean of what is tried last, over some seeds: the search goes where it is good."""

    def late(method: str, seed: int) -> float:
        search = Search(SEARCH.parameters, metric="x", goal="maximize", method=method)
        tried = try_all(open_study(tmp_path / f"{method}{seed}", search, seed=100 * seed), 30)
        return sum(map(score, tried[-10:])) / 10

    assert sum(late("bayes", seed) - late("random", seed) for seed in range(3)) / 3 > 0.3
