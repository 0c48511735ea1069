"""An experiment from its YAML and its command line: experts, data and model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from crossmodal.module import CrossModalModule
from crossmodal.parser import Parser
from crossmodal.replicas.plan import Replicas
from crossmodal.tracking import Track
from datamodules.paired import PairedDataModule
from experts.base import Expert

# what a user's mistake raises; anything else is ours, and shows its traceback
MISTAKES = (ValueError, OSError, MisconfigurationException)


class ExperimentCLI(LightningCLI):
    """Builds data and model; what is done with them is up to the subclass."""

    model_type: ClassVar[type[CrossModalModule]] = CrossModalModule

    def __init__(self) -> None:
        super().__init__(
            self.model_type,
            PairedDataModule,
            subclass_mode_data=True,
            parser_class=Parser,
            save_config_callback=None,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"use_distributed_sampler": False, "enable_model_summary": False},
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the keys that stand beside model, data and trainer, and link them."""
        parser.add_argument("--experts", type=dict[str, Expert], required=True, help="An expert for each modality.")
        parser.add_argument("--name", type=str | None, help="Of the experiment; by default the file's name.")
        parser.add_argument("--runs", type=str, default="runs", help="The folder of all runs.")
        parser.add_argument(
            "--track", type=Track | None, help="Where wandb logs to; null: as WANDB_MODE, or its logger."
        )
        parser.add_argument("--observe", type=bool, default=True, help="Log more than losses and metrics.")
        parser.add_argument("--replicas", type=Replicas | None, help="How many replicas train it; null: one model.")
        parser.link_arguments("experts", "model.experts")
        parser.link_arguments("data.outputs", "model.outputs", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        # Lightning would let the checkpoint's settings override the configuration, without a word
        return

    @property
    def settings(self) -> Any:
        """The subcommand's part of the configuration."""
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        """Name the experiment after its file, if it has no name."""
        if self.settings.name is None:
            files = [Path(str(path)) for path in self.settings.config or []]
            self.settings.name = files[-1].stem if files else "experiment"

    def instantiate_classes(self) -> None:
        """Build data and model once; the experts live in the model, their transforms go to the data."""
        config = self.config.clone()
        del config[self.subcommand]["experts"]
        self.config_init = self.parser.instantiate_classes(config)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        experts = self.model.experts
        newcomer = self.model.model.newcomer
        transforms = {
            name: expert.transform if newcomer in (None, name) else expert.transform.for_evaluation
            for name, expert in experts.items()
        }
        # what was trained on other data need not be in this
        self.datamodule.connect(transforms, optional=experts if newcomer else ())


class DataAndModel(ExperimentCLI):
    """Data and model as `fit` builds them, without a trainer and without a run.

    Args:
        arguments: Of `fit`.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        super().__init__()

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse them."""
        self.config = parser.parse_args(["fit", *self._arguments])

    def before_instantiate_classes(self) -> None:
        """Name the experiment, and leave loggers and callbacks unmade."""
        super().before_instantiate_classes()
        del self.settings["trainer"]

    def _run_subcommand(self, subcommand: str) -> None:
        return
