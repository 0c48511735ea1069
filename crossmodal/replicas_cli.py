"""`crossmodal replicas fit`: trains a model by many replicas, each where its rows lie."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crossmodal.arguments import read_own_options

if TYPE_CHECKING:
    from pytorch_lightning import Trainer
    from pytorch_lightning.cli import LightningArgumentParser

    from crossmodal.replicas.module import Remote

HELP = """\
usage: crossmodal replicas fit --config FILE [--KEY VALUE ...]

Train one model by many replicas: each node trains with its own rows, and only what was learned is sent. `replicas`
in the YAML says how; a round is an epoch of the trainer. The run is as of `crossmodal fit`, which does the same where
the YAML has that key; `--replicas null` trains one model with all rows, to compare with. Nodes on other machines, over
Flower, take the same YAML: docs/replicas.md.

  --config FILE                      the experiment; see configs/replicas
  --trainer.max_epochs N             rounds
  --replicas.nodes N                 how many there are
  --replicas.method.KEY VALUE        how they learn from each other
  --replicas.partition.KEY VALUE     which rows lie at which node
  --replicas.epochs N                over its rows that a node trains in a round
  --ckpt_path last                   goes on where a run was interrupted or killed
  --KEY VALUE                        any key of the YAML, as `crossmodal fit --help` lists them
  --quiet, --json                    as of `crossmodal fit`
"""


@dataclass(frozen=True)
class Options:
    """What `replicas fit` takes beside the arguments of `fit`: nothing."""


def read_options(arguments: list[str]) -> tuple[Options | None, list[str]]:
    """Return the command's own options, or None where help is wanted, and the arguments of `fit`.

    Raises:
        UsageError: They cannot be understood.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    given, rest = read_own_options("replicas", "fit", parser, arguments)
    return (None, []) if given is None else (Options(), rest)


def main(options: Options, arguments: list[str], remote: Remote | None = None) -> int:
    """Train; return the exit status.

    Args:
        options: Of the command.
        arguments: Of `fit`.
        remote: Makes the engine of nodes on other machines; None for all in this process.
    """
    from crossmodal import training_cli
    from crossmodal.console import EpochBar
    from crossmodal.replicas.module import ReplicatedModule
    from crossmodal.replicas.watching import WatchReplicas

    class ReplicasCLI(training_cli.TrainingCLI):
        """Fits an experiment by replicas."""

        model_type = ReplicatedModule
        more_observers = (WatchReplicas,)

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            self.config = parser.parse_args(["fit", *arguments])

        def before_instantiate_classes(self) -> None:
            if self.settings.replicas is None:
                raise ValueError(
                    "replicas: nothing says how replicas train; give an experiment that has this key, such as "
                    "configs/replicas/fedavg_easy_vqa.yaml"
                )
            trainer = self._get(self.config, "trainer")
            if trainer.accumulate_grad_batches != 1 or str(trainer.precision) in ("16", "16-mixed"):
                raise ValueError(
                    "trainer: replicas train without accumulate_grad_batches, and not in 16-mixed precision"
                )
            super().before_instantiate_classes()

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            """Build the trainer; nodes clip their gradients themselves, and each round is logged."""
            settings = self._get(self.config_init, "trainer")
            trainer = super().instantiate_trainer(**kwargs, gradient_clip_val=None, log_every_n_steps=1)
            bar = trainer.progress_bar_callback
            self.model.replicate(
                self._get(self.config_init, "replicas"),
                clip_norm=settings.gradient_clip_val,
                seed=int(self.settings.seed_everything or 0),
                remote=remote,
                **({"tell": bar.show_part} if isinstance(bar, EpochBar) else {}),
            )
            return trainer

    return training_cli.main(ReplicasCLI)
