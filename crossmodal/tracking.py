"""Where a run is followed: always `metrics.csv`, and wandb as the configuration, the environment or `--track` says."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, WandbLogger

from crossmodal.run_folder import RunFolder
from crossmodal.run_logger import RunLogger
from crossmodal.whole_files import write_json

Track = Literal["online", "offline", "disabled"]
MODES = {"dryrun": "offline", "run": "online"}  # as wandb's older names are read
ID_FILE = "wandb.json"


def loggers(
    given: Sequence[Any], run: RunFolder, *, name: str, first_step: int, track: Track | None, about: Mapping[str, Any]
) -> list[Logger]:
    """Return a run's loggers, the one that writes `metrics.csv` first.

    A run that goes on is the same run to wandb, too: its id lies in the run's folder.

    Args:
        given: By the configuration.
        run: Its folder.
        name: Of the experiment.
        first_step: Of what is logged from here on.
        track: Where wandb logs to; None for what the environment's WANDB_MODE says, or else the logger itself.
        about: What wandb is to keep of the run: its configuration, its environment.

    Raises:
        ValueError: The environment names a mode that there is not.
    """
    found: list[Logger] = [RunLogger(run, first_step=first_step)]
    others = [logger for logger in given if isinstance(logger, Logger)]
    if track in ("online", "offline") and not any(isinstance(logger, WandbLogger) for logger in others):
        others.append(WandbLogger(project="crossmodal"))
    for logger in others:
        if isinstance(logger, WandbLogger):
            own = logger._wandb_init.get("mode") or ("offline" if logger._offline else "online")
            mode = track or _mode_of_environment() or str(own)
            if mode == "disabled":
                continue
            _settle(logger, mode, run, name, about)
        found.append(logger)
    return found


def finish(loggers: Sequence[Logger], figures: Mapping[str, Any]) -> None:
    """Let wandb write what it has not written yet, and end the run.

    Args:
        loggers: Of the run.
        figures: Of `metrics.json`, for wandb's summary; those of the best checkpoint are named `best/val/...`.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(
                {f"best/{name}" if name.startswith("val/") else name: value for name, value in figures.items()}
            )
            logger.experiment.finish()


def log_folder(trainer: Trainer, folder: Path, *, kind: str) -> None:
    """Give wandb a folder as an artifact, if `LogCheckpoints` says that it is to have such."""
    if any(isinstance(one, LogCheckpoints) for one in trainer.callbacks):  # type: ignore[attr-defined]
        import wandb

        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                artifact = wandb.Artifact(f"{kind}-{logger.experiment.id}", type=kind)
                artifact.add_dir(str(folder))
                logger.experiment.log_artifact(artifact)


def _mode_of_environment() -> str | None:
    given = os.environ.get("WANDB_MODE")
    mode = MODES.get(given or "", given or None)
    if mode is not None and mode not in get_args(Track):
        raise ValueError(f"WANDB_MODE: expected {', '.join(get_args(Track))}, found {given!r}")
    return mode


def _settle(logger: WandbLogger, mode: str, run: RunFolder, name: str, about: Mapping[str, Any]) -> None:
    if mode == "offline":  # its reports of errors look their host up even so
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    settings = logger._wandb_init
    settings.pop("anonymous", None)  # wandb warns of it; Lightning passes it always
    logger._offline = False  # it would change the environment; the mode says it
    logger._save_dir = str(run.path)
    logger._name = settings["name"] = settings.get("name") or f"{name}-{run.path.name}"
    settings.update(mode=mode, dir=str(run.path), config={**(settings.get("config") or {}), **about})
    if os.environ.get("WANDB_SWEEP_ID"):  # whose agent has named the run, and takes no other name
        settings.pop("id", None)
        return
    settings.update(id=settings.get("id") or _id_of(run), resume="allow")
    logger._id = settings["id"]


def _id_of(run: RunFolder) -> str:
    path = run.path / ID_FILE
    try:
        return str(json.loads(path.read_text())["id"])
    except (OSError, ValueError, KeyError, TypeError):  # it is new, or what was written is not whole
        made = uuid.uuid4().hex[:8]
        write_json(path, {"id": made})
        return made


class Watch(Callback):
    """Logs histograms of gradients, of parameters, or of both, to wandb.

    Args:
        log: Of which.
        every: So many steps.
    """

    def __init__(self, log: Literal["gradients", "parameters", "all"] = "gradients", *, every: int = 100) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, not {every}")
        self._log = log
        self._every = every

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.watch(pl_module, log=self._log, log_freq=self._every, log_graph=False)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.unwatch(pl_module)


class LogCheckpoints(Callback):
    """Gives wandb the run's best and last checkpoints as an artifact, when training ends; offline, too."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what there is."""
        import wandb

        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                artifact = wandb.Artifact(f"model-{logger.experiment.id}", type="model")
                for path in sorted(Path(str(logger.save_dir), "checkpoints").glob("*.ckpt")):
                    artifact.add_file(str(path))
                logger.experiment.log_artifact(artifact)
