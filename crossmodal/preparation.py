"""What must be known of the data before training: whether targets can be learned, priors, weights, statistics.

Legend: R rows of a split, U distinct inputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from lightning_utilities.core.rank_zero import rank_zero_info
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from crossmodal.encoder import in_batches, num_encode_workers
from crossmodal.heads import Head
from crossmodal.holding_out import HELD_OUT, held_out, most_shared
from crossmodal.mixture import Mixture
from datamodules.batch import ABSENT
from datamodules.faults import Fault
from datamodules.loading import BatchLoader
from datamodules.paired import PairedDataModule, Split
from datamodules.sources import read_usable
from experts.base import Expert

SPLITS_OF_STAGE: dict[str, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
}  # to predict, the data says which
MOST_INPUTS = 100_000  # that statistics are taken of; more would not change them


def check_heads(heads: Iterable[str], outputs: Iterable[str]) -> None:
    """Refuse heads, if there are any, that are not those of the data's tasks.

    Raises:
        ValueError: A head or a task stands alone.
    """
    heads, outputs = set(heads), set(outputs)
    for task in sorted(heads ^ outputs) if heads else ():
        there = f"the data has the task {task!r}, but there is no head for it"
        raise ValueError(
            f"model.heads.{task}: "
            + (
                there
                if task in outputs
                else f"the data has no such task; it has {', '.join(sorted(outputs)) or 'none'}"
            )
        )


def check_numbers(*, warmup: float, encode_batch_size: int, encode_workers: int | None) -> None:
    """Refuse numbers of `CrossModalModule` that mean nothing.

    Raises:
        ValueError: One is out of range.
    """
    if not 0 <= warmup <= 1:
        raise ValueError(f"model.warmup is a share of the steps, 0 to 1, not {warmup}")
    if encode_batch_size < 1 or (encode_workers or 0) < 0:
        raise ValueError(
            f"model.encode_batch_size ({encode_batch_size}) must be at least 1, model.encode_workers "
            f"({encode_workers}) at least 0"
        )


def check_targets(data: PairedDataModule, heads: Iterable[tuple[str, Head]], splits: Iterable[Split]) -> None:
    """Refuse targets that would end training in the middle, or spoil it.

    Raises:
        ValueError: The message names the row.
    """
    heads = list(heads)
    for split in splits:
        rows = data.rows(split)
        for task, head in heads:
            if rows is None or task not in rows.targets:
                continue
            targets = rows.targets[task]
            try:
                valid_R = head.valid(targets)
            except ValueError as error:
                raise ValueError(
                    f"the {split} split of {type(data).__name__}, task {task!r}: {type(head).__name__}: {error} "
                    "(ClassificationHead learns classes, MultiLabelHead labels, RegressionHead numbers)"
                ) from error
            if not valid_R.all():
                row = int(valid_R.int().argmin())
                raise ValueError(
                    f"row {rows.ids[row]}: the target of {task!r} is {targets[row].tolist()}, not {head.expects}"
                )


def train_by_rows_with(data: PairedDataModule, modality: str, *, trains: bool) -> None:
    """Leave out training rows that lack a modality: where all else is frozen they teach nothing.

    Raises:
        ValueError: It trains, and no row has it.
    """
    if (rows := data.rows("train")) is None:
        return
    count = int((rows.index[modality] != ABSENT).sum())
    if not count and trains:
        raise ValueError(
            f"model.joined.{modality}: no row of the training split of {type(data).__name__} has it, so that there is "
            "nothing to train; give data that has, or trainer.max_epochs: 0"
        )
    if 0 < count < len(rows):
        rank_zero_info(f"{modality}: trained by the {count:,} of {len(rows):,} training rows that have it")
        data.keep_having("train", modality)


def weigh_classes(data: PairedDataModule, heads: Iterable[tuple[str, Head]]) -> None:
    """Give each head the weights that the data wants for its classes."""
    weights = data.class_weights
    for task, head in heads:
        if task in weights:
            head.weigh(torch.tensor(weights[task]))


def learn_priors(data: PairedDataModule, heads: Iterable[tuple[str, Head]]) -> None:
    """Let each head know how often the training split has which target."""
    rows = data.rows("train")
    for task, head in heads:
        if rows is not None and task in rows.targets:
            head.learn_prior(rows.targets[task])


def learn_statistics(
    data: PairedDataModule, experts: Mapping[str, Expert], *, batch_size: int, workers: int | None = None
) -> None:
    """Let experts that need it look at the training split's inputs; of very many, at some throughout.

    Args:
        data: Connected to the experts' transforms.
        experts: By modality.
        batch_size: Inputs a batch.
        workers: Processes that read; by default as many as are worth their start.
    """
    rows = data.rows("train")
    for modality, expert in experts.items():
        if rows is None or not expert.needs_statistics:
            continue
        positions = rows.used(modality)
        step = -(-len(positions) // MOST_INPUTS) or 1
        batches = in_batches(positions[::step], batch_size)
        device = next(chain(expert.parameters(), expert.buffers())).device
        num_workers = num_encode_workers(workers, len(batches))
        inputs = _batches(data, modality, batches, num_workers)
        expert.learn_statistics(move_data_to_device(one, device) for one in inputs)


def prepare_mixture(mixture: Mixture, data: PairedDataModule, experts: Mapping[str, Expert]) -> None:
    """Hold out rows that train the meta-learner, and let its selector know what experts cost."""
    if (rows := data.rows("train")) is None:
        return
    learner = mixture.meta_learner
    by = learner.held_out_by or most_shared(rows, experts)
    held_R = held_out(rows, learner.held_out, by)
    if not held_R.any():
        raise ValueError("model.meta_learner: of so few training rows none can be held out for it to learn from")
    data.mark("train", HELD_OUT, held_R)
    rank_zero_info(
        f"model.meta_learner: {held_R.sum():,} of {len(rows):,} training rows train nothing else, held out "
        + ("each by itself" if by is None else f"by their input of experts.{by}")
        + "; held_out_by chooses"
    )
    if mixture.selector is not None:
        mixture.selector.learn_costs(mixture.selector.costs or count_operations(data, experts))


def count_operations(data: PairedDataModule, experts: Mapping[str, Expert]) -> dict[str, float]:
    """Return how many floating point operations each expert takes for a row: those for an input, by how many share it.

    At least two for each of its parameters: what PyTorch does not count (recurrent layers) is taken for one step.

    Raises:
        ValueError: No row has an expert's input.
    """
    rows = data.rows("train")
    counted = {}
    for name, expert in experts.items():
        positions = np.empty(0, np.int64) if rows is None else rows.used(name)
        num_rows = 0 if rows is None else int((rows.index[name] != ABSENT).sum())
        if not len(positions):
            raise ValueError(
                f"model.selector: no training row has an input for experts.{name}, so that its cost cannot be counted; "
                "give model.selector.init_args.costs"
            )
        first = ([position] for position in positions)
        inputs = next(_batches(data, name, map(np.array, first), 0), None)
        if inputs is None:
            raise ValueError(f"model.selector: no training row has an input for experts.{name} that can be read")
        counted[name] = _operations(expert, inputs) * len(positions) / num_rows
    return counted


def _operations(expert: Expert, inputs: Any) -> int:
    device = next(chain(expert.parameters(), expert.buffers()), torch.zeros(())).device
    was_training = expert.training
    expert.eval()  # one input has no statistics to learn of
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:  # which fails without
        expert.encode(move_data_to_device(inputs, device))
    expert.train(was_training)
    return max(int(counter.get_total_flops()), 2 * sum(parameter.numel() for parameter in expert.parameters()), 1)


def _batches(
    data: PairedDataModule, modality: str, batches: Iterable[NDArray[np.int64]], num_workers: int
) -> Iterator[Any]:
    rows = data.rows("train")
    assert rows is not None
    reader = rows.sources[modality].reader(data.transforms[modality].for_evaluation)
    leave_out = data.quarantine is not None

    def read(positions: NDArray[np.int64], _seed: int) -> tuple[NDArray[np.int64], Any, Mapping[int, Fault]]:
        return read_usable(reader.read, positions) if leave_out else (positions, reader.read(positions), {})

    for usable, inputs, faults in BatchLoader(read, batches, num_workers=num_workers, by_value=True):
        if faults:
            data.leave_out("train", modality, faults)
        if len(usable):
            yield inputs


def dropout_rates(rates: float | Mapping[str, float], modalities: Iterable[str]) -> dict[str, float]:
    """Return the rate of each modality.

    Raises:
        ValueError: A rate is no share below 1, or of no modality.
    """
    modalities = list(modalities)
    by_name = dict.fromkeys(modalities, rates) if isinstance(rates, int | float) else dict(rates)
    for modality, rate in by_name.items():
        if modality not in modalities:
            raise ValueError(
                f"model.modality_dropout.{modality}: there is no such expert; there are {', '.join(modalities)}"
            )
        if not 0 <= rate < 1:
            raise ValueError(f"model.modality_dropout: {modality}: it is a share below 1, not {rate}")
    return by_name
