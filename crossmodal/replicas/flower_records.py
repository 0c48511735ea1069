"""Parcels as records of Flower: one array of bytes, which is safetensors. Imports nothing heavy."""

from __future__ import annotations

from flwr.app import Array, Message

PARCEL = "parcel"
REASON = "reason"
NODE = "node"  # its number
SAFETENSORS = "safetensors"


def array_of(parcel: bytes) -> Array:
    """Return the bytes of a parcel as an array: one for all tensors, since each array is fetched by itself."""
    return Array("uint8", (len(parcel),), SAFETENSORS, parcel)


def bytes_of(message: Message) -> bytes:
    """Return the bytes of the parcel that a message brings.

    Raises:
        ValueError: It brings none.
    """
    record = message.content.array_records.get(PARCEL)
    if record is None or PARCEL not in record or record[PARCEL].stype != SAFETENSORS:
        raise ValueError("a message without a parcel")
    return bytes(record[PARCEL].data)
