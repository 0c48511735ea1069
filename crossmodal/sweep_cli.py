"""`crossmodal sweep`: runs of one experiment with other settings, the next of which the earlier ones choose."""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
import time
from dataclasses import dataclass, replace
from functools import reduce
from importlib.util import find_spec
from operator import or_
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from crossmodal.arguments import configuration, flattened
from crossmodal.arguments import read_options as read_keys
from crossmodal.errors import UsageError, refuse
from crossmodal.output import is_quiet, say, tell
from crossmodal.run_folder import RunFolder
from crossmodal.sweep.experiment import begin, check_values, completed, own_values, warm_up
from crossmodal.sweep.reading import read_search
from crossmodal.sweep.search import GOALS, METHODS, TRIALS, Search, flags
from crossmodal.sweep.telling import in_words, result, settings_of
from crossmodal.sweep.trial import Outcome, TrialInterruptedError, processes, train

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

    from optuna.trial import FrozenTrial, Trial

    from crossmodal.sweep.study import Study

STOPPED = "stopped"  # of a trial, whatever becomes of this process
FAILURES = 3  # of the first trials, after which it ends: something is wrong with all
HELP = """\
usage: crossmodal sweep --config FILE [--n N] [--search FILE|KEY=VALUES ...] [--KEY VALUE ...]

Train an experiment again and again with other settings, and find the best. Each trial is a run as `crossmodal fit`
makes it, in runs/NAME/sweep/NUMBER; the first has the settings that the experiment's YAML gives. One that is worse than
most were at the same epoch is stopped. The same command goes on where it was interrupted or killed, and given in a
second terminal it works on the same sweep.

  --config FILE          the experiment
  --n N                  trials in all (20; of a grid all)
  --search KEY=VALUES    any key of the YAML, and what to try: a,b,c or LOW..HIGH or LOW..HIGH:log or LOW..HIGH:STEP
  --search FILE          a file as `wandb sweep` takes it
                         without: learning rate, weight decay and dropout, as far as the experiment has them
  --metric NAME          the figure that counts (what the best checkpoint is kept by, such as val/accuracy)
  --goal GOAL            minimize or maximize it
  --method METHOD        bayes (TPE), random or grid (bayes)
  --prune BOOLEAN        stop those that are worse than most (true)
  --KEY VALUE            any key of the YAML, for all trials, as `crossmodal fit --help` lists them
  --quiet, --json        as of `crossmodal fit`
"""


@dataclass(frozen=True)
class Options:
    """What `sweep` takes beside the arguments of `fit`."""

    search: Search
    trials: int | None
    prune: bool


@dataclass(frozen=True)
class Plan:
    """What all trials have in common.

    Args:
        search: With all that was not given.
        arguments: Of `fit`.
        name: Of the experiment that they are runs of, such as `dots/sweep`.
        runs: The folder of all runs.
        trials: In all.
        epochs: Of each; None if nobody knows.
        context: Of their processes.
    """

    search: Search
    arguments: list[str]
    name: str
    runs: Path
    trials: int
    epochs: int | None
    context: ForkServerContext | SpawnContext

    @property
    def folder(self) -> Path:
        """Of the sweep."""
        return self.runs / self.name


