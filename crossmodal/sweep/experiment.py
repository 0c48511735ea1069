"""What an experiment's configuration says for a sweep over it."""

from __future__ import annotations

import fcntl
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossmodal.arguments import COMMAND_LINE, flattened
from crossmodal.errors import UsageError
from crossmodal.preflight import check
from crossmodal.sweep.search import BEGUN, Choice, Interval, Search, flags, scalar, written
from crossmodal.whole_files import known, write_json

LOCK = "sweep.lock"
# keys that name and show runs, and change no figure
APART = ("name", "runs", "track", "observe")
DEFAULT_KEYS = (
    "model.optimizer.init_args.lr",
    "model.optimizer.init_args.weight_decay",
    "model.fusion.init_args.dropout",
)


def completed(search: Search, config: Mapping[str, Any]) -> Search:
    """Return the search with the parameters, the metric and the goal that are not given.

    Raises:
        UsageError: The experiment says nothing that they could follow from.
    """
    for key in (*search.parameters, *search.fixed):
        if key in (*APART, "ckpt_path", "config"):
            raise UsageError(f"--search {key}: it changes no figure of a trial; give it as --{key}, if at all")
    if not search.parameters:
        if search.fixed:
            raise UsageError(f"--search: all keys have one value each ({', '.join(search.fixed)}): nothing to search")
        found: dict[str, Choice | Interval] = {}
        for key in DEFAULT_KEYS:
            try:
                value = value_of(config, key)
            except KeyError:
                continue
            if isinstance(value, int | float) and key.endswith("dropout"):
                found[key] = Interval(0.0, 0.5)
            elif isinstance(value, int | float) and value > 0:
                found[key] = Interval(value / 10, value * 10.0, log=True)
        if not found:
            raise UsageError(
                "the experiment has no learning rate that is a number; say what to try: --search KEY=VALUES"
            )
        search = replace(search, parameters=found)
    kept_by = {}
    callbacks = (config.get("trainer") or {}).get("callbacks") or []
    for one in [callbacks] if isinstance(callbacks, dict) else callbacks:
        arguments = one.get("init_args") or {} if isinstance(one, dict) else {}
        if arguments.get("monitor") and str(one.get("class_path")).endswith("ModelCheckpoint"):
            kept_by[arguments["monitor"]] = "maximize" if arguments.get("mode") == "max" else "minimize"
    metric = search.metric or next(iter(kept_by), "val/loss")
    if metric.startswith("test/"):
        raise UsageError(f"--metric {metric}: what is chosen by the test split is not tested by it; give one of val/")
    goal = search.goal or kept_by.get(metric) or ("minimize" if metric.endswith("loss") else None)
    if goal is None:
        raise UsageError(f"--metric {metric}: say whether more is better: --goal minimize or --goal maximize")
    return replace(search, method=search.method or "bayes", metric=metric, goal=goal)


def check_values(search: Search, arguments: Sequence[str]) -> None:
    """Refuse values that a key cannot have, before anything is trained.

    An argument of a class that is searched, too, need be known to one of these classes alone: where it is not, a trial
    of the two fails by itself.

    Args:
        search: Whose metric and goal are known.
        arguments: Of `fit`.

    Raises:
        UsageError: A value is wrong; the message names the key.
    """
    for key, one in search.parameters.items():
        with_classes: list[dict[str, Any]] = [{}]
        for owner, of in search.parameters.items():
            if owner != key and key.startswith(f"{owner.removesuffix('.class_path')}."):
                with_classes += [{owner: value} for value in of.examples()]
        for value in one.examples():
            refused = [str(_refusal(arguments, {**search.fixed, **more, key: value}) or "") for more in with_classes]
            if all(refused):
                # of a class that has the key what is wrong with its value is told
                told = next((one for one in refused if "unknown key" not in one), refused[0])
                raise UsageError(told.replace(COMMAND_LINE, "--search", 1))


def _refusal(arguments: Sequence[str], settings: Mapping[str, Any]) -> UsageError | None:
    try:
        check("fit", [*arguments, *flags(settings)])
    except UsageError as error:
        return error
    return None


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes of a sweep waiting.

    Args:
        folder: Of the sweep.
    """
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def begin(folder: Path, config: Mapping[str, Any], search: Search, *, prunes: bool) -> None:
    """Store what the sweep tries, or see that it goes on with the same.

    Args:
        folder: Of the sweep.
        config: Of the experiment.
        search: What is searched.
        prunes: Whether trials are stopped early.

    Raises:
        UsageError: It began otherwise.
    """
    what: Any = {
        "configuration": {key: config[key] for key in config if key not in APART},
        "search": {**_said(search), "prune": prunes},
    }
    what = known(json.loads(json.dumps(what, default=str)))
    path = folder / BEGUN
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        if not path.exists():
            write_json(path, what)
            return
        try:
            began = json.loads(path.read_text(encoding="utf-8"))
            before = {name: dict(flattened(began[name])) for name in what}
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path} is damaged ({error!r}): delete {folder}, and sweep anew") from error
    for name, of in what.items():
        now = dict(flattened(of))
        for key in sorted([*before[name], *now], key=lambda key: key == "order"):  # which follows from the others
            was, is_now = (written(one[key]) if key in one else "not given" for one in (before[name], now))
            if was != is_now:
                raise UsageError(
                    f"{folder} began with another {key} ({was}, now {is_now}): give the same, or another --name for "
                    f"another sweep, or delete {folder}"
                )


def _said(search: Search) -> dict[str, Any]:
    parameters = {key: one.said() for key, one in search.parameters.items()}
    found = {key: getattr(search, key) for key in ("fixed", "method", "metric", "goal", "early")}
    return {"parameters": parameters, "order": list(parameters), **found}


def warm_up(config: Mapping[str, Any]) -> int:
    """Return the epoch from which trials may be stopped: a fifth of all, for what begins slowly may end well."""
    epochs = (config.get("trainer") or {}).get("max_epochs")
    return max(2, math.ceil(epochs / 5)) if isinstance(epochs, int) else 2


def own_values(search: Search, configuration: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a configuration has of the keys that are searched, if it has all, and the search allows them."""
    found: dict[str, Any] = {}
    for key, one in search.parameters.items():
        try:
            value = value_of(configuration, key)
        except KeyError:
            return None
        if value not in one:
            return None
        found[key] = value
    return found if search.method != "grid" else None


def value_of(configuration: Mapping[str, Any], key: str) -> Any:
    """Return a dotted key's value; `init_args` may be left out, as on the command line.

    Raises:
        KeyError: There is none.
    """
    found: Any = configuration
    for part in key.split("."):
        if isinstance(found, Mapping) and part not in found and isinstance(found.get("init_args"), Mapping):
            found = found["init_args"]
        if not isinstance(found, Mapping) or part not in found:
            raise KeyError(key)
        found = found[part]
    return scalar(found) if isinstance(found, str) else found
