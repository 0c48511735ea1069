"""Runs an expert over many inputs, in this process or in several.

Legend: U inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from numpy.typing import NDArray

from crossmodal.memory import kept_memory
from datamodules.faults import Fault
from datamodules.loading import BatchLoader
from datamodules.sources import Reader, read_usable
from experts.base import Expert, ExpertTokens

MAX_WORKERS = 16  # each holds the activations of a batch
BATCHES_A_WORKER = 4  # fewer are not worth starting a process


@dataclass(frozen=True)
class EncodedBatch:
    """Some positions of a source, with the tokens of those that could be read, and the others' faults."""

    positions: NDArray[np.int64]
    tokens: ExpertTokens | None
    faults: Mapping[int, Fault]


def encode_in_batches(
    expert: Expert,
    reader: Reader,
    positions: NDArray[np.int64],
    *,
    batch_size: int,
    device: torch.device,
    num_workers: int = 0,
    leave_out: bool = False,
) -> Iterator[EncodedBatch]:
    """Yield tokens batch by batch, in order; what cannot be read ends it, or is left out.

    Workers read ahead for a GPU. On a CPU each also runs the network, on one core: threads that share one batch wait
    for each other at every layer, and most of them while the next batch is read.
    """
    on_cpu = device.type == "cpu"

    def encode(inputs: Any) -> ExpertTokens:
        with torch.inference_mode():
            tokens: ExpertTokens = expert(move_data_to_device(inputs, device))
            return tokens

    def read(batch: NDArray[np.int64], _seed: int) -> tuple[NDArray[np.int64], Any, Mapping[int, Fault]]:
        usable, inputs, faults = read_usable(reader.read, batch) if leave_out else (batch, reader.read(batch), {})
        return usable, encode(inputs) if on_cpu and len(usable) else inputs, faults

    batches = BatchLoader(read, in_batches(positions, batch_size), num_workers=num_workers, by_value=True)
    with kept_memory() if on_cpu else nullcontext():
        for usable, inputs, faults in batches:
            tokens = encode(inputs) if not on_cpu and len(usable) else inputs
            yield EncodedBatch(usable, tokens, faults)


def in_batches(positions: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut positions into batches."""
    return [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]


def num_encode_workers(given: int | None, num_batches: int) -> int:
    """Return how many processes encode: as many as are given, or else as many as are worth their start."""
    if sys.platform != "linux":
        return 0  # elsewhere each would import torch anew
    if given is not None:
        return given
    workers = min(torch.get_num_threads(), MAX_WORKERS)
    return workers if workers > 1 and num_batches >= BATCHES_A_WORKER * workers else 0
