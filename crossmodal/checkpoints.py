"""Checkpoints: written whole or not at all, with all random state, and read with care."""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from experts.base import Expert

# what a run that goes on must have as it was
FIXED = ("seed_everything", "experts", "data", "model", "replicas")
FIXED_OF_TRAINER = (
    "accumulate_grad_batches",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "precision",
)
# but for these, which change nothing or (where weights are) are compared by content
FREE = {"feature_store", "encode_batch_size", "encode_workers", "num_workers", "pretrained", "model", "run", "sha256"}


class CheckpointMismatchError(ValueError):
    """A checkpoint of another model or of other frozen experts."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, beside the one that it replaces."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write under a temporary name, and rename."""
        if storage_options is not None:
            raise TypeError("checkpoints are written to a local folder, without storage options")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in target.parent.glob(f".{target.name}.*.tmp"):
            abandoned.unlink(missing_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)


class RandomState(Callback):
    """Keeps the random state in the checkpoint: without it dropout differs after a resume."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return all generators' states, as plain values that `weights_only` loads."""
        name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
        version, internal, next_gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            # of the one device that is used: a machine with fewer can go on
            "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
            "numpy": [
                str(name),
                torch.from_numpy(np.array(keys).astype(np.int64)),
                position,
                has_gauss,
                gauss,
            ],
            "python": [version, list(internal), next_gauss],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the states until training starts: what comes before draws from the generators."""
        self._loaded = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the states."""
        if self._loaded is None:
            return
        torch.set_rng_state(self._loaded["torch"].cpu())
        if self._loaded["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state(self._loaded["cuda"][0].cpu())
        name, keys, position, has_gauss, gauss = self._loaded["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
        version, internal, next_gauss = self._loaded["python"]
        random.setstate((version, tuple(internal), next_gauss))
        self._loaded = None


def keeps_newest(callback: Callback) -> bool:
    """Return whether it writes `last`."""
    return isinstance(callback, ModelCheckpoint) and (bool(callback.save_last) or callback.filename == "last")


def leave_frozen_out(checkpoint: dict[str, Any], experts: Mapping[str, Expert]) -> None:
    """Take frozen experts' weights out of a module's checkpoint, and keep which they were."""
    frozen = {modality: expert for modality, expert in experts.items() if expert.frozen}
    checkpoint["frozen_experts"] = {modality: expert.identity() for modality, expert in frozen.items()}
    prefixes = tuple(f"model.experts.{modality}.network." for modality in frozen)
    state = checkpoint["state_dict"]
    checkpoint["state_dict"] = {
        name: value for name, value in state.items() if not prefixes or not name.startswith(prefixes)
    }


def put_frozen_back(checkpoint: dict[str, Any], experts: Mapping[str, Expert]) -> None:
    """Put frozen experts' weights back into a module's checkpoint.

    Raises:
        CheckpointMismatchError: A frozen expert is not the one that it was trained with.
    """
    frozen_then = checkpoint.get("frozen_experts", {})
    for modality, own_expert in experts.items():
        if own_expert.frozen and modality not in frozen_then:
            raise CheckpointMismatchError(f"it trained the expert for {modality!r}; here it is frozen")
    for modality, fingerprint in frozen_then.items():
        expert = experts.get(modality)
        if expert is None or not expert.frozen or expert.identity() != fingerprint:
            raise CheckpointMismatchError(
                f"it was trained with another frozen expert for {modality!r}: its weights, "
                "transform or settings differ from those of this configuration"
            )
    for modality, expert in experts.items():
        if expert.frozen:
            for name, value in expert.network.state_dict().items():
                checkpoint["state_dict"][f"model.experts.{modality}.network.{name}"] = value


def refuse_other_outputs(checkpoint: Mapping[str, Any], outputs: dict[str, list[str]]) -> None:
    """Raise CheckpointMismatchError if a checkpoint was trained for other tasks or classes."""

    def shown(outputs: dict[str, list[str]]) -> str:
        return "; ".join(f"{task}: {', '.join(names)}" for task, names in outputs.items())

    if (then := checkpoint.get("outputs", outputs)) != outputs:
        raise CheckpointMismatchError(f"it was trained for {shown(then)}; the data has {shown(outputs)}")


def refuse_other_shapes(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> None:
    """Raise CheckpointMismatchError if a checkpoint's state is of another model."""
    for name in (*here, *there):
        then, now = (tuple(some[name].shape) if name in some else None for some in (there, here))
        if then != now:
            raise CheckpointMismatchError(
                f"it is of another model: {name} is {'not' if then is None else then} in the checkpoint, "
                f"{'not' if now is None else now} in this configuration"
            )


def tell_other_fusion(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say which settings of the fusion are not those of training, such as top_k: the weights fit all the same."""
    if then.get("fusion") and now.get("fusion"):
        for name, before, after in differences(then["fusion"], now["fusion"], "model.fusion"):
            rank_zero_info(f"{name} was {before} when the checkpoint was trained, and now is {after}")


def refuse_other_price(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointMismatchError if a selector's settings are not those that its price was learned with."""
    if not (then.get("selector") and now.get("selector")):
        return
    learned = {"costs", "first"}
    if (now["selector"].get("init_args") or {}).get("budget") is not None:  # without one the price is not asked for
        learned |= {"budget", "top_k"}
    for name, before, after in differences(then["selector"], now["selector"], "model.selector"):
        of_all = name == "model.selector.init_args"  # one side has none
        if of_all or name.removeprefix("model.selector.init_args.").partition(".")[0] in learned:
            raise CheckpointMismatchError(
                f"{name} was {before} when it was trained, and now is {after}: what experts are worth, and the price "
                "of a unit of cost, are learned in training for what it was; give the old value, or train anew"
            )


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint.

    Raises:
        ValueError: It is none.
    """
    try:
        if not zipfile.is_zipfile(checkpoint):
            raise ValueError("torch.save did not write it")
        content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        _ = content["global_step"], content["state_dict"]
    # torch raises a dozen kinds of error for a file that it did not write
    except Exception as error:
        raise ValueError(f"{checkpoint} is no checkpoint: {(str(error) or repr(error)).splitlines()[0]}") from error
    return content


def load_weights(module: LightningModule, checkpoint: Path) -> None:
    """Give a module a checkpoint's weights.

    Raises:
        ValueError: It cannot be read, or does not fit.
    """
    content = read_checkpoint(checkpoint)
    try:
        module.on_load_checkpoint(content)
    except CheckpointMismatchError as error:
        raise ValueError(f"{checkpoint} does not fit: {error}") from error
    module.load_state_dict(content["state_dict"])


def check_goes_on(content: Mapping[str, Any], path: Path, *, max_epochs: int | None) -> None:
    """Refuse to train on from a checkpoint from which that is not possible.

    Args:
        content: Of the checkpoint.
        path: Of its file.
        max_epochs: That are wanted in all; None or -1 for as many as there are steps.

    Raises:
        ValueError: It has weights alone, or more epochs than are wanted.
    """
    if "optimizer_states" not in content:
        raise ValueError(f"{path} has weights alone: it can be used and extended, but training cannot go on")
    done = content["loops"]["fit_loop"]["epoch_progress"]["current"]["completed"]
    if max_epochs not in (None, -1) and done > max_epochs:
        raise ValueError(f"{path} has {done} epochs already: give --trainer.max_epochs more than {max_epochs}")


def refuse_other_settings(began_with: Path, now: str) -> None:
    """Refuse to go on with other settings than a run began with: its checkpoint would override some in silence.

    Args:
        began_with: The file of the configuration that it began with; a checkpoint that lies alone has none.
        now: The present configuration, as YAML.

    Raises:
        ValueError: They differ in what a run may not change.
    """
    if not began_with.exists():
        return
    for name, before, after in differences(_fixed(began_with.read_text()), _fixed(now)):
        changes_precision = name == "model.feature_store" and None in (before, after)  # see Expert
        is_free = name.rpartition(".")[2] in FREE and not name.startswith("model.joined.")
        if not is_free or changes_precision:
            raise ValueError(
                f"{name} was {before} and now is {after}: a run goes on as it began (see {began_with}); give the old "
                "value, or begin a new run without --ckpt_path"
            )


def _fixed(text: str) -> dict[str, Any]:
    config = yaml.safe_load(text) or {}
    trainer = config.get("trainer") or {}
    return {key: config.get(key) for key in FIXED} | {"trainer": {key: trainer.get(key) for key in FIXED_OF_TRAINER}}


def differences(then: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted name of each setting that differs, and its two values."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        # what only one of two versions of a class takes is no choice of the user
        keys = {*then} & {*now} if name.endswith(".init_args") else {*then, *now}
        for key in sorted(keys):
            yield from differences(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield name, then, now