class _Stopped(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_status = 128 + number


def read_options(arguments: list[str]) -> tuple[Options | None, list[str]]:
    """Return the command's own options, or None where help is wanted, and the arguments of `fit`.

    Raises:
        UsageError: They cannot be understood.
    """
    if {"-h", "--help"} & set(arguments):
        return None, []
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--n")
    parser.add_argument("--search", action="append", default=[])
    parser.add_argument("--metric")
    parser.add_argument("--goal", choices=GOALS)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--prune", choices=("true", "false"), default="true")
    try:
        given, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(str(error)) from None
    own = [action.option_strings[0] for action in parser._actions]
    for option in (argument.partition("=")[0] for argument in rest if argument.startswith("--")):
        if near := difflib.get_close_matches(option, own, n=1, cutoff=0.8):
            raise UsageError(f"a sweep takes no {option}; did you mean {near[0]}?")
    if given.n is not None and not (given.n.isdecimal() and int(given.n) > 0):
        raise UsageError(f"--n: expected a number of trials, at least 1, found {given.n!r}")
    if any(argument.partition("=")[0] == "--ckpt_path" for argument in rest):
        raise UsageError("a sweep takes no --ckpt_path: its trials begin anew, and the same command goes on")
    if find_spec("optuna") is None:
        raise UsageError("a sweep needs Optuna: pip install 'crossmodal[sweep]'")
    keys = [one.partition("=")[0] for one in given.search if "=" in one]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UsageError(f"--search {twice} is given twice")
    search = reduce(or_, map(read_search, given.search), Search())
    search = replace(
        search,
        method=given.method or search.method,
        metric=given.metric or search.metric,
        goal=given.goal or (None if given.metric else search.goal),
    )
    return Options(search, int(given.n) if given.n else None, given.prune == "true"), rest


def main(options: Options, arguments: list[str]) -> int:
    """Sweep; return the exit status."""
    previous = {number: signal.signal(number, _stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _sweep(options, arguments)
    except UsageError as error:
        return refuse(error, 2)
    except TrialInterruptedError as error:
        return refuse(f"{error}; the same command goes on with the sweep", 1)
    except OSError as error:
        return refuse(error, 1)
    except _Stopped as stopped:
        sys.stderr.write(f"\n{stopped}; the same command goes on with the sweep\n")
        return stopped.exit_status
    finally:
        if signal.getsignal(signal.SIGINT) is _stop:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> None:
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # the trial is being saved
    raise _Stopped(number)


def _sweep(options: Options, arguments: list[str]) -> int:
    from crossmodal.sweep.study import DATABASE, Study, readable

    keys = list(read_keys(arguments))
    fixed = [one.removeprefix("--").partition("=") for one in flags(options.search.fixed)]
    config, _ = configuration([*keys, *((key, value) for key, _, value in fixed)])
    search = completed(options.search, config)
    size = search.size
    if search.method == "grid" and size is None:
        key = next(key for key, one in search.parameters.items() if one.size is None)
        raise UsageError(f"{key}: a grid of {in_words(search.parameters[key])} wants steps, as LOW..HIGH:STEP")
    wanted = options.trials or search.trials or (size if search.method == "grid" else None) or TRIALS
    trials = wanted if size is None else min(wanted, size)
    check_values(search, arguments)
    files = [Path(str(value)) for key, value in keys if key in ("config", "c")]
    # as the parser reads them: what YAML takes for a number is a text
    given = {**config, **{key: value for key, value in keys if value is not None}}
    name = str(given.get("name") or (files[-1].stem if files else "experiment"))
    runs = Path(str(given.get("runs") or "runs"))
    class_paths = [str(value) for key, value in flattened(config) if key.endswith("class_path")]
    epochs = (config.get("trainer") or {}).get("max_epochs")
    plan = Plan(search, arguments, f"{name}/sweep", runs, trials, epochs, processes(class_paths))
    begin(plan.folder, config, search, prunes=options.prune)
    seed = config.get("seed_everything")
    study = Study(
        plan.folder,
        search,
        seed=seed if isinstance(seed, int) else 0,
        own=own_values(search, config),
        prune_after=warm_up(config) if options.prune else None,
    )
    with readable(plan.folder / DATABASE):
        return _try_all(study, plan)


def _try_all(study: Study, plan: Plan) -> int:
    from crossmodal.sweep.summary import write_summary

    search = plan.search
    ended = len(_ended(study))
    done = f" ({ended} done)" if ended else ""
    say(f"sweep: {plan.folder}, {plan.trials} trials{done}, to {search.goal} {search.metric}")
    for key, one in search.parameters.items():
        say(f"  {key}: {in_words(one)}")
    try:
        while True:
            with study.next_trial(plan.trials) as trial:
                if trial is None:
                    break
                _train(study, trial, plan)
            write_summary(study, search, plan.name)
            failed = [one.user_attrs.get("error") for one in _ended(study)]
            if len(failed) >= FAILURES and all(failed):
                return refuse(
                    f"all {len(failed)} trials failed; the last: {failed[-1]}\n(mend that, delete {plan.folder}, and "
                    "sweep anew)",
                    1,
                )
    except UsageError:
        study.withdraw()  # it would refuse what is given rightly the next time
        raise
    return _tell_best(study, search, write_summary(study, search, plan.name))


def _ended(study: Study) -> list[FrozenTrial]:
    return [one for one in study.trials if one.state.is_finished()]


def _train(study: Study, trial: Trial, plan: Plan) -> None:
    search = plan.search
    run = RunFolder(plan.folder / str(trial.number))
    settings = study.values(trial)
    told = set(study.trials[trial.number].intermediate_values)
    epochs = settings.get("trainer.max_epochs", plan.epochs)

    def should_stop(epoch: int, value: float) -> bool:
        _show(f"trial {trial.number}, {search.metric} {value:.4f} after epoch {epoch}")
        if epoch not in told:  # before it was killed
            trial.report(value, epoch)
        if epoch == epochs:  # nothing would be spared
            return False
        if trial.should_prune():  # asked again, a rule that counts who was asked says no
            trial.set_user_attr(STOPPED, True)
            return True
        return False

    _show(f"trial {trial.number} of 0 to {plan.trials - 1} begins")
    began = time.perf_counter()
    own = ["--name", plan.name, "--runs", str(plan.runs), "--ckpt_path", str(run.path)]
    try:
        outcome = Outcome("pruned")
        if not trial.user_attrs.get(STOPPED):  # else it was killed while the trial was being saved
            outcome = train(
                ["fit", *plan.arguments, *flags(settings), *own],
                run,
                str(search.metric),
                context=plan.context,
                group=plan.name,
                should_stop=should_stop,
            )
    except UsageError as error:
        if not _ended(study):
            raise
        outcome = Outcome("failed", error=str(error))  # this one alone has no such figure
    finally:
        seconds = float(trial.user_attrs.get("seconds") or 0.0) + time.perf_counter() - began
        trial.set_user_attr("seconds", round(seconds, 1))
    study.tell(trial, outcome.state, outcome.value, error=outcome.error)
    _show("")
    done = study.trials[trial.number]
    say(f"trial {trial.number}  {result(done, search)}  {settings_of(settings, search)}  {seconds:.1f} s")


def _tell_best(study: Study, search: Search, path: Path) -> int:
    best = study.best()
    if best is None:
        return refuse(f"no trial was trained to its end; see {path}", 1)
    run = RunFolder(study.folder / str(best.number))
    settings = study.values(best)
    if is_quiet():
        tell({str(search.metric): best.value, "trial": best.number, **settings}, {"run": run.path, "trials": path})
        return 0
    if others := study.trained_elsewhere():
        print(f"trained by another process still: trial {', '.join(map(str, others))}")
    print(f"best: trial {best.number}  {result(best, search)}  {settings_of(settings, search)}")
    for key, share in study.importance().items():
        print(f"  {share:5.0%}  {key}")
    print(f"run: {run.path}\ntrials: {path}\npage: crossmodal report {study.folder}")
    return 0


def _show(text: str) -> None:
    """Show what goes on, where somebody watches, on a line that the next text replaces."""
    if sys.stdout.isatty() and not is_quiet():
        print(f"\r\033[K{text}", end="", flush=True)
