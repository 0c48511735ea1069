"""The `crossmodal` command. It answers help, mistakes and `cache` before torch is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import crossmodal
from crossmodal.errors import UsageError, refuse, say_how_to_go_on
from crossmodal.output import OUTPUT
from crossmodal.preflight import LINKED, MODEL, TRAINER, check
from crossmodal.signatures import read_signature

DEFAULT_CONFIG = Path("crossmodal.yaml")  # what `init` writes, and commands take that are given no other
TRAINING = ("fit", "validate", "test", "predict")
# they take what `fit` takes, and options of their own
LIKE_FIT = {
    "expert": "crossmodal.expert_cli",
    "extend": "crossmodal.extend_cli",
    "data": "crossmodal.check_cli",
    "sweep": "crossmodal.sweep_cli",
    "replicas": "crossmodal.replicas_cli",
}
# they take trained runs
OF_RUNS = {
    "route": "crossmodal.route_cli",
    "report": "crossmodal.report_cli",
    "dashboard": "crossmodal.dashboard_cli",
}
HELP = """\
usage: crossmodal COMMAND [options]

Train cross-modal models from pretrained unimodal experts.

commands:
  init       look at data, and write an experiment       PATH [--target COLUMN ...] [--output FILE]
  fit        train, then measure the best checkpoint     --config FILE [--ckpt_path last]
  validate   measure a checkpoint on the validation split --config FILE --ckpt_path FILE|best|last
  test       measure a checkpoint on the test split      --config FILE --ckpt_path FILE|best|last
  predict    write predictions, as Parquet or CSV        --config FILE --ckpt_path FILE|best|last [--output FILE]
  expert     train one expert, and keep it in a folder   fit --config FILE [--output FOLDER]
  extend     add a modality to a trained model           --model RUN --expert NAME=FOLDER [--config FILE]
  data       read all inputs, and find what is wrong     check --config FILE [--output FOLDER]
  replicas   train by many replicas                  fit --config FILE
  sweep      train with other settings, find the best    --config FILE [--n N] [--search KEY=VALUES ...]
  route      say which expert knows an input             --model RUN FILE [FILE ...] [--output FILE.csv]
  report     write a page about a run, or compare runs   RUN [RUN ...] [--output FILE.html]
  dashboard  all runs in the browser, live               [RUNS] [--port N]
  cache      the feature store                           ls | verify [--delete] | rm FINGERPRINT...|--all

options:
  --help     this page; `crossmodal COMMAND --help` for a command's own
  --version

Example:
  crossmodal fit --config configs/easy_vqa.yaml --trainer.max_epochs 3
"""
TRAINING_HELP = """\
usage: crossmodal {command} --config FILE [--KEY VALUE ...]

{summary}

Any key of the YAML can be given on the command line, and wins:
  --config FILE            a complete experiment: experts, data, model, trainer
  --ckpt_path WHAT         a checkpoint file, a run's folder, or `best` or `last` of the newest run of this name
  --name NAME              of the experiment; by default the file's name; runs go to runs/NAME/VERSION
  --runs FOLDER            of all runs (runs)
  --track WHERE            wandb logs online, offline or is disabled; by default as WANDB_MODE or its logger says
  --observe BOOLEAN        log more than losses and metrics: pace, gradients, subsets, examples, ... (true)
  --seed_everything N      the seed (0)
  --experts.MODALITY.init_args.KEY VALUE
  --data.init_args.KEY VALUE
  --model.KEY VALUE        {model}
  --trainer.KEY VALUE      {trainer}
{extra}
  --quiet                  print nothing but errors
  --json                   print nothing but one JSON object, when it is done: figures and paths
  --print_config           the complete configuration, with every default
  --help.all               every key with its type and meaning (takes some seconds)
