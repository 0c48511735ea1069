"""`crossmodal expert fit`: trains one expert, and keeps it in a folder that any configuration can name."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossmodal.arguments import read_own_options

if TYPE_CHECKING:
    from pytorch_lightning.cli import LightningArgumentParser

HELP = """\
usage: crossmodal expert fit --config FILE [--output FOLDER] [--overwrite] [--keep_lora] [--KEY VALUE ...]

Train one expert alone: on a task of its own (model.heads), or such that its tokens come near another's
(model.alignments). All other experts of the experiment are frozen. Then write it into a folder: `expert.yaml`,
`model.safetensors` and a card with its data and its figures. Any experiment can use it:
  class_path: experts.saved.SavedExpert
  init_args: {pretrained: FOLDER}

  --config FILE      the experiment; see configs/experts
  --output FOLDER    by default runs/experts/NAME
  --overwrite        replace a folder that is there, when training is done; without it, one that appears during
                     training is left as it is, and the expert is written beside it, as FOLDER-1
  --keep_lora        keep the changes of LoRA beside the layers that they change; else they are added to them
  --KEY VALUE        any key of the YAML, as `crossmodal fit --help` lists them; --ckpt_path last goes on with a run
"""


@dataclass(frozen=True)
class Options:
    """What `expert fit` takes beside the arguments of `fit`."""

    output: Path | None
    overwrite: bool
    keep_lora: bool


def read_options(arguments: list[str]) -> tuple[Options | None, list[str]]:
    """Return the command's own options, or None where help is wanted, and the arguments of `fit`.

    Raises:
        UsageError: They cannot be understood.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--keep_lora", action="store_true")
    given, rest = read_own_options("expert", "fit", parser, arguments)
    if given is None:
        return None, []
    return Options(given.output, given.overwrite, given.keep_lora), rest


def main(options: Options, arguments: list[str]) -> int:
    """Train and keep the expert; return the exit status."""
    from crossmodal import training_cli

    class ExpertCLI(training_cli.TrainingCLI):
        """Fits an experiment with one expert that is trained, and keeps that."""

        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            self.config = parser.parse_args(["fit", *arguments])

        def instantiate_classes(self) -> None:
            super().instantiate_classes()
            self.modality = self._trained()
            folder = self.folder
            if folder.exists() and not options.overwrite:
                raise ValueError(f"{folder} is there; give another --output, or --overwrite")
            if folder.exists() and not _may_be_replaced(folder):
                raise ValueError(f"{folder} is no expert folder, and is not overwritten; give another --output")

        @property
        def folder(self) -> Path:
            return options.output or Path(self.settings.runs) / "experts" / str(self.settings.name)

        def _trained(self) -> str:
            trained: list[str] = [name for name, expert in self.model.experts.items() if not expert.frozen]
            if len(trained) != 1:
                found = f"{', '.join(trained)} are not frozen" if trained else "all are frozen (set `freeze: false`)"
                raise ValueError(f"experts: one of them is to be trained, but {found}")
            return trained[0]

        def fit(self, **kwargs: Any) -> None:
            super().fit(**kwargs)
            if self.is_trial or self.run_folder is None:
                return
            expert = self.model.experts[self.modality]
            settings = self._parser("fit").dump(self.settings, skip_none=False)
            specification = _specification(settings, self.modality)

            def save(folder: Path, *, replace: bool) -> None:
                from crossmodal.tracking import log_folder
                from experts.saved import save_expert

                assert self.run_folder is not None
                card = _card(self.modality, specification, settings, self.figures, folder, self.run_folder.path)
                save_expert(folder, specification, expert, card, merge=not options.keep_lora, replace=replace)
                log_folder(self.trainer, folder, kind="expert")

            _save(self.folder, save, overwrite=options.overwrite)

    return training_cli.main(ExpertCLI)


def _save(folder: Path, save: Callable[..., None], *, overwrite: bool) -> None:
    """Save in a folder, or beside what came there during training: neither that nor the expert may be lost."""
    for number in itertools.count():
        place = folder.with_name(f"{folder.name}-{number}") if number else folder
        try:
            save(place, replace=overwrite and number == 0 and _may_be_replaced(place))
            break
        except FileExistsError:
            if not place.exists():  # something else is in the way
                raise
    why = f" ({folder} appeared during training, and is left as it is)" if number else ""
    print(f"expert: {place}{why}", flush=True)


def _may_be_replaced(folder: Path) -> bool:
    from experts.saved import is_expert_folder

    return folder.is_dir() and (is_expert_folder(folder) or not any(folder.iterdir()))


def _specification(settings: str, modality: str) -> dict[str, Any]:
    import yaml

    specification: dict[str, Any] = yaml.safe_load(settings)["experts"][modality]
    return specification


def _card(
    modality: str, specification: dict[str, Any], settings: str, figures: dict[str, Any], folder: Path, run: Path
) -> str:
    import yaml

    import crossmodal

    content = yaml.safe_load(settings)
    objectives = {key: content["model"].get(key) for key in ("heads", "alignments")}
    shown = {
        "Expert": specification,
        "Data": content["data"],
        "Trained for": {key: value for key, value in objectives.items() if value},
    }
    sections = [f"## {title}\n\n```yaml\n{yaml.safe_dump(part, sort_keys=False)}```" for title, part in shown.items()]
    rows = "\n".join(
        f"| {name} | {value:.4f} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in figures.items()
    )
    usage = yaml.safe_dump(
        {"experts": {modality: {"class_path": "experts.saved.SavedExpert", "init_args": {"pretrained": str(folder)}}}},
        sort_keys=False,
    )
    return (
        "\n\n".join(
            [
                f"# An expert for `{modality}`",
                f"Trained by crossmodal {crossmodal.__version__}, run `{run}`. Use it so:",
                f"```yaml\n{usage}```",
                f"## Figures\n\n| | |\n| --- | --- |\n{rows}",
                *sections,
            ]
        )
        + "\n"
    )
