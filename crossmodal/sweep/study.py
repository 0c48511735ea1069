"""Which trial is next, and how those before it went: an Optuna study (Akiba et al. 2019) in `sweep.db`.

A trial's settings follow from the seed, its number and the trials before it alone, so a sweep that was killed and goes
on tries what it would have tried.
"""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import OptunaError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from crossmodal.sweep.experiment import LOCK, alone
from crossmodal.sweep.search import BEGUN, CLAIM, SUMMARY, Choice, Interval, Search, written

ENOUGH = 5  # trials before one is stopped early for being worse than the others
BUSY_SECONDS = 60.0  # that another process may write for
DATABASE = "sweep.db"
DRAWS = 20  # of a point that was not tried yet, before the first such is taken
DAMAGED = ("not a database", "malformed", "no such table", "no such column")  # of what SQLite says
STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


def state_of(trial: FrozenTrial) -> str:
    """Return `complete`, `pruned`, `failed` or `running`."""
    return "failed" if trial.user_attrs.get("error") is not None else STATES[trial.state]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise OSError, which names the file, where a study cannot be read or written."""
    try:
        yield
    except (SQLAlchemyError, OptunaError) as error:
        why = str(getattr(error.__cause__, "orig", None) or getattr(error, "orig", None) or error).splitlines()[0]
        is_damaged = any(word in why for word in DAMAGED)
        hint = f"; it is damaged: delete {path.parent}, and sweep anew" if is_damaged else ""
        raise OSError(f"{path} cannot be used: {why}{hint}") from error


class Study:
    """A sweep's trials.

    Args:
        folder: Of the sweep; `sweep.db` lies there, and a folder for each trial, named by its number.
        search: What is searched; its goal is known.
        seed: Of the search.
        own: The experiment's own values, which are the first trial; None where there is none.
        prune_after: The epoch from which trials that are worse than others at the same epoch are stopped; None for
            never.
    """

    def __init__(
        self, folder: Path, search: Search, *, seed: int, own: Mapping[str, Any] | None, prune_after: int | None
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder = folder
        self._search = search
        self._seed = seed
        self._own = own
        self._distributions = {key: _distribution(one) for key, one in search.parameters.items()}
        with alone(folder), readable(folder / DATABASE):
            self._study = optuna.create_study(
                storage=_storage(folder / DATABASE),
                study_name="sweep",
                direction="maximize" if search.goal == "maximize" else "minimize",
                load_if_exists=True,
                pruner=_pruner(search, prune_after),
            )

    @property
    def trials(self) -> list[FrozenTrial]:
        """All that were begun, by their numbers."""
        return [one for one in self._study.get_trials(deepcopy=False) if one.state != TrialState.WAITING]

    @contextmanager
    def next_trial(self, most: int) -> Iterator[Trial | None]:
        """Yield the trial to train: one that was left by a process that is gone, or a new one; None if all are begun.

        Meanwhile no other process takes it.

        Args:
            most: Trials in all.

        Raises:
            FileExistsError: Another run lies where a new one would.
        """
        with alone(self.folder):
            taken = self._left(most) or self._new(most)
        if taken is None:
            yield None
            return
        trial, file = taken
        with file:
            yield trial

    def _left(self, most: int) -> tuple[Trial, IO[str]] | None:
        for one in self.trials[:most]:
            if one.state != TrialState.RUNNING or not (file := self._claim(one.number)):
                continue
            if self.trials[one.number].state == TrialState.RUNNING:  # else it came to its end just now
                trial = Trial(self._study, one._trial_id)
                for key, distribution in self._distributions.items():  # or it was killed while they were written
                    trial._suggest(key, distribution)
                return trial, file
            file.close()
        return None

    def _new(self, most: int) -> tuple[Trial, IO[str]] | None:
        number = len(self.trials)
        if number >= most:
            return None
        folder = self.folder / str(number)
        try:
            folder.mkdir()
        except FileExistsError:
            if any(path.name != CLAIM for path in folder.iterdir()):
                raise FileExistsError(
                    f"{folder} is no trial of this sweep; move it away, and give the same command"
                ) from None
        if len(self._study.get_trials(deepcopy=False)) == number:  # else a process was killed here
            self._study.enqueue_trial(self._point(number))
        trial = self._study.ask(self._distributions)
        file = self._claim(trial.number)
        assert file is not None, f"trial {trial.number} is new, and yet another process trains it"
        return trial, file

    def _point(self, number: int) -> dict[str, Any]:
        """Return what a new trial tries.

        It is drawn beside the study, which gets it whole: who is killed leaves no trial of half the settings.
        """
        size = self._search.size
        if self._search.method == "grid":
            return self._written(self._search.point(number))
        if number == 0 and self._own is not None:
            return self._written(self._own)
        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        beside = optuna.create_study(direction=self._study.direction, sampler=_sampler(self._search, seed))
        beside.add_trials([one for one in self.trials if one.state.is_finished()])
        tried = [one.params for one in self.trials]
        for _ in range(DRAWS):
            drawn = {
                key: one.nearest(value) if isinstance(one := self._search.parameters[key], Interval) else value
                for key, value in beside.ask(self._distributions).params.items()
            }
            if size is None or drawn not in tried:
                return drawn
        points = map(self._written, map(self._search.point, range(size or 0)))
        return next(point for point in points if point not in tried)

    def _claim(self, number: int) -> IO[str] | None:
        path = self.folder / str(number) / CLAIM
        path.parent.mkdir(exist_ok=True)
        file = path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def values(self, trial: Trial | FrozenTrial) -> dict[str, Any]:
        """Return a trial's settings by the YAML's keys, those that all trials have among them."""
        found = dict(self._search.fixed)
        for key, one in self._search.parameters.items():
            if key in trial.params:
                drawn = trial.params[key]
                found[key] = one.values[one.texts().index(drawn)] if isinstance(one, Choice) else drawn
        return found

    def _written(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return a point as Optuna has it."""
        choices = {key for key, one in self._search.parameters.items() if isinstance(one, Choice)}
        return {key: written(value) if key in choices else value for key, value in point.items()}

    def tell(self, trial: Trial, state: str, value: float | None, *, error: str | None = None) -> None:
        """Say how a trial went: `complete`, `pruned` or `failed`."""
        trial.set_user_attr("error", error)  # none, too: it may have had one, and been killed before the rest was told
        # what Optuna calls failed it forgets, and may try for ever; what is pruned before it began is bad
        of = TrialState.COMPLETE if state == "complete" else TrialState.PRUNED
        self._study.tell(trial.number, value if state == "complete" else None, state=of)

    def withdraw(self) -> None:
        """Delete it, unless a trial has come to an end, or another process trains one."""
        with alone(self.folder):
            claims = [self._claim(one.number) for one in self.trials]
            if all(claims) and not any(one.state.is_finished() for one in self.trials):
                for one in self.trials:
                    shutil.rmtree(self.folder / str(one.number))
                for name in (BEGUN, SUMMARY, DATABASE, LOCK):
                    (self.folder / name).unlink(missing_ok=True)
                for folder in (self.folder, self.folder.parent):  # where there is nothing else
                    if not any(folder.iterdir()):
                        folder.rmdir()
        for file in claims:
            if file is not None:
                file.close()

    def trained_elsewhere(self) -> list[int]:
        """Return the numbers of trials that other processes train."""
        found = []
        for one in self.trials:
            if one.state == TrialState.RUNNING:
                if file := self._claim(one.number):
                    file.close()
                else:
                    found.append(one.number)
        return found

    def best(self) -> FrozenTrial | None:
        """Return the best of the trials that were trained to their end, the earliest of equal ones."""
        complete = [one for one in self.trials if one.state == TrialState.COMPLETE]
        sign = 1.0 if self._search.goal == "maximize" else -1.0
        return max(complete, key=lambda one: sign * float(one.value or 0.0), default=None)

    def importance(self) -> dict[str, float]:
        """Return how much each key matters to being among the best tenth (PED-ANOVA, Watanabe et al. 2023).

        The shares sum to 1. There are none of fewer than 10 trials, or where all came to the same.
        """
        complete = [one for one in self.trials if one.state == TrialState.COMPLETE]
        if len(complete) < 2 * ENOUGH or len({one.value for one in complete}) < 2:
            return {}
        return optuna.importance.get_param_importances(self._study)


def _storage(path: Path) -> RDBStorage:
    # not by a URL, in which a path's ? and { mean something
    connect = partial(sqlite3.connect, path, timeout=BUSY_SECONDS, check_same_thread=False)
    return RDBStorage("sqlite://", engine_kwargs={"creator": connect})


def _distribution(one: Choice | Interval) -> BaseDistribution:
    if isinstance(one, Choice):
        return CategoricalDistribution(one.texts())
    if one.is_whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(float(one.low), float(one.high), log=one.log, step=one.step)


def _sampler(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    if search.method == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=2 * ENOUGH)


def _pruner(search: Search, after: int | None) -> optuna.pruners.BasePruner:
    if after is None:
        return optuna.pruners.NopPruner()
    if search.early is not None:
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=search.early["min_iter"], reduction_factor=search.early["eta"]
        )
    return optuna.pruners.MedianPruner(n_startup_trials=ENOUGH, n_warmup_steps=after)
