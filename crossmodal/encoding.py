"""Encodes what frozen experts have not encoded yet, and lets a data module read the stored tokens.

Legend: U inputs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crossmodal.encoder import encode_in_batches, in_batches, num_encode_workers
from crossmodal.feature_files import KEY_TYPE
from crossmodal.feature_store import FeatureStore, StoredTokens
from crossmodal.precision import choose_precision
from datamodules.faults import Fault, InputError
from datamodules.paired import PairedDataModule, Split
from datamodules.sources import RawReader, UnreadableInputsError, read_usable
from experts.base import Expert, ExpertTokens

# when encoding is killed, at most so much work is lost: seconds, or a share of it, so that shards stay few
FLUSH_SECONDS = 10.0
FLUSH_SHARE = 0.05
TRIAL_BATCHES = 3


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
        faults: Of inputs that could not be encoded, by position.
    """

    def __init__(
        self, stored: StoredTokens, row_of_position: NDArray[np.int64], faults: Mapping[int, Fault] | None = None
    ) -> None:
        self.stored = stored
        self.row_of_position = row_of_position
        self.faults = faults or {}

    def read(self, positions: NDArray[np.int64]) -> ExpertTokens:
        """Return the tokens of these inputs.

        Raises:
            UnreadableInputsError: There are inputs that could not be encoded.
        """
        if faults := {p: self.faults[p] for p in positions.tolist() if p in self.faults} if self.faults else {}:
            raise UnreadableInputsError(faults)
        return self.stored.gather(self.row_of_position[positions])


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
    if_needed: Collection[str] = (),
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
        if_needed: Experts that may not be needed for each input: what is not stored is left for later.
    """
    for modality, expert in experts.items():
        reason = expert.why_not_stored() or ("there is no feature store" if store is None else None)
        if reason or store is None:
            report(Encoded(modality, reason=reason))
            continue
        unread = [split for split in splits if not _reads_tokens(data, split, modality)]
        if not unread:
            continue
        settings: dict[str, Any] = {
            "batch_size": batch_size,
            "device": device,
            "bar": show_progress,
            "num_workers": num_workers,
        }
        report(_store_modality(modality, expert, data, store, unread, ahead=modality not in if_needed, **settings))


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
    ahead: bool,
) -> Encoded:
    wanted = _wanted_inputs(modality, expert, data, splits)
    if not wanted:
        return Encoded(modality, reason="no row has it")
    trial = wanted[0].positions[: batch_size * TRIAL_BATCHES]
    choose_precision(
        expert,
        store,
        lambda: [
            inputs
            for batch in in_batches(trial, batch_size)
            if (inputs := _read_for_trial(wanted[0].reader, batch, data)) is not None
        ],
        device,
    )
    fingerprint = expert.fingerprint()
    there = store.open(fingerprint)
    _try_to_read(wanted, there)
    todo = _not_stored(wanted, there)
    if todo and not ahead:
        return Encoded(modality, reason="it runs on the rows that it is chosen for")
    began = flushed = time.perf_counter()
    faults: dict[bytes, Fault] = {}
    num_todo = sum(len(inputs.positions) for inputs in todo)
    if num_todo:
        about = {"label": expert.label(), "precision": expert.precision, **expert.describe()}
        writer = store.writer(fingerprint, about)
        try:
            with _progress(modality, num_todo, bar) as advance:
                for keys, tokens, faulty in _encode(expert.to(device), todo, batch_size, device, num_workers, data):
                    if tokens is not None:
                        writer.add(keys, tokens)
                    faults |= faulty
                    advance(len(keys) + len(faulty))
                    now = time.perf_counter()
                    if now - flushed > max(FLUSH_SECONDS, FLUSH_SHARE * (now - began)):
                        writer.flush()
                        flushed = time.perf_counter()
        finally:
            writer.flush()  # on Ctrl-C, and before an input that cannot be read, too
    seconds = time.perf_counter() - began
    stored = store.open(fingerprint)
    for inputs in wanted:
        _let_read(data, modality, inputs, stored, faults)
    total = len(np.unique(np.concatenate([inputs.keys for inputs in wanted])))
    return Encoded(modality, num_todo - len(faults), total - num_todo, seconds, expert.precision)


def _encode(
    expert: Expert,
    todo: Iterable[_Inputs],
    batch_size: int,
    device: torch.device,
    num_workers: int | None,
    data: PairedDataModule,
) -> Iterator[tuple[NDArray[np.bytes_], ExpertTokens | None, dict[bytes, Fault]]]:
    """Yield, batch by batch, keys and their tokens, and the faults of keys that have none."""
    for inputs in todo:
        key_of = dict(zip(inputs.positions.tolist(), inputs.keys, strict=True))
        for batch in encode_in_batches(
            expert,
            inputs.reader,
            inputs.positions,
            batch_size=batch_size,
            device=device,
            num_workers=num_encode_workers(num_workers, len(inputs.positions) // batch_size),
            leave_out=data.quarantine is not None,
        ):
            keys = np.array([key_of[position] for position in batch.positions.tolist()], KEY_TYPE)
            yield keys, batch.tokens, {key_of[position]: fault for position, fault in batch.faults.items()}


def _read_for_trial(reader: RawReader, positions: NDArray[np.int64], data: PairedDataModule) -> Any:
    return reader.read(positions) if data.quarantine is None else read_usable(reader.read, positions)[1]


def _let_read(
    data: PairedDataModule, modality: str, inputs: _Inputs, stored: StoredTokens, faults: Mapping[bytes, Fault]
) -> None:
    """Let the data module read a split's stored tokens, and leave out the rows whose input has none."""
    source = inputs.reader.source
    row_of_position = np.full(len(source), -1, np.int64)
    row_of_position[inputs.positions] = rows = stored.find(inputs.keys)
    left_out = dict(inputs.faults)
    for at in np.flatnonzero(rows < 0).tolist():
        fault = faults.get(inputs.keys[at])
        if fault is None:
            raise ValueError(f"{stored.folder} lost tokens while it was read; run the command again")
        position = int(inputs.positions[at])
        left_out[position] = source.fault(position, InputError(fault.kind, fault.cause))
    if left_out:
        data.leave_out(inputs.split, modality, left_out)
    data.readers(inputs.split)[modality] = StoredReader(stored, row_of_position, left_out)


