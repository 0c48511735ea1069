"""What a server and nodes on other machines send each other: named tensors and plain settings, as safetensors.

A peer sends numbers and words, which are checked; nothing is unpickled, and no class is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.compression import Compressed, Quantized, Sparse, decompress, num_bytes
from crossmodal.replicas.engine import Hiding, Job, Update
from crossmodal.replicas.masking import hidden_entries
from crossmodal.replicas.node import arrived

REFUSED = "refused"  # the kind of an answer that is none; its setting `reason` says why
_SIZE = 8  # bytes of a safetensors file that say how long its header is
_PARTS = {Sparse: ("values", "places", "shape"), Quantized: ("codes", "scale")}


@dataclass(frozen=True)
class Parcel:
    """What is sent at once.

    Args:
        kind: Of it.
        settings: Numbers, words, and lists and dictionaries of them, by name.
        tensors: By name.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def pack(parcel: Parcel) -> bytes:
    """Return a parcel as bytes."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in parcel.tensors.items()}
    packed: bytes = save(tensors, {"kind": parcel.kind, "settings": json.dumps(parcel.settings)})
    return packed


def unpack(data: bytes) -> Parcel:
    """Return the parcel that bytes are.

    Raises:
        ValueError: They are none.
    """
    try:
        tensors = load(data)
        header = json.loads(data[_SIZE : _SIZE + int.from_bytes(data[:_SIZE], "little")])
        kind, settings = header["__metadata__"]["kind"], json.loads(header["__metadata__"]["settings"])
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a message of {len(data)} bytes cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"a message of kind {kind!r} has no settings")
    return Parcel(kind, settings, tensors)


def refused(reason: object) -> Parcel:
    """Return an answer that says why there is none."""
    return Parcel(REFUSED, {"reason": str(reason)})


def parcel_of_job(job: Job) -> Parcel:
    """Return a job as it is sent.

    Raises:
        ValueError: The method changes how nodes train, which is not sent.
    """
    if job.local is not None:
        raise ValueError(
            f"replicas.method: {type(job.local).__name__} changes how nodes train, and cannot be sent to other machines"
        )
    settings: dict[str, Any] = {"node": job.node, "round": job.round, "proximal": job.proximal, "clip": job.clip}
    settings |= {"hiding": None if job.hiding is None else asdict(job.hiding)}
    return Parcel("train", settings, job.state)


def job_of(parcel: Parcel, fits: State) -> Job:
    """Return the job that was sent.

    Args:
        parcel: As it came.
        fits: Entries of the model that trains.

    Raises:
        ValueError: It is none that can be done.
    """
    _refuse_other(parcel.tensors, fits)
    clip = None if parcel.settings.get("clip") is None else _number(parcel, "clip")
    node, round_ = int(_number(parcel, "node")), int(_number(parcel, "round"))
    hiding = None if parcel.settings.get("hiding") is None else _hiding_of(parcel)
    return Job(node, dict(parcel.tensors), round_, _number(parcel, "proximal"), clip, hiding=hiding)


def _hiding_of(parcel: Parcel) -> Hiding:
    match parcel.settings["hiding"]:
        case {"among": [*nodes], "nonce": str(nonce), "by_rows": bool(by_rows)} if all(
            isinstance(node, int) for node in nodes
        ):
            return Hiding(tuple(nodes), nonce, by_rows)
    raise ValueError(f"a message of kind {parcel.kind!r} does not say how what is sent is hidden")


def parcel_of_update(update: Update) -> Parcel:
    """Return an update as it is sent: the state, or where the change was made smaller that."""
    settings: dict[str, Any] = {"node": update.node, "rows": update.rows, "loss": update.loss}
    settings |= {"terms": dict(update.terms), "smaller": {}}
    if update.change is None:
        return Parcel("update", settings, update.state)
    tensors: dict[str, Tensor] = {}
    for name, value in update.change.items():
        if isinstance(value, Tensor):
            tensors[name] = value
            continue
        kind = type(value)
        settings["smaller"][name] = kind.__name__
        for part in _PARTS[kind]:
            one = getattr(value, part)
            tensors[f"{name}/{part}"] = torch.tensor(one, dtype=torch.int64) if part == "shape" else one
    return Parcel("update", {**settings, "is_change": True}, tensors)


def update_of(parcel: Parcel, job: Job) -> Update:
    """Return the update that came for a job.

    Raises:
        ValueError: It is none of that job, or not finite.
    """
    try:
        update = _update_of(parcel, job)
    except (TypeError, RuntimeError, IndexError, OverflowError) as error:  # parts that do not go together
        raise ValueError(f"its answer cannot be read: {error}") from error
    for name, value in update.state.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} is not finite in its answer")
    return update


def _update_of(parcel: Parcel, job: Job) -> Update:
    if parcel.kind != "update" or parcel.settings.get("node") != job.node:
        raise ValueError(f"its answer is no update of node {job.node}")
    terms = parcel.settings.get("terms")
    if not isinstance(terms, dict) or not all(isinstance(one, int | float) for one in terms.values()):
        raise ValueError("its answer has no terms")
    rows, loss = int(_number(parcel, "rows")), _number(parcel, "loss")
    if rows < 0:
        raise ValueError(f"it says that it has {rows} rows")
    if job.hiding is not None:
        wanted = hidden_entries(job.state)
        _refuse_other(parcel.tensors, wanted)
        if missing := sorted(wanted.keys() - parcel.tensors.keys()):
            raise ValueError(f"its answer lacks {missing[0]!r}")
        return Update(job.node, dict(parcel.tensors), rows, loss, num_bytes(parcel.tensors), terms)
    if not parcel.settings.get("is_change"):
        _refuse_other(parcel.tensors, job.state)
        return Update(job.node, dict(parcel.tensors), rows, loss, num_bytes(parcel.tensors), terms)
    change = _change_of(parcel)
    dense = decompress(change)
    _refuse_other(dense, job.state)
    return Update(job.node, arrived(job.state, dense), rows, loss, num_bytes(change), terms, change)


def _change_of(parcel: Parcel) -> dict[str, Compressed]:
    smaller = parcel.settings.get("smaller")
    tensors, found = dict(parcel.tensors), dict[str, Compressed]()
    for name, kind in smaller.items() if isinstance(smaller, dict) else ():
        of_kind = next((one for one in _PARTS if one.__name__ == kind), None)
        names = [f"{name}/{part}" for part in _PARTS[of_kind]] if of_kind else []
        if of_kind is None or not tensors.keys() >= {*names}:
            raise ValueError(f"its answer has no {name!r} that could be read")
        parts = [tensors.pop(part) for part in names]
        if of_kind is Sparse:
            values, places, shape = parts
            size = torch.Size(shape.tolist())
            if places.shape != values.shape or bool(((places < 0) | (places >= size.numel())).any()):
                raise ValueError(f"its answer has places in {name!r} that are not there")
            found[name] = Sparse(values, places, size)
        else:
            found[name] = Quantized(*parts)
    return {**found, **tensors}


def parcel_of_score(state: State) -> Parcel:
    """Return the question how good a state is, as it is sent."""
    return Parcel("score", tensors=state)


def state_of(parcel: Parcel, fits: State) -> State:
    """Return the state that was sent to be scored.

    Raises:
        ValueError: It does not fit.
    """
    _refuse_other(parcel.tensors, fits)
    return dict(parcel.tensors)


def loss_of(parcel: Parcel) -> float:
    """Return how good a state was found to be.

    Raises:
        ValueError: The answer does not say.
    """
    return _number(parcel, "loss")


def _number(parcel: Parcel, name: str) -> float:
    value = parcel.settings.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a message of kind {parcel.kind!r} has no number {name!r}")
    return float(value)


def _refuse_other(sent: State, fits: State) -> None:
    """Refuse entries that are not there, or of another shape or type."""
    for name, value in sent.items():
        if name not in fits:
            raise ValueError(f"the model has no {name!r}")
        there = fits[name]
        if value.shape != there.shape or value.dtype != there.dtype:
            raise ValueError(
                f"{name} is {tuple(value.shape)} of {value.dtype}, where the model has {tuple(there.shape)} of "
                f"{there.dtype}"
            )
