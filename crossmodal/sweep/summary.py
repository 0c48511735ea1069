"""`sweep.json`: what a sweep came to, for a report and for whoever reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossmodal.sweep.experiment import alone
from crossmodal.sweep.search import SUMMARY, Search
from crossmodal.sweep.study import Study, state_of
from crossmodal.whole_files import write_json


def write_summary(study: Study, search: Search, name: str) -> Path:
    """Write it, whole or not at all.

    Args:
        study: The trials.
        search: What is searched.
        name: Of the sweep, such as `dots/sweep`.
    """
    with alone(study.folder):  # or what another process has come to since would be taken back
        write_json(study.folder / SUMMARY, _found(study, search, name))
    return study.folder / SUMMARY


def _found(study: Study, search: Search, name: str) -> dict[str, Any]:
    best = study.best()
    trials: list[dict[str, Any]] = []
    for one in study.trials:
        trials.append(
            {
                "number": one.number,
                "state": state_of(one),
                "value": None if state_of(one) == "failed" else one.value,
                "epochs": len(one.intermediate_values),
                "seconds": one.user_attrs.get("seconds"),
                "settings": study.values(one),
                "error": one.user_attrs.get("error"),
            }
        )
    return {
        "name": name,
        "metric": search.metric,
        "goal": search.goal,
        "method": search.method,
        "parameters": {key: one.said() for key, one in search.parameters.items()},
        "fixed": search.fixed,
        "best": best.number if best else None,
        "importance": study.importance(),
        "trials": trials,
    }