def _reads_tokens(data: PairedDataModule, split: Split, modality: str) -> bool:
    return data.rows(split) is None or isinstance(data.readers(split)[modality], StoredReader)


@dataclass(frozen=True)
class _Inputs:
    """The inputs of one modality that a split's rows have."""

    split: Split
    reader: RawReader
    positions: NDArray[np.int64]
    keys: NDArray[np.bytes_]
    faults: Mapping[int, Fault] = field(default_factory=dict)  # of those whose content cannot be read


def _wanted_inputs(modality: str, expert: Expert, data: PairedDataModule, splits: Iterable[Split]) -> list[_Inputs]:
    wanted = []
    for split in splits:
        if (rows := data.rows(split)) is not None and len(positions := rows.used(modality)):
            source = rows.sources[modality]
            reader = source.reader(expert.transform)
            if data.quarantine is None:
                wanted.append(_Inputs(split, reader, positions, source.keys(positions)))
                continue
            usable, keys, faults = read_usable(source.keys, positions)
            wanted.append(_Inputs(split, reader, usable, np.empty(0, KEY_TYPE) if keys is None else keys, faults))
    return wanted


def _try_to_read(wanted: Iterable[_Inputs], stored: StoredTokens) -> None:
    """Read each split's first input, if it would not be: a column of another type would go unnoticed."""
    for inputs in wanted:
        if (stored.find(inputs.keys[:1]) >= 0).any():
            inputs.reader.read(inputs.positions[:1])


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
