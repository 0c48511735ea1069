"""What a sweep searches, as a file for `wandb sweep` says it, or as `--search KEY=VALUES` does.

KEY=a,b,c            one of these
KEY=LOW..HIGH        a number between them; whole, if both are
KEY=LOW..HIGH:log    likewise, with as many small as large ones
KEY=LOW..HIGH:STEP   a multiple of STEP above LOW
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from crossmodal.arguments import kind, read_yaml
from crossmodal.errors import UsageError
from crossmodal.sweep.search import GOALS, METHODS, Choice, Interval, Search, decimal, scalar

KEY = re.compile(r"[\w.+-]*")  # else it is a file's name, such as ./a=b.yaml
# of wandb's file; all but the last three say how wandb names and runs things
FILE_KEYS = (
    "name", "description", "project", "entity", "program", "command",
    "method", "metric", "parameters", "early_terminate", "run_cap",
)  # fmt: skip
# with the keys of each
DISTRIBUTIONS = {
    "constant": ("value",),
    "categorical": ("values",),
    "int_uniform": ("min", "max"),
    "uniform": ("min", "max"),
    "q_uniform": ("min", "max", "q"),
    "log_uniform_values": ("min", "max"),
}


def read_search(given: str) -> Search:
    """Read a file, or `KEY=VALUES`.

    Raises:
        UsageError: It is neither; the message names the file and the key.
    """
    key, is_pair, values = given.partition("=")
    if is_pair and KEY.fullmatch(key):
        if not key or not values:
            raise UsageError(f"--search {given}: expected KEY=VALUES, such as model.warmup=0..0.2")
        return Search({key: _read_values(values, f"--search {key}")})
    path = Path(given)
    content = read_yaml(path, such_as="method, metric and parameters")
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
        distribution = _distribution(spec, where)
        _refuse_others(spec, ("distribution", *DISTRIBUTIONS[distribution]), where)
        if distribution == "constant":
            if "value" not in spec:
                raise UsageError(f"{where}: a constant has a `value`")
            fixed[str(key)] = spec["value"]
        else:
            found[str(key)] = _read_parameter(distribution, spec, where)
    metric = content.get("metric") or {}
    if not isinstance(metric, dict) or (metric and not isinstance(metric.get("name"), str)):
        raise UsageError(f"{path}: metric: expected its name, such as val/accuracy, and its goal, found {kind(metric)}")
    _refuse_others(metric, ("name", "goal"), f"{path}: metric")
    cap = content.get("run_cap")
    if cap is not None and not (_whole(cap) and cap > 0):
        raise UsageError(f"{path}: run_cap: expected a number of trials, at least 1, found {kind(cap)}")
    return Search(
        found,
        fixed,
        _one_of(content["method"], METHODS, f"{path}: method") if content.get("method") is not None else None,
        metric.get("name"),
        _one_of(metric["goal"], GOALS, f"{path}: metric.goal") if metric.get("goal") is not None else None,
        _early(content.get("early_terminate"), path),
        cap,
    )


def _distribution(spec: dict[str, Any], where: str) -> str:
    given = spec.get("distribution")
    if given is not None:
        if not isinstance(given, str) or given not in DISTRIBUTIONS:
            raise UsageError(f"{where}.distribution: {given} is not supported; there are {', '.join(DISTRIBUTIONS)}")
        return given
    if "value" in spec or "values" in spec:
        return "constant" if "value" in spec else "categorical"
    return "int_uniform" if _whole(spec.get("min"), spec.get("max")) else "uniform"


def _refuse_others(given: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    if others := [key for key in given if key not in known]:
        raise UsageError(f"{where}: {others[0]!r} is not supported here; there are {', '.join(known)}")


def _read_parameter(distribution: str, spec: dict[str, Any], where: str) -> Choice | Interval:
    if distribution == "categorical":
        values = spec.get("values")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{where}.values: expected a list of values, found {values!r}")
        return _choice([scalar(one) if isinstance(one, str) else one for one in values], where)
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
        texts = [one.strip() for one in _split(text, where)]
        if "" in texts:
            raise UsageError(f"{where}: no value stands before or after a comma; write null for none")
        return _choice([scalar(one) for one in texts], where)
    high_text, _, how = rest.partition(":")
    low, high = _number(scalar(low_text), where), _number(scalar(high_text), where)
    if how in ("", "log"):
        return _interval(low, high, where, log=how == "log")
    return _interval(low, high, where, step=_number(scalar(how), f"{where}: {how!r} after the colon"))


def _split(text: str, where: str) -> list[str]:
    """Split a text at its commas, but for those of lists, such as [0.9, 0.99], and of lists in them."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if depth < 0:
            break
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    if depth:
        raise UsageError(f"{where}: {text} has brackets that do not open and close")
    return parts


def _choice(values: list[Any], where: str) -> Choice:
    found = Choice(tuple(values))
    for text, count in Counter(found.texts()).items():
        if count > 1:  # '1' and 1 among them, which are the same on a command line
            raise UsageError(f"{where}: {text!r} stands twice")
    return found


def _interval(low: float, high: float, where: str, *, log: bool = False, step: float | None = None) -> Interval:
    if not low < high:
        raise UsageError(f"{where}: the least, {low}, must be below the most, {high}")
    if log and low <= 0:
        raise UsageError(f"{where}: {low} has no logarithm; the least must be above 0")
    if step is not None and not 0 < step <= high - low:
        raise UsageError(f"{where}: steps of {step} do not lead from {low} to {high}")
    if step is not None:
        of_low, of_high, of_step = map(decimal, (low, high, step))
        last = of_low + (of_high - of_low) // of_step * of_step
        high = int(last) if _whole(high) and last == int(last) else float(last)
    return Interval(low, high, log, step)


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
    _refuse_others(given, ("type", "min_iter", "eta"), f"{path}: early_terminate")
    found = {"min_iter": given["min_iter"], "eta": given.get("eta", 3)}
    if not _whole(*found.values()) or found["min_iter"] < 1 or found["eta"] < 2:
        raise UsageError(f"{path}: early_terminate: min_iter must be at least 1, and eta at least 2")
    return found
