"""What `crossmodal extend` does: a run whose model has one modality more, or one less, and else answers as before.

Legend: B rows, C outputs.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning.cli import LightningArgumentParser
from rich.progress import track
from torch import Tensor

from crossmodal import training_cli
from crossmodal.checkpoints import AtomicCheckpointIO, differences, load_weights, read_checkpoint
from crossmodal.console import is_terminal, tame_chatter
from crossmodal.errors import TRACEBACK, place_in_own_code, refuse
from crossmodal.experiment_cli import MISTAKES, DataAndModel
from crossmodal.gates import MOST_ENCODED, copy_gates, fit_gates, fit_missing, store_split
from crossmodal.joining import answers
from crossmodal.module import CrossModalModule
from crossmodal.run_folder import RunFolder
from datamodules.batch import ABSENT
from datamodules.paired import PairedDataModule, Split

MOST_ROWS = 10_000  # whose answers are compared, where the tokens of all experts are stored
PLACES = ("pretrained", "model", "run", "sha256")  # of weights, which are compared by content


class Answers:
    """What a run's model answers to its own validation rows, or else to its test rows, without a modality.

    Args:
        run: Its configuration and data.
        checkpoint: Its weights.
        modality: That the rows lack.
        data: As a configuration has it: taken where the run's own data cannot be read any more.

    Raises:
        ValueError: The checkpoint does not fit the configuration, or there is no data to read.
    """

    def __init__(self, run: RunFolder, checkpoint: Path, modality: str, *, data: dict[str, Any] | None = None) -> None:
        self.modality = modality
        self.of_own_data = True
        try:
            self._read(checkpoint, ["--config", str(run.config)])
        except MISTAKES as error:
            if data is None:
                raise
            print(f"the data of {run.path} cannot be read ({error}): answers to the new data are compared", flush=True)
            self.of_own_data = False
            self._read(checkpoint, ["--config", str(run.config), "--data", json.dumps(data)])

    def _read(self, checkpoint: Path, arguments: list[str]) -> None:
        experiment = DataAndModel(arguments)
        self.module: CrossModalModule = experiment.model
        self.data: PairedDataModule = experiment.datamodule
        self.kept = {name: expert for name, expert in self.module.experts.items() if name != self.modality}
        load_weights(self.module, checkpoint)
        self.data.connect({name: expert.transform for name, expert in self.kept.items()}, optional=self.kept)
        if self.data.quarantine is not None:
            self.data.quarantine.limit = 1.0  # training was allowed to go on with these rows
        splits: tuple[Split, ...] = ("val", "test")
        self.split = next((split for split in splits if self.data.rows(split) is not None), None)
        if self.split is not None:
            stored = self.module.feature_store is not None and all(expert.frozen for expert in self.kept.values())
            self.data.limit(self.split, MOST_ROWS if stored else MOST_ENCODED, drawn=True)
            store_split(self.module, self.kept, self.data, self.split)
            self.before = self._of(self.module)

    def _unseen(self) -> list[str]:
        """Return the modalities that no row has whose answers are compared."""
        rows = None if self.split is None else self.data.rows(self.split)
        return [name for name in self.kept if rows is None or not (rows.index[name] != ABSENT).any()]

    def _of(self, module: CrossModalModule) -> list[dict[str, Tensor]]:
        assert self.split is not None
        batches = track(
            self.data.dataloader(self.split) or (),
            description="comparing answers",
            transient=True,
            disable=not is_terminal(),
        )
        return answers(module.model, batches, torch.device("cpu"))

    def check(self, module: CrossModalModule) -> str:
        """Say that another model answers the same, to the last bit.

        Raises:
            ValueError: It does not.
        """
        now = module.model.state_dict()
        # frozen experts are in no checkpoint; what they are is compared where one is loaded
        frozen = tuple(f"experts.{name}." for name, expert in self.module.experts.items() if expert.frozen)
        for name, value in self.module.model.state_dict().items():
            if name in now and not name.startswith(frozen) and not torch.equal(value.cpu(), now[name].cpu()):
                raise ValueError(f"{name} was to stay as it is, and has changed")
        unseen = self._unseen()
        if len(unseen) == len(self.kept):
            return f"no old weight has changed; answers are not compared: no row has {' or '.join(unseen)}"
        num_rows = 0
        for before, after in zip(self.before, self._of(module), strict=True):
            for task, outputs_BC in before.items():
                if not torch.equal(outputs_BC, after[task]):
                    by = (outputs_BC - after[task]).abs().max().item()
                    raise ValueError(
                        f"the model's answers to rows without {self.modality} have changed, by up to {by:g} ({task}), "
                        "though no weight has: its fusion or a head lets more depend on what joined than that"
                    )
            num_rows += len(next(iter(before.values())))
        return (
            f"unchanged: {num_rows:,} rows of the {self.split} split without {self.modality} are answered as before, "
            f"bit for bit{f' (none of them has {nor})' if (nor := ' or '.join(unseen)) else ''}"
        )


def extend(run: RunFolder, checkpoint: Path, modality: str, arguments: list[str]) -> int:
    """Fit an experiment with one modality more, and check the rest; return the exit status.

    Args:
        run: That is extended.
        checkpoint: Of the run.
        modality: That joins.
        arguments: Of `fit`.
    """

    class ExtendCLI(training_cli.TrainingCLI):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            self.config = parser.parse_args(["fit", *arguments])

        def before_instantiate_classes(self) -> None:
            super().before_instantiate_classes()
            now = yaml.safe_load(self._parser("fit").dump(self.settings, skip_none=False))
            refuse_other_model(yaml.safe_load(run.config.read_text()), now, modality)
            print(f"extending: {checkpoint}", flush=True)

        def fit(self, **kwargs: Any) -> None:
            super().fit(**kwargs)
            if self.is_trial or self.run_folder is None:
                return
            best, last = (self.run_folder.checkpoint(name) for name in ("best", "last"))
            if not last.exists():  # where nothing was to be trained
                self.trainer.save_checkpoint(last)
            load_weights(self.model, best if best.exists() else last)
            try:
                self._check()
            except MISTAKES as error:
                folder = self.run_folder.path
                raise ValueError(
                    f"{error}\n(training is done, and its run is {folder}; it is not known to answer as before)"
                ) from error

        def _check(self) -> None:
            assert self.run_folder is not None
            new_data = yaml.safe_load(self._parser("fit").dump(self.settings, skip_none=False))["data"]
            before = Answers(run, checkpoint, modality, data=new_data)
            print(before.check(self.model), flush=True)
            copy_gates(run, self.run_folder, before.kept)
            if before.of_own_data:
                fit_missing(self.run_folder, before.module, before.data)
            fit_gates(self.run_folder, self.model, self.datamodule, [modality])

    return training_cli.main(ExtendCLI)


def remove(run: RunFolder, checkpoint: Path, modality: str) -> int:
    """Make a run without a modality that joined; return the exit status.

    Args:
        run: That has it.
        checkpoint: Of the run.
        modality: That leaves.
    """
    tame_chatter()
    try:
        _remove(run, checkpoint, modality)
    except MISTAKES as error:
        if os.environ.get(TRACEBACK):
            raise
        return refuse(f"{place_in_own_code(error)}{error}", 1)
    return 0


def _remove(run: RunFolder, checkpoint: Path, modality: str) -> None:
    before = Answers(run, checkpoint, modality)
    config = without(yaml.safe_load(run.config.read_text()), modality)
    folder = RunFolder.new(Path(config["runs"]), config["name"])
    try:
        folder.config.write_text(yaml.safe_dump(config, sort_keys=False))
        module: CrossModalModule = DataAndModel(["--config", str(folder.config)]).model
        content = read_checkpoint(checkpoint)
        own = {f"model.{name}" for name in before.module.model.own_state(modality)}
        state = {name: value for name, value in content["state_dict"].items() if name.startswith("model.")}
        weights = {name: value for name, value in state.items() if name not in own}
        # what the optimizer knows is of the model that was
        known = ("epoch", "global_step", "pytorch-lightning_version", "outputs")
        kept = {key: content[key] for key in known if key in content}
        frozen = {name: print_ for name, print_ in content.get("frozen_experts", {}).items() if name != modality}
        made = folder.checkpoint("best" if checkpoint.stem == "best" else "last")
        AtomicCheckpointIO().save_checkpoint({**kept, "frozen_experts": frozen, "state_dict": weights}, made)
        load_weights(module, made)
        told = before.check(module)
        copy_gates(run, folder, module.experts)
    except BaseException:
        folder.remove()
        raise
    print(f"run: {folder.path}\n{told}\ncheckpoint: {made}")


def without(config: dict[str, Any], modality: str) -> dict[str, Any]:
    """Return an experiment's configuration without a modality that joined."""
    config = copy.deepcopy(config)
    model = config["model"]
    del config["experts"][modality], model["joined"][modality]
    for how in model["joined"].values():
        how["like"] = None if how.get("like") == modality else how.get("like")
    model["joined"] = model["joined"] or None
    if isinstance(model.get("modality_dropout"), dict):
        model["modality_dropout"].pop(modality, None)
    # a name of its own: it must not be what `--ckpt_path last` of the run means
    name = f"{config['name']}_without_{modality}"
    # alignments and balance serve training alone, and what is left is not trained on
    return {**config, "name": name, "model": {**model, "alignments": None, "balance": None}}


