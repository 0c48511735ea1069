"""What a sweep searches, and how it is written as options."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

METHODS = ("bayes", "random", "grid")
GOALS = ("minimize", "maximize")
TRIALS = 20
BEGUN = "search.json"  # what a sweep began with
SUMMARY = "sweep.json"  # what it came to
CLAIM = "trial.lock"  # in a trial's folder


@dataclass(frozen=True)
class Choice:
    """One of some values.

    Args:
        values: As YAML has them.
    """

    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        """Say whether it may be drawn."""
        return written(value) in self.texts()

    def texts(self) -> list[str]:
        """Return the values as texts: Optuna has no lists, and takes 1 and true for one."""
        return [written(value) for value in self.values]

    def examples(self) -> tuple[Any, ...]:
        """Return values that show whether the key takes them: all."""
        return self.values

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.values)

    def at(self, index: int) -> Any:
        """Return the value of this number."""
        return self.values[index]

    def said(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"values": list(self.values)}


@dataclass(frozen=True)
class Interval:
    """A number.

    Args:
        low: The least.
        high: The most.
        log: Whether its logarithm is what is drawn evenly.
        step: Between the numbers, or None for any.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is of integers."""
        return all(isinstance(one, int) for one in (self.low, self.high, self.step or 1))

    def __contains__(self, value: Any) -> bool:
        """Say whether it may be drawn."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or (1 if self.is_whole else math.inf))
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def examples(self) -> tuple[Any, ...]:
        """Return values that show whether the key takes them: its ends."""
        return self.low, self.high

    @property
    def size(self) -> int | None:
        """How many values there are; None if they cannot be counted."""
        if self._step is None:
            return None
        return int((decimal(self.high) - decimal(self.low)) / decimal(self._step)) + 1

    def at(self, index: int) -> float:
        """Return the value of this number."""
        assert self._step is not None
        found = decimal(self.low) + index * decimal(self._step)
        return int(found) if self.is_whole else float(found)

    def nearest(self, value: float) -> float:
        """Return the value nearest to this one, as it is written: 0.9, where three steps of 0.3 come to less."""
        return value if self._step is None else self.at(round((value - self.low) / self._step))

    @property
    def _step(self) -> float | None:
        return self.step or (1 if self.is_whole else None)

    def said(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Args:
        parameters: By the YAML's dotted key.
        fixed: Values that all trials have.
        method: `bayes`, `random` or `grid`; None for `bayes`.
        metric: The figure that is to be good; None for what the experiment keeps its best checkpoint by.
        goal: `minimize` or `maximize`.
        early: Of wandb's `early_terminate`: `min_iter` and `eta` of successive halving.
        trials: How many, if the file says so.
    """

    parameters: dict[str, Choice | Interval] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    method: str | None = None
    metric: str | None = None
    goal: str | None = None
    early: dict[str, int] | None = None
    trials: int | None = None

    def __or__(self, other: Search) -> Search:
        """Return this search with another's parameters, and whatever else the other says."""
        return Search(
            {key: one for key, one in {**self.parameters, **other.parameters}.items() if key not in other.fixed},
            {key: value for key, value in {**self.fixed, **other.fixed}.items() if key not in other.parameters},
            other.method or self.method,
            other.metric or self.metric,
            other.goal or self.goal,
            other.early or self.early,
            other.trials or self.trials,
        )

    @property
    def size(self) -> int | None:
        """How many points there are to try; None if they cannot be counted."""
        found = 1
        for one in self.parameters.values():
            if one.size is None:
                return None
            found *= one.size
        return found

    def point(self, number: int) -> dict[str, Any]:
        """Return the point of this number, of those that can be counted, the last key changing first."""
        found: dict[str, Any] = {}
        for key, one in reversed(self.parameters.items()):
            assert one.size is not None
            number, index = divmod(number, one.size)
            found[key] = one.at(index)
        return dict(reversed(found.items()))


def flags(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield values as options of the command line; a class before its arguments, which it would drop."""
    for key in sorted(values, key=lambda key: not key.endswith("class_path")):
        yield f"--{key}={written(values[key])}"


def written(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").strip()


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """Return of each key as much of its end as tells it from the others, as `lr`."""
    parts = {key: [part for part in key.split(".") if part not in ("init_args", "class_path")] for key in keys}
    found: dict[str, str] = {}
    for key, own in parts.items():
        lengths = range(1, len(own) + 1)
        distinct = (length for length in lengths if sum(one[-length:] == own[-length:] for one in parts.values()) == 1)
        found[key] = ".".join(own[-next(distinct, len(own)) :])
    return found


def decimal(number: float) -> Decimal:
    """Return a number as it is written: 3 steps of 0.1 are 0.3, and not more."""
    return Decimal(str(number))


def scalar(text: str) -> Any:
    """Return what a text says: a number, also one such as 1e-4, which YAML reads as a text, or else as YAML."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
