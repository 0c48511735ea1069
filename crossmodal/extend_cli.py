"""`crossmodal extend`: adds a modality to a trained model, or takes one back."""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmodal.arguments import read_options as read_keys
from crossmodal.arguments import read_yaml
from crossmodal.errors import UsageError
from crossmodal.run_folder import RunFolder, given_run

HELP = """\
usage: crossmodal extend --model RUN --expert NAME=FOLDER [--like NAME] [--lora RANK] [--config FILE] [--KEY VALUE ...]
       crossmodal extend --model RUN --remove NAME

Add a modality to a trained model. Only what is new is trained: the expert's projection and its place in the fusion.
All else stays as it is, and so does, to the last bit, what the model says of a batch without the new modality; that is
checked. The result is a run like any other, in runs/NAME/VERSION, and can be extended again.

  --model RUN            the run's folder, such as runs/easy_vqa/0 (best.ckpt, or else last.ckpt), or a checkpoint
  --expert NAME=FOLDER   the new modality, and the folder of its expert, which `crossmodal expert fit` wrote
  --like NAME            begin with the place of this modality: the new expert was aligned to its expert
  --lora RANK            train low-rank changes of the new expert, too
  --remove NAME          take a modality back that was added before
  --config FILE          what differs from the run: data with the new modality, a trainer, an optimizer, a name
  --KEY VALUE            any key of the YAML, as `crossmodal fit --help` lists them; --trainer.max_epochs 0 trains
                         nothing; --ckpt_path last goes on with what was interrupted
"""


@dataclass(frozen=True)
class Options:
    """What `extend` takes beside the arguments of `fit`."""

    run: RunFolder
    checkpoint: Path
    modality: str
    expert: Path | None  # None takes the modality back
    like: str | None
    lora: int | None


def read_options(arguments: list[str]) -> tuple[Options | None, list[str]]:
    """Return the command's own options, or None where help is wanted, and the arguments of `fit`.

    Raises:
        UsageError: They cannot be understood, or there is no such run, expert or modality.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        return None, []
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("model", "expert", "like", "remove"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--lora", type=int)
    try:
        given, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    if given.model is None or (given.expert is None) == (given.remove is None):
        raise UsageError("extend needs --model RUN, and either --expert NAME=FOLDER or --remove NAME")
    run, checkpoint = run_of(Path(given.model))
    config = read_yaml(run.config)
    if lacking := [key for key in ("name", "runs", "experts", "model") if key not in config]:
        raise UsageError(f"{run.config}: has no {lacking[0]}; it is not as `crossmodal fit` wrote it")
    if given.remove is not None:
        if rest or given.like or given.lora:
            raise UsageError("--remove takes no other option than --model")
        options = Options(run, checkpoint, _to_remove(given.remove, run, config), None, None, None)
        return options, ["--config", str(run.config)]
    modality, folder = _to_add(given.expert, run, config)
    if given.like is not None and given.like not in config["experts"]:
        raise UsageError(f"--like {given.like}: {run.path} has no such modality; it has {', '.join(config['experts'])}")
    options = Options(run, checkpoint, modality, folder, given.like, given.lora)
    return options, _arguments_of_fit(options, config, rest)


def run_of(path: Path) -> tuple[RunFolder, Path]:
    """Return the run that `--model` means, and its checkpoint.

    Raises:
        UsageError: There is no such run.
    """
    try:
        return given_run(path)
    except ValueError as error:
        raise UsageError(f"--model {error}") from None


def _to_add(given: str, run: RunFolder, config: dict[str, Any]) -> tuple[str, Path]:
    modality, _, folder = given.partition("=")
    if not re.fullmatch(r"[A-Za-z]\w*", modality) or not folder:
        raise UsageError(f"--expert {given}: expected NAME=FOLDER, such as speech=runs/experts/speech")
    if modality in config["experts"]:
        taken = ", ".join(config["experts"])
        raise UsageError(f"--expert {given}: {run.path} has the modalities {taken}; give another name")
    if not (Path(folder) / "expert.yaml").is_file():
        raise UsageError(f"--expert {given}: {folder} is no expert folder; `crossmodal expert fit` writes one")
    return modality, Path(folder)


def _to_remove(modality: str, run: RunFolder, config: dict[str, Any]) -> str:
    joined = (config.get("model") or {}).get("joined") or {}
    if modality not in joined:
        there = f"it was extended by {', '.join(joined)}" if joined else "it was not extended"
        raise UsageError(f"--remove {modality}: nothing that was added to {run.path}; {there}")
    return modality


def _arguments_of_fit(options: Options, config: dict[str, Any], rest: list[str]) -> list[str]:
    """Return what `fit` is to be given: the run's configuration, what differs from it, and the newcomer."""
    keys = list(read_keys(rest))
    named = [key for key, _ in keys if key == "name"]
    named += [value for key, value in keys if key in ("config", "c") and value and "name" in read_yaml(Path(value))]
    expert = f"--experts.{options.modality}"
    init_args = f"{expert}.init_args"
    if options.lora is not None:
        classes = [f"{expert}.class_path", "experts.adapters.TunedExpert"]
        classes += [f"{init_args}.lora.rank", str(options.lora)]
        expert = f"{init_args}.expert"
        init_args = f"{expert}.init_args"
        classes += [f"{expert}.class_path", "experts.saved.SavedExpert", f"{init_args}.freeze", "false"]
    else:
        classes = [f"{expert}.class_path", "experts.saved.SavedExpert"]
    how = {"model": str(options.checkpoint), "like": options.like}
    joined = {**((config.get("model") or {}).get("joined") or {}), options.modality: how}
    return [
        *("--config", str(options.run.config)),
        *([] if named else ["--name", f"{config['name']}_{options.modality}"]),
        *(*classes, f"{init_args}.pretrained", str(options.expert)),
        *("--model.joined", json.dumps(joined)),
        *(
            ("--model.balance", "null") if (config.get("model") or {}).get("balance") else ()
        ),  # where only one trains there is none
        *rest,
    ]


def main(options: Options, arguments: list[str]) -> int:
    """Add the modality, or take it back; return the exit status."""
    from crossmodal import extending

    if options.expert is None:
        return extending.remove(options.run, options.checkpoint, options.modality)
    return extending.extend(options.run, options.checkpoint, options.modality, arguments)