def refuse_other_model(before: dict[str, Any], now: dict[str, Any], modality: str) -> None:
    """Refuse a configuration that changes more of the model than to add a modality: its answers would change.

    Args:
        before: Of the run that is extended.
        now: Of the run that it is to become.
        modality: That joins.

    Raises:
        ValueError: The message names the key.
    """

    def fixed(config: dict[str, Any]) -> dict[str, Any]:
        model = config["model"]
        joined = {name: how for name, how in (model.get("joined") or {}).items() if name != modality}
        return {
            "experts": {name: expert for name, expert in config["experts"].items() if name != modality},
            "model": {key: model.get(key) for key in ("fusion", "heads")} | {"joined": joined},
            "features are stored": model.get("feature_store") is not None,  # which `precision: auto` goes by
        }

    if (now["model"].get("joined") or {}).keys() - before["experts"].keys() != {modality}:
        raise ValueError("model.joined: that is for `crossmodal extend` to write; leave it out")
    for name, then, given in differences(fixed(before), fixed(now)):
        if name.rpartition(".")[2] not in PLACES:
            raise ValueError(
                f"{name} was {then} and now is {given}: what the model had stays as it is; leave it out of --config, "
                f"and give keys of the new expert as --experts.{modality}.init_args.KEY"
            )
