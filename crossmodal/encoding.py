"""Encodes what frozen experts have not encoded yet, and lets a data module read the stored tokens.

Legend: U inputs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crossmodal.feature_files import KEY_TYPE
from crossmodal.feature_store import FeatureStore, StoredTokens
from crossmodal.memory import kept_memory
from crossmodal.precision import choose_precision
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import BatchLoader
from datamodules.sources import RawReader, Reader
from experts.base import Expert, ExpertTokens

# when encoding is killed, at most so much work is lost: seconds, or a share of it, so that shards stay few
FLUSH_SECONDS = 10.0
FLUSH_SHARE = 0.05
TRIAL_BATCHES = 3
MAX_WORKERS = 16  # each holds the activations of a batch
BATCHES_A_WORKER = 4  # fewer are not worth starting a process


@dataclass(frozen=True)
class Encoded:
    """What was done for one modality.

    Args:
        modality: Its name.
        encoded: Inputs that were encoded now.
        reused: Inputs whose tokens were in the store.
        seconds: That encoding took.
        precision: Of the expert.
        reason: Why nothing is stored, if so.
    """

    modality: str
    encoded: int = 0
    reused: int = 0
    seconds: float = 0.0
    precision: str = ""
    reason: str | None = None

    def __str__(self) -> str:
        if self.reason:
            return f"{self.modality}: not stored, {self.reason}"
        rate = f" in {self.seconds:.1f} s, {self.encoded / self.seconds:,.0f} inputs/s" if self.encoded else ""
        return (
            f"{self.modality}: {self.encoded:,} inputs encoded{rate}, {self.reused:,} reused from the feature "
            f"store ({self.precision})"
        )


class StoredReader:
    """Reads a source's inputs as tokens from the store.

    Args:
        stored: The tokens.
        row_of_position: Which stored row each input of the source is, -1 where it is not stored.
    """

    def __init__(self, stored: StoredTokens, row_of_position: NDArray[np.int64]) -> None:
        self.stored = stored
        self.row_of_position = row_of_position

    def read(self, positions: NDArray[np.int64]) -> ExpertTokens:
        """Return the tokens of these inputs."""
        return self.stored.gather(self.row_of_position[positions])


def encode_in_batches(
    expert: Expert,
    reader: Reader,
    positions: NDArray[np.int64],
    *,
    batch_size: int,
    device: torch.device,
    num_workers: int = 0,
) -> Iterator[tuple[NDArray[np.int64], ExpertTokens]]:
    """Yield positions and their tokens, batch by batch, in order.

    Workers read ahead for a GPU. On a CPU each also runs the network, on one core: threads that share one batch wait
    for each other at every layer, and most of them while the next batch is read.
    """
    batches = _in_batches(positions, batch_size)

    def encode(inputs: Any) -> ExpertTokens:
        with torch.inference_mode():
            tokens: ExpertTokens = expert(move_data_to_device(inputs, device))
            return tokens

    if device.type == "cpu":
        with kept_memory():
            read = BatchLoader(
                lambda batch: encode(reader.read(batch)), batches, num_workers=num_workers, by_value=True
            )
            yield from zip(batches, read, strict=True)
    else:
        read = BatchLoader(reader.read, batches, num_workers=num_workers, by_value=True)
        for batch, inputs in zip(batches, read, strict=True):
            yield batch, encode(inputs)


def _in_batches(positions: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    return [positions[start : start + batch_size] for start in range(0, len(positions), batch_size)]


def num_encode_workers(given: int | None, num_batches: int) -> int:
    """Return how many processes encode: as many as are given, or else as many as are worth their start."""
    if sys.platform != "linux":
        return 0  # elsewhere each would import torch anew
    if given is not None:
        return given
    workers = min(torch.get_num_threads(), MAX_WORKERS)
    return workers if workers > 1 and num_batches >= BATCHES_A_WORKER * workers else 0


def store_tokens(
    experts: Mapping[str, Expert],
    data: PairedDataModule,
    store: FeatureStore | None,
    splits: Sequence[Split],
    *,
    batch_size: int,
    device: torch.device,
    report: Callable[[Encoded], None],
    show_progress: bool,
    num_workers: int | None = None,
) -> None:
    """Encode what is not stored yet; afterwards the data module gives tokens instead of inputs.

    Args:
        experts: By modality.
        data: Connected to the experts' transforms.
        store: None encodes nothing ahead.
        splits: That will be read.
        batch_size: Inputs a batch.
        device: To encode on.
        report: Called once for each modality.
        show_progress: A bar with inputs/s.
        num_workers: Processes that read, and on a CPU encode; by default as many as are worth their start.
    """
    for modality, expert in experts.items():
        reason = expert.why_not_stored() or ("there is no feature store" if store is None else None)
        if reason or store is None:
            report(Encoded(modality, reason=reason))
            continue
        unread = [split for split in splits if not _reads_tokens(data, split, modality)]
        if not unread:
            continue
        report(
            _store_modality(
                modality,
                expert,
                data,
                store,
                unread,
                batch_size=batch_size,
                device=device,
                bar=show_progress,
                num_workers=num_workers,
            )
        )


def _store_modality(
    modality: str,
    expert: Expert,
    data: PairedDataModule,
    store: FeatureStore,
    splits: Sequence[Split],
    *,
    batch_size: int,
    device: torch.device,
    bar: bool,
    num_workers: int | None,
) -> Encoded:
    wanted = _wanted_inputs(modality, expert, data, splits)
    if not wanted:
        return Encoded(modality, reason="no row has it")
    trial = wanted[0].positions[: batch_size * TRIAL_BATCHES]
    choose_precision(
        expert,
        store,
        lambda: [wanted[0].reader.read(batch) for batch in _in_batches(trial, batch_size)],
        device,
    )
    fingerprint = expert.fingerprint()
    stored = store.open(fingerprint)
    todo = _not_stored(wanted, stored)
    began = time.perf_counter()
    encoded = sum(len(inputs.positions) for inputs in todo)
    if encoded:
        expert.to(device)
        about = {"label": expert.label(), "precision": expert.precision, **expert.describe()}
        writer = store.writer(fingerprint, about)
        try:
            with _progress(modality, encoded, bar) as advance:
                for inputs in todo:
                    flushed = time.perf_counter()
                    done = 0
                    for batch, tokens in encode_in_batches(
                        expert,
                        inputs.reader,
                        inputs.positions,
                        batch_size=batch_size,
                        device=device,
                        num_workers=num_encode_workers(num_workers, len(inputs.positions) // batch_size),
                    ):
                        writer.add(inputs.keys[done : done + len(batch)], tokens)
                        done += len(batch)
                        advance(len(batch))
                        elapsed = time.perf_counter() - began
                        if began + elapsed - flushed > max(FLUSH_SECONDS, FLUSH_SHARE * elapsed):
                            writer.flush()
                            flushed = time.perf_counter()
        finally:
            writer.flush()  # on Ctrl-C, and before an input that cannot be read, too
        stored = store.open(fingerprint)
    seconds = time.perf_counter() - began
    for inputs in wanted:
        row_of_position = np.full(len(inputs.reader.source), -1, np.int64)
        row_of_position[inputs.positions] = rows = stored.find(inputs.keys)
        if (rows < 0).any():
            raise ValueError(f"{stored.folder} lost tokens while it was read; run the command again")
        data.readers(inputs.split)[modality] = StoredReader(stored, row_of_position)
    total = len(np.unique(np.concatenate([inputs.keys for inputs in wanted])))
    return Encoded(modality, encoded, total - encoded, seconds, expert.precision)


def _reads_tokens(data: PairedDataModule, split: Split, modality: str) -> bool:
    return data.rows(split) is None or isinstance(data.readers(split)[modality], StoredReader)


@dataclass(frozen=True)
class _Inputs:
    """The inputs of one modality that a split's rows have."""

    split: Split
    reader: RawReader
    positions: NDArray[np.int64]
    keys: NDArray[np.bytes_]


