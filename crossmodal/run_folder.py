"""What a run leaves: `runs/<name>/<version>/` with its configuration, checkpoints and figures.

Nothing here imports torch, so that a missing checkpoint is noticed at once.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from crossmodal.whole_files import write_json

# of a trained model: a run's folder, or one of its checkpoints; checked by `check_trained_run`
TrainedRun = str


class LockedError(ValueError):
    """Another process trains a run."""


@dataclass(frozen=True)
class RunFolder:
    """One run's folder.

    Args:
        path: `runs/<name>/<version>`.
    """

    path: Path

    @classmethod
    def new(cls, runs: Path, name: str) -> RunFolder:
        """Make the next version's folder."""
        parent = experiment_folder(runs, name)
        parent.mkdir(parents=True, exist_ok=True)
        version = max(_versions(parent), default=-1) + 1
        while True:
            try:
                (parent / str(version)).mkdir(parents=True)  # who removes the last run removes the parent
            except FileExistsError:
                version += 1  # another process was quicker
            else:
                return cls(parent / str(version))

    @classmethod
    def latest(cls, runs: Path, name: str, *, having: str | None = None) -> RunFolder | None:
        """Return the newest version's folder, or the newest that has this checkpoint, or None."""
        parent = experiment_folder(runs, name)
        folders = [cls(parent / str(version)) for version in sorted(_versions(parent), reverse=True)]
        return next((run for run in folders if having is None or run.checkpoint(having).exists()), None)

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder:
        """Return the run that a checkpoint belongs to, or else the folder that it lies in."""
        folder = checkpoint.absolute().parent
        run = folder.parent if folder.name == "checkpoints" else folder
        here = Path.cwd()
        return cls(run.relative_to(here) if run.is_relative_to(here) else run)

    @property
    def config(self) -> Path:
        """The complete configuration."""
        return self.path / "config.yaml"

    def checkpoint(self, name: str) -> Path:
        """Return where `last` or `best` is."""
        return self.path / "checkpoints" / f"{name}.ckpt"

    def gate(self, modality: str) -> Path:
        """Return where a modality's novelty gate is."""
        return self.path / "gates" / f"{modality}.safetensors"

    def write(self, file_name: str, figures: dict[str, Any]) -> Path:
        """Write figures as JSON, whole or not at all; null for what is not finite."""
        write_json(self.path / file_name, figures)
        return self.path / file_name

    def begin_with(self, checkpoint: Path) -> None:
        """Copy another run's checkpoint as this run's `last`."""
        last = self.checkpoint("last")
        last.parent.mkdir(exist_ok=True)
        shutil.copyfile(checkpoint, last)

    def lock(self) -> IO[str]:
        """Return a file whose lock says that this process trains here; it ends with the process.

        Raises:
            LockedError: Another process does.
        """
        file = (self.path / ".lock").open("w")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise LockedError(
                f"{self.path} is being trained by another process; wait for its end, or begin a new run without "
                "--ckpt_path"
            ) from None
        return file

    def remove(self) -> None:
        """Delete it, and the experiment's folder if it has no other run."""
        shutil.rmtree(self.path)
        if not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()


def experiment_folder(runs: Path, name: str) -> Path:
    """Return the folder of an experiment's runs.

    Raises:
        ValueError: It would not lie in that of all runs.
    """
    if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"name {name!r}: it becomes a folder of {runs}; give one such as dots, or study/dots")
    return runs / name


def trained_run(path: Path) -> tuple[RunFolder, Path]:
    """Return a run, and its best checkpoint or else its last, or the checkpoint that is given itself.

    Args:
        path: Of the run, or of a checkpoint.

    Raises:
        ValueError: There is no such run.
    """
    run = RunFolder.of_checkpoint(path) if path.is_file() else RunFolder(path)
    if not run.config.is_file():
        raise ValueError(f"{path}: no run, which has a config.yaml; give one such as runs/easy_vqa/0")
    checkpoints = [path] if path.is_file() else [run.checkpoint(name) for name in ("best", "last")]
    found = next((checkpoint for checkpoint in checkpoints if checkpoint.is_file()), None)
    if found is None:
        raise ValueError(f"{path}: the run has neither {checkpoints[0]} nor {checkpoints[-1].name}")
    return run, found


def given_run(path: Path) -> tuple[RunFolder, Path]:
    """Return what `trained_run` does, or the newest run of an experiment's folder, such as runs/easy_vqa.

    That is for who types it; a configuration must not mean another run tomorrow.

    Raises:
        ValueError: There is no such run.
    """
    if path.is_dir() and path.name and not (path / "config.yaml").is_file():
        newest = [RunFolder.latest(path.parent, path.name, having=name) for name in ("best", "last")]
        runs = sorted((run for run in newest if run is not None), key=lambda run: int(run.path.name))
        path = runs[-1].path if runs else path
    return trained_run(path)


def check_trained_run(run: object) -> None:
    """Raise ValueError, in one line, if a configuration's run cannot be there."""
    if isinstance(run, str):
        trained_run(Path(run))


def checkpoint_to_evaluate(command: str, given: str | None, runs: Path, name: str) -> Path:
    """Return the file that `--ckpt_path` means.

    `best` and `last` are those of the newest run that has one; a run's folder means its best, or else its last.

    Raises:
        ValueError: None is given, or there is none.
    """
    if given is None:
        raise ValueError(f"crossmodal {command} needs --ckpt_path: a file, best or last")
    if given not in ("best", "last"):
        return given_run(Path(given))[1] if Path(given).is_dir() else Path(given)
    run = RunFolder.latest(runs, name, having=given)
    if run is None:
        if (other := RunFolder.latest(runs, name)) is not None and any(other.path.glob("checkpoints/*.ckpt")):
            raise ValueError(
                f"no run of {name!r} in {runs} has a best checkpoint: give --ckpt_path last, or fit it with a val "
                "split and a ModelCheckpoint of filename best in trainer.callbacks"
            )
        raise ValueError(f"no {given} checkpoint of {name!r} in {runs}; fit it first")
    return run.checkpoint(given)


def run_to_go_on_with(given: str, runs: Path, name: str) -> RunFolder | None:
    """Return a folder's run, or the newest, even if it was killed before its first checkpoint; None if there is no run.

    Args:
        given: `best` or `last` of the newest, or a run's folder.
        runs: The folder of all runs.
        name: Of the experiment.

    Raises:
        ValueError: It has checkpoints, but not this one; or a folder is none of a run, whose name is a number.
    """
    if given not in ("best", "last") and not Path(given).resolve().name.isdecimal():
        raise ValueError(f"{given} is no run; give one such as {Path(given) / '0'}")
    run = RunFolder.latest(runs, name) if given in ("best", "last") else RunFolder(Path(given))
    given = given if given in ("best", "last") else "last"
    others = [] if run is None else sorted((run.path / "checkpoints").glob("*.ckpt"))
    if run is not None and others and run.checkpoint(given) not in others:
        raise ValueError(f"{run.path} has no {given}.ckpt; give one of {', '.join(map(str, others))}")
    return run


def _versions(parent: Path) -> list[int]:
    return [int(path.name) for path in parent.glob("*") if path.name.isdecimal() and path.is_dir()]
