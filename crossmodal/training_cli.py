"""The LightningCLI behind `crossmodal fit | validate | test | predict`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, ClassVar

import yaml
from jsonargparse.typing import PositiveInt
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import LambdaCallback, ModelCheckpoint, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser

from crossmodal.callbacks import Clock, DataWait, Interrupted, MissedValidation, SaveLast
from crossmodal.checkpoints import (
    AtomicCheckpointIO,
    CheckpointMismatchError,
    RandomState,
    check_goes_on,
    keeps_newest,
    load_weights,
    read_checkpoint,
    refuse_other_settings,
)
from crossmodal.console import EpochBar, EpochLines, is_terminal, print_figures, tame_chatter
from crossmodal.environment import environment
from crossmodal.errors import TRACEBACK, place_in_own_code, refuse, say_how_to_go_on
from crossmodal.experiment_cli import MISTAKES, ExperimentCLI
from crossmodal.media import MediaLog
from crossmodal.observers import observers
from crossmodal.output import is_quiet, say
from crossmodal.predictions import predict
from crossmodal.run_folder import RunFolder, checkpoint_to_evaluate, run_to_go_on_with
from crossmodal.tracking import finish, loggers


class TrainingCLI(ExperimentCLI):
    """An experiment with its trainer and its run."""

    begun: ClassVar[Path | None] = None  # a run to go on with; an interrupt leaves no instance to ask
    more_observers: ClassVar[Sequence[Callable[[MediaLog], Callback]]] = ()

    def __init__(self) -> None:
        self.run_folder: RunFolder | None = None
        self._new_folder: RunFolder | None = None
        self._checkpoint_step = 0
        self._lock: IO[str] | None = None
        self.figures: dict[str, Any] = {}
        try:
            super().__init__()
        except MISTAKES:
            self._remove_refused_run()
            raise

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--output", type=str | None, help=".parquet or .csv; by default in the run's folder.")
            parser.add_argument("--limit", type=PositiveInt | None, help="Only so many rows, the first.")
        return parser

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except CheckpointMismatchError as error:
            raise ValueError(f"{self.settings.ckpt_path} does not fit: {error}") from error

    def _remove_refused_run(self) -> None:
        """Remove the folder of a run that took no step: it would be the newest, which `last` goes on with."""
        trainer = getattr(self, "trainer", None)
        if self._new_folder is None or (trainer is not None and trainer.global_step > 0):
            return
        if wandb := sys.modules.get("wandb"):
            wandb.finish()
        with suppress(OSError):  # the mistake is what must be told
            was_announced = self._new_folder.config.exists()
            self._new_folder.remove()
            if was_announced:
                say(f"removed: {self._new_folder.path}, which took no step")

    @property
    def is_trial(self) -> bool:
        """Whether this is a `fast_dev_run`, which leaves nothing."""
        return bool(self._get(self.config, "trainer").fast_dev_run)

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint and the run's folder."""
        super().before_instantiate_classes()
        self.settings.ckpt_path = self._find_checkpoint(self.settings)

    def _find_checkpoint(self, settings: Any) -> str | None:
        given: str | None = settings.ckpt_path
        runs = Path(settings.runs)
        if self.subcommand != "fit":
            found = checkpoint_to_evaluate(self.subcommand or "", given, runs, settings.name)
        elif given is None:
            return None
        elif given in ("last", "best") or Path(given).is_dir():
            self.run_folder = run = run_to_go_on_with(given, runs, settings.name)
            wanted = "best" if given == "best" else "last"
            if run is None or not run.checkpoint(wanted).exists():  # it begins again, in the same folder
                where = run.path if run is not None else runs / settings.name
                if run is not None and not self._is_of_this_experiment(run):
                    raise ValueError(f"{where}: is no run of {runs / settings.name}, and has no {wanted}.ckpt")
                say(f"no checkpoint in {where} yet: starting from the beginning")
                return None
            found = run.checkpoint(wanted)
        else:
            found = Path(given)
        self.run_folder = RunFolder.of_checkpoint(found)
        if self.subcommand == "fit":
            if self._is_of_this_experiment(self.run_folder):
                self._lock = self.run_folder.lock()  # before its step is read
            refuse_other_settings(self.run_folder.config, self._dumped())
        content = read_checkpoint(found)
        if self.subcommand == "fit":
            check_goes_on(content, found, max_epochs=self._get(self.config, "trainer").max_epochs)
        self._checkpoint_step = int(content["global_step"])
        return str(found)

    def _dumped(self) -> str:
        return str(self._parser("fit").dump(self.settings, skip_none=False))

    def _is_of_this_experiment(self, run: RunFolder) -> bool:
        parent: Path = Path(self.settings.runs) / self.settings.name
        return bool(run.path.resolve().parent == parent.resolve())

    def instantiate_classes(self) -> None:
        """Build data, model and trainer."""
        super().instantiate_classes()
        self.trainer = self.instantiate_trainer()
        if self.datamodule.quarantine is not None and self.run_folder is not None and not self.is_trial:
            file = self.run_folder.path / "quarantine.jsonl"
            if self.subcommand == "predict":
                file = Path(f"{self._predictions}.quarantine.jsonl")
            goes_on = self.subcommand == "fit" and self._new_folder is None
            self.datamodule.quarantine.list_in(file, goes_on=goes_on)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer with the run's loggers, callbacks and checkpoints."""
        settings = self._get(self.config_init, "trainer")
        callbacks = [one for one in _as_list(settings.callbacks) if not (is_quiet() and isinstance(one, ProgressBar))]
        own: list[Callback] = [RandomState(), DataWait()]
        wants_bar: bool | None = False if is_quiet() else settings.enable_progress_bar
        if is_quiet():
            kwargs["enable_progress_bar"] = False
        if wants_bar is not False and not any(isinstance(one, ProgressBar) for one in callbacks):
            kwargs["enable_progress_bar"] = has_bar = wants_bar or is_terminal()
            own.append(EpochBar() if has_bar else EpochLines())
        if self.subcommand == "fit" and not self.is_trial:
            self.run_folder = self._folder_to_fit_in()
            TrainingCLI.begun = self.run_folder.path
            self._lock = self._lock or self.run_folder.lock()
            own += [SaveLast(self.run_folder.checkpoint("last")), MissedValidation()]
            if settings.enable_checkpointing is not False and not any(map(keeps_newest, callbacks)):
                own.append(ModelCheckpoint(filename="last", enable_version_counter=False))
            if self.settings.observe:
                own += observers(self.run_folder.path, first_step=self._checkpoint_step, more=self.more_observers)
            begins = self._new_folder is not None
            kwargs["logger"] = loggers(
                _as_list(settings.logger),
                self.run_folder,
                name=self.settings.name,
                first_step=self._checkpoint_step,
                track=self.settings.track,
                about={**yaml.safe_load(self._dumped()), "environment": environment(begins=begins)},
            )
        else:
            callbacks = [one for one in callbacks if not isinstance(one, ModelCheckpoint)]
            kwargs["logger"] = False
        kwargs["callbacks"] = callbacks
        kwargs["plugins"] = [*_as_list(settings.plugins), AtomicCheckpointIO()]
        try:
            trainer = self._instantiate_trainer({**settings, **kwargs}, own)
        except MisconfigurationException as error:
            raise ValueError(f"trainer: {error}") from error
        if settings.overfit_batches:
            raise ValueError("trainer.overfit_batches is not supported; use trainer.limit_train_batches")
        if trainer.num_devices * trainer.num_nodes > 1:
            raise ValueError("trainer.devices, trainer.num_nodes: this release trains on one device; set both to 1")
        return trainer

    def _folder_to_fit_in(self) -> RunFolder:
        """Go on in the checkpoint's run, if it is a run of this experiment; else begin a new one."""
        if self.run_folder is not None and self._is_of_this_experiment(self.run_folder):
            return RunFolder(Path(self.settings.runs) / self.settings.name / self.run_folder.path.resolve().name)
        self._new_folder = RunFolder.new(Path(self.settings.runs), self.settings.name)
        if self.settings.ckpt_path is not None:  # the new run's own, so that it too can be gone on with at any time
            self._new_folder.begin_with(Path(self.settings.ckpt_path))
        return self._new_folder

    def fit(self, **kwargs: Any) -> None:
        """Fit; then measure the best checkpoint on the validation and the test split, and write it down."""
        clock = Clock(lambda: sum(one.seconds for one in self.model.encoded))
        self.trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        for callback in self.trainer.early_stopping_callbacks:
            if callback.monitor.startswith("val/") and self.datamodule.rows("val") is None:
                raise ValueError(
                    f"trainer.callbacks: EarlyStopping watches {callback.monitor}, but the data has no val split"
                )
        if self.run_folder is not None and not self.is_trial:
            if self._new_folder is not None:
                self._save_config()
            else:  # what it began with stays until the checkpoint is found to go with what is given now
                save = LambdaCallback(on_train_start=lambda *_: self._go_on())
                self.trainer.callbacks.append(save)  # type: ignore[attr-defined]
            say(f"run: {self.run_folder.path}")
        self.trainer.fit(**{**kwargs, "weights_only": True})
        if self.is_trial or self.run_folder is None:
            return
        seconds = clock.state_dict()
        kept = [one for one in self.trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.monitor]
        best = next((one.best_model_path for one in kept if one.best_model_path), None)
        figures: dict[str, Any] = {"epoch": self.trainer.current_epoch, "step": self.trainer.global_step}
        for split in ("val", "test"):
            try:
                if self.datamodule.rows(split) is not None:
                    figures.update(self._measure(split, best))
            except MISTAKES as error:
                folder = self.run_folder.path / "checkpoints"
                raise ValueError(f"{error}\n(training is done, and its checkpoints are in {folder})") from error
        if best is not None:  # also where there was nothing to measure
            load_weights(self.model, Path(best))
        figures |= {f"seconds/{part}": round(value, 3) for part, value in seconds.items()}
        parameters = list(self.model.parameters())
        figures["parameters/trained"] = sum(one.numel() for one in parameters if one.requires_grad)
        figures["parameters/all"] = sum(one.numel() for one in parameters)
        if self.datamodule.quarantine is not None:
            figures |= self.datamodule.quarantine.counts
        self.figures = figures
        path = self.run_folder.write("metrics.json", figures)
        print_figures(figures, {"checkpoints": path.parent / "checkpoints", "figures": path})
        say(f"page: crossmodal report {path.parent}")

    def after_fit(self) -> None:
        """Let those that follow the run write what they have not written yet."""
        finish(self.trainer.loggers, self.figures)

    def _measure(self, split: str, checkpoint: str | None) -> dict[str, float]:
        evaluate = self.trainer.validate if split == "val" else self.trainer.test
        loggers = self.trainer.loggers
        self.trainer.loggers = [] if split == "val" else loggers  # curves end where training does
        # the best checkpoint's weights are loaded here, or those that training ended with are used
        figures = evaluate(
            self.model, datamodule=self.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True
        )
        self.trainer.loggers = loggers
        return dict(figures[0]) if figures else {}  # none where limit_test_batches is 0

    def _go_on(self) -> None:
        assert self.run_folder is not None
        (self.run_folder.path / "metrics.json").unlink(missing_ok=True)  # of where it had ended before
        self._save_config()

    def _save_config(self) -> None:
        assert self.run_folder is not None
        config = self.settings.clone()
        config.ckpt_path = None  # running the file again begins anew
        config.pop("config", None)
        self._parser(self.subcommand).save(
            config, str(self.run_folder.config), skip_none=False, overwrite=True, multifile=False
        )
        self.run_folder.write("environment.json", environment(begins=self._new_folder is not None))

    def validate(self, **kwargs: Any) -> None:
        """Measure a checkpoint on the validation split."""
        self._evaluate("val", "validate.json", kwargs)

    def test(self, **kwargs: Any) -> None:
        """Measure a checkpoint on the test split."""
        self._evaluate("test", "test.json", kwargs)

    def _evaluate(self, split: str, file_name: str, kwargs: dict[str, Any]) -> None:
        if self.datamodule.rows(split) is None:
            raise ValueError(f"{type(self.datamodule).__name__} has no {split} split")
        figures = self._measure(split, kwargs["ckpt_path"])
        assert self.run_folder is not None
        print_figures(figures, {"figures": self.run_folder.write(file_name, figures)})

    @property
    def _predictions(self) -> Path:
        assert self.run_folder is not None
        return Path(self.settings.output or self.run_folder.path / "predictions.parquet")

    def predict(self, **kwargs: Any) -> None:
        """Write a checkpoint's predictions."""
        path = self._predictions
        settings = self._parser("predict").dump(self.settings, skip_none=False)
        checkpoint, limit = Path(kwargs["ckpt_path"]), self.settings.limit
        predict(self.trainer, self.model, self.datamodule, path, checkpoint, settings=settings, limit=limit)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def main(kind: type[TrainingCLI] = TrainingCLI) -> int:
    """Run the subcommand of `sys.argv`; return the exit status."""
    tame_chatter()
    try:
        kind()
    except Interrupted as interrupted:
        say_how_to_go_on(str(interrupted), TrainingCLI.begun)
        return interrupted.exit_status
    except (KeyboardInterrupt, SystemExit) as error:
        # before training starts, Lightning answers Ctrl-C with exit status 1
        if not isinstance(error, KeyboardInterrupt) and not isinstance(error.__context__, KeyboardInterrupt):
            raise
        say_how_to_go_on("interrupted", TrainingCLI.begun)
        return 130
    except MISTAKES as error:
        if os.environ.get(TRACEBACK):
            raise
        return refuse(f"{place_in_own_code(error)}{error}", 1)
    return 0