def _wanted_inputs(modality: str, expert: Expert, data: PairedDataModule, splits: Iterable[Split]) -> list[_Inputs]:
    wanted = []
    for split in splits:
        if (rows := data.rows(split)) is not None and len(positions := rows.used(modality)):
            source = rows.sources[modality]
            wanted.append(_Inputs(split, RawReader(source, expert.transform), positions, source.keys(positions)))
    return wanted


def _not_stored(wanted: Iterable[_Inputs], stored: StoredTokens) -> list[_Inputs]:
    """Return each missing content once."""
    todo: list[_Inputs] = []
    seen = np.empty(0, KEY_TYPE)
    for inputs in wanted:
        _, first = np.unique(inputs.keys, return_index=True)
        first.sort()
        missing = first[(stored.find(inputs.keys[first]) < 0) & ~np.isin(inputs.keys[first], seen)]
        if len(missing):
            todo.append(_Inputs(inputs.split, inputs.reader, inputs.positions[missing], inputs.keys[missing]))
            seen = np.concatenate([seen, inputs.keys[missing]])
    return todo


@contextmanager
def _progress(modality: str, total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar with inputs/s; yield what moves it on."""
    began, done = time.perf_counter(), 0
    with Progress(
        TextColumn(f"encoding {modality}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} inputs/s"),
        TimeRemainingColumn(),
        disable=not show,
        transient=True,
        # what a forked worker prints must not go through the bar's lock, which it may have been forked with
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        task = progress.add_task(modality, total=total, rate="-")

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress.update(task, advance=count, rate=f"{done / (time.perf_counter() - began):,.0f}")

        yield advance
