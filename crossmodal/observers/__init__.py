"""Callbacks that log what a run does. They look on: nothing that is learned depends on them, and they draw nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pytorch_lightning import Callback

from crossmodal.media import MediaLog
from crossmodal.observers.answers import AnswersInWhole
from crossmodal.observers.closely import LookClosely
from crossmodal.observers.pace import Pace


def observers(run: Path, *, first_step: int, more: Iterable[Callable[[MediaLog], Callback]] = ()) -> list[Callback]:
    """Return those that every run has.

    Args:
        run: Its folder.
        first_step: Of what is written from here on.
        more: Make further ones, of where pictures go.
    """
    media = MediaLog(run, first_step=first_step)
    return [Pace(), AnswersInWhole(media), LookClosely(media), *(make(media) for make in more)]
