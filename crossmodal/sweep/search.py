"""What a sweep searches, as a file for `wandb sweep` says it, or as `--search KEY=VALUES` does.

KEY=a,b,c            one of these
KEY=LOW..HIGH        a number between them; whole, if both are
KEY=LOW..HIGH:log    likewise, with as many small as large ones
KEY=LOW..HIGH:STEP   a multiple of STEP above LOW
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from crossmodal.arguments import read_yaml
from crossmodal.errors import UsageError

METHODS = ("bayes", "random", "grid")
GOALS = ("minimize", "maximize")
TRIALS = 20
SUMMARY = "sweep.json"  # what a sweep came to
# of wandb's file; all but the last three say how wandb names and runs things
FILE_KEYS = (
    "name", "description", "project", "entity", "program", "command",
    "method", "metric", "parameters", "early_terminate", "run_cap",
)  # fmt: skip
DISTRIBUTIONS = ("constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values")


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

    def points(self) -> tuple[Any, ...]:
        """Return all values, for a grid."""
        return self.values

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

    def points(self) -> tuple[Any, ...]:
        """Return all values, for a grid.

        Raises:
            UsageError: They cannot be counted.
        """
        step = self.step or (1 if self.is_whole else None)
        if step is None:
            raise UsageError(f"a grid of {self.low} to {self.high} wants steps, as {self.low}..{self.high}:STEP")
        number = round((self.high - self.low) / step) + 1
        return tuple(min(self.low + index * step, self.high) for index in range(number))

    def said(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Args:
        parameters: By the YAML's dotted key.
        fixed: Values that all trials have.
        method: `bayes`, `random` or `grid`.
        metric: The figure that is to be good; None for what the experiment keeps its best checkpoint by.
        goal: `minimize` or `maximize`.
        early: Of wandb's `early_terminate`: `min_iter` and `eta` of successive halving.
        trials: How many, if the file says so.
    """

    parameters: dict[str, Choice | Interval] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    method: str = "bayes"
    metric: str | None = None
    goal: str | None = None
    early: dict[str, int] | None = None
    trials: int | None = None

    def __or__(self, other: Search) -> Search:
        """Return this search with another's parameters, and whatever else the other says."""
        return Search(
            {**self.parameters, **other.parameters},
            {**self.fixed, **other.fixed},
            other.method if other.method != "bayes" else self.method,
            other.metric or self.metric,
            other.goal or self.goal,
            other.early or self.early,
            other.trials or self.trials,
        )

    def point(self, number: int) -> dict[str, Any]:
        """Return a grid's point of this number, the last key changing first."""
        found: dict[str, Any] = {}
        for key, one in reversed(self.parameters.items()):
            points = one.points()
            number, index = divmod(number, len(points))
            found[key] = points[index]
        return dict(reversed(found.items()))

    def grid_size(self) -> int | None:
        """Return how many points a grid has, or None where it is no grid.

        Raises:
            UsageError: They cannot be counted; the message names the key.
        """
        if self.method != "grid":
            return None
        size = 1
        for key, one in self.parameters.items():
            try:
                size *= len(one.points())
            except UsageError as error:
                raise UsageError(f"{key}: {error}") from None
        return size


