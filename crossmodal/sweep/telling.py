"""What a sweep says of its trials. Optuna is imported when one is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crossmodal.sweep.search import Choice, Interval, Search, short_names, written

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def result(trial: FrozenTrial, search: Search) -> str:
    """Return what a trial came to."""
    from crossmodal.sweep.study import state_of

    if error := trial.user_attrs.get("error"):
        return f"failed: {error}"
    after = f", stopped after epoch {max(trial.intermediate_values)}" if state_of(trial) == "pruned" else ""
    return f"{search.metric} {'not finite' if trial.value is None else f'{trial.value:.4f}'}{after}"


def settings_of(settings: Mapping[str, Any], search: Search) -> str:
    """Return what a trial was tried with, by short names."""
    return "  ".join(f"{name} {_shown(settings[key])}" for key, name in short_names(search.parameters).items())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else written(value)


def in_words(one: Choice | Interval) -> str:
    """Return what is tried of a key."""
    if not isinstance(one, Interval):
        return ", ".join(map(written, one.values))
    how = " (log)" if one.log else f" in steps of {one.step}" if one.step else ""
    return f"{_shown(one.low)} to {_shown(one.high)}{how}"