"""
SUMMARIES = {
    "fit": "Train; then measure the best checkpoint on the validation and the test split. With --ckpt_path last\n"
    "a run that was interrupted or killed goes on at the next batch.",
    "validate": "Measure a checkpoint on the validation split.",
    "test": "Measure a checkpoint on the test split.",
    "predict": "Write a Parquet or CSV file: id, prediction, modalities that the row has, probability of each class.\n"
    "The same command goes on where it was interrupted or killed.",
}


def main() -> int:
    """Run the command of `sys.argv`; return the exit status."""
    try:
        return _run(sys.argv[1:])
    except KeyboardInterrupt:  # while it checks or imports, which takes seconds
        say_how_to_go_on("interrupted", None)
        return 130


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return 0
    if arguments[0] == "--version":
        print(crossmodal.__version__)
        return 0
    given = command = arguments[0]
    rest = arguments[1:]
    if command == "cache":
        from crossmodal import cache_cli

        return cache_cli.main(rest)
    if command == "init":
        from crossmodal import init_cli

        return init_cli.main(rest)
    if command in OF_RUNS:
        sys.path.append(str(Path.cwd()))  # as below
        _keep_out_of_home()
        own_main: Callable[[list[str]], int] = import_module(OF_RUNS[command]).main
        return own_main(rest)
    if command not in (*TRAINING, *LIKE_FIT):
        there = ", ".join((*TRAINING, *LIKE_FIT))
        return refuse(f"no command {command!r}; there are init, {there}, {', '.join(OF_RUNS)} and cache", 2)
    for option in ("--quiet", "--json") if command in (*TRAINING, *LIKE_FIT) and command != "data" else ():
        if option in rest:
            os.environ[OUTPUT] = option.removeprefix("--")
            rest.remove(option)
            sys.argv.remove(option)
    main_of: Callable[[list[str]], int] | None = None
    if command in LIKE_FIT and "--help.all" in rest:
        command = "fit"  # whose keys they take
    if command in LIKE_FIT:
        own = import_module(LIKE_FIT[command])
        try:
            options, rest = own.read_options(rest)
        except UsageError as error:
            return refuse(error, 2)
        if options is None:
            sys.stdout.write(own.HELP)
            return 0
        main_of = partial(own.main, options)
        command = "fit"
    # an experiment may name classes that lie in this folder; last, so that none of them hides one of ours
    sys.path.append(str(Path.cwd()))
    if DEFAULT_CONFIG.exists() and not any(one.partition("=")[0] in ("--config", "-c", "-h", "--help") for one in rest):
        rest = ["--config", str(DEFAULT_CONFIG), *rest]
        if main_of is None:
            sys.argv[2:] = rest
    if not rest:
        return refuse(
            f"there is no {DEFAULT_CONFIG} here: give an experiment with --config FILE, or let `crossmodal init DATA` "
            f"write one (`crossmodal {command if main_of is None else ' '.join(sys.argv[1:3])} --help`)",
            2,
        )
    if rest[0] in ("-h", "--help"):
        sys.stdout.write(_training_help(command))
        return 0
    try:
        if "--help.all" in rest:
            sys.argv = [sys.argv[0], command, "--help"]
        else:
            config = check(command, rest)
            if command == "fit" and config.get("replicas") is not None:
                if main_of is None:
                    from crossmodal import replicas_cli

                    main_of = partial(replicas_cli.main, replicas_cli.Options())
                elif given in ("expert", "extend"):
                    return refuse(f"replicas: `{given}` trains one model; give --replicas null", 2)
    except UsageError as error:
        return refuse(error, 2)
    _keep_out_of_home()
    if main_of is not None:
        return main_of(rest)
    from crossmodal import training_cli

    return training_cli.main()


def _training_help(command: str) -> str:
    model = [key for key in read_signature(MODEL).annotations if key not in LINKED]
    trainer = list(read_signature(TRAINER).annotations)
    return TRAINING_HELP.format(
        command=command,
        summary=SUMMARIES[command],
        model=_wrapped(model),
        trainer=_wrapped(trainer),
        extra="  --output FILE            .parquet or .csv; by default predictions.parquet in the run's folder\n"
        "  --limit N                only the first N rows\n"
        if command == "predict"
        else "",
    ).replace("\n\n  --print", "\n  --print")


def _wrapped(keys: list[str]) -> str:
    import textwrap

    return textwrap.fill(", ".join(keys), width=110, initial_indent="", subsequent_indent=" " * 27)


def _keep_out_of_home() -> None:
    """Let libraries that write to the home folder write elsewhere where it cannot be written."""
    home = Path.home()
    if os.access(home, os.W_OK):
        return
    import tempfile

    fallback = Path(tempfile.gettempdir()) / f"crossmodal-{os.getuid()}"
    for variable in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "MPLCONFIGDIR", "HF_HOME"):
        os.environ.setdefault(variable, str(fallback / variable.lower()))


if __name__ == "__main__":
    sys.exit(main())