def read_search(given: str) -> Search:
    """Read a file, or `KEY=VALUES`.

    Raises:
        UsageError: It is neither; the message names the file and the key.
    """
    key, is_pair, values = given.partition("=")
    if is_pair and not Path(given).is_file():
        if not key or not values:
            raise UsageError(f"--search {given}: expected KEY=VALUES, such as model.warmup=0..0.2")
        return Search({key: _read_values(values, f"--search {key}")})
    path = Path(given)
    content = read_yaml(path)
    if unknown := [key for key in content if key not in FILE_KEYS]:
        raise UsageError(f"{path}: unknown key {unknown[0]!r}; a search has {', '.join(FILE_KEYS)}")
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise UsageError(f"{path}: parameters: expected the YAML's keys, and for each `values`, or `min` and `max`")
    found: dict[str, Choice | Interval] = {}
    fixed: dict[str, Any] = {}
    for key, spec in parameters.items():
        where = f"{path}: parameters.{key}"
        if not isinstance(spec, dict):
            raise UsageError(f"{where}: expected `value`, `values`, or `min` and `max`, found {spec!r}")
        if "parameters" in spec:
            raise UsageError(f"{where}: write nested keys with dots, as {key}.KEY")
        if spec.get("distribution", "constant") == "constant" and "value" in spec:
            fixed[str(key)] = spec["value"]
        else:
            found[str(key)] = _read_parameter(spec, where)
    metric = content.get("metric") or {}
    return Search(
        found,
        fixed,
        _one_of(content.get("method", "bayes"), METHODS, f"{path}: method"),
        metric.get("name"),
        _one_of(metric.get("goal", "minimize"), GOALS, f"{path}: metric.goal") if metric else None,
        _early(content.get("early_terminate"), path),
        content.get("run_cap"),
    )


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


def _read_parameter(spec: dict[str, Any], where: str) -> Choice | Interval:
    default = "categorical" if "values" in spec else "int_uniform" if _whole(spec.get("min"), spec.get("max")) else None
    distribution = spec.get("distribution", default or "uniform")
    if distribution not in DISTRIBUTIONS:
        raise UsageError(f"{where}.distribution: {distribution} is not supported; there are {', '.join(DISTRIBUTIONS)}")
    if distribution == "categorical":
        values = spec.get("values")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{where}.values: expected a list of values, found {values!r}")
        return Choice(tuple(values))
    low, high = (_number(spec.get(end), f"{where}.{end}") for end in ("min", "max"))
    if distribution == "int_uniform" and not _whole(low, high):
        raise UsageError(f"{where}: int_uniform is of integers, not of {low} to {high}")
    if distribution != "int_uniform":
        low, high = float(low), float(high)
    step = _number(spec.get("q", 1), f"{where}.q") if distribution == "q_uniform" else None
    return _interval(low, high, where, log=distribution == "log_uniform_values", step=step)


def _read_values(text: str, where: str) -> Choice | Interval:
    low_text, is_interval, rest = text.partition("..")
    if not is_interval:
        return Choice(tuple(scalar(one.strip()) for one in text.split(",")))
    high_text, _, how = rest.partition(":")
    low, high = _number(scalar(low_text), where), _number(scalar(high_text), where)
    if how in ("", "log"):
        return _interval(low, high, where, log=how == "log")
    return _interval(low, high, where, step=_number(scalar(how), f"{where}: {how!r} after the colon"))


def _interval(low: float, high: float, where: str, *, log: bool = False, step: float | None = None) -> Interval:
    if not low < high:
        raise UsageError(f"{where}: the least, {low}, must be below the most, {high}")
    if log and low <= 0:
        raise UsageError(f"{where}: {low} has no logarithm; the least must be above 0")
    if step is not None and not 0 < step <= high - low:
        raise UsageError(f"{where}: steps of {step} do not lead from {low} to {high}")
    if step is not None:
        high = min(high, low + math.floor((high - low) / step + 1e-9) * step)  # the last that steps lead to
    return Interval(low, high, log, step)


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


def _number(value: Any, where: str) -> float:
    value = scalar(value) if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{where}: expected a number, found {value!r}")
    return value


def _whole(*values: Any) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _one_of(value: Any, there: tuple[str, ...], where: str) -> str:
    if value not in there:
        raise UsageError(f"{where}: expected {', '.join(there)}, found {value!r}")
    return str(value)


def _early(given: Any, path: Path) -> dict[str, int] | None:
    if given is None:
        return None
    if not isinstance(given, dict) or given.get("type") != "hyperband" or "min_iter" not in given:
        raise UsageError(f"{path}: early_terminate: expected type: hyperband with min_iter, and perhaps eta")
    found = {"min_iter": given["min_iter"], "eta": given.get("eta", 3)}
    if not _whole(*found.values()) or found["min_iter"] < 1 or found["eta"] < 2:
        raise UsageError(f"{path}: early_terminate: min_iter must be at least 1, and eta at least 2")
    return found
