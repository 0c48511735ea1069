"""Nodes that are SuperNodes of Flower (flwr 1.41), which a SuperLink connects with this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid
from httpx import HTTPError

from crossmodal.output import say
from crossmodal.replicas.agreement import agreed
from crossmodal.replicas.engine import Engine
from crossmodal.replicas.flower_records import PARCEL, REASON, array_of, bytes_of
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.module import ReplicatedModule
from crossmodal.replicas.plan import Replicas
from crossmodal.replicas.remote import LOST, Patience, RemoteEngine
from crossmodal.replicas.wire import REFUSED, Parcel, pack, refused, unpack

TYPES = {"hello": "query", "train": "train", "score": "evaluate"}  # of messages, by the kind of what they bring


class GridPost:
    """Carries parcels over a Flower grid.

    Args:
        grid: Of a ServerApp.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._there: set[int] = set()

    def there(self) -> set[int]:
        """Return the nodes that the SuperLink has heard of lately, as it said last."""
        with _told("does not say which nodes are there"):
            self._there = {*self._grid.get_node_ids()}
        return self._there

    def send(self, address: int, parcel: Parcel, *, seconds: float) -> str:
        """Give a message to the SuperLink, which the node fetches."""
        content = RecordDict({PARCEL: ArrayRecord({PARCEL: array_of(pack(parcel))})})
        message = Message(content, address, TYPES[parcel.kind], ttl=seconds)
        names: list[str | None] = []
        with _told("takes no message"):
            names += self._grid.push_messages([message])
        return next(iter(names), None) or ""

    def answers(self, names: Collection[str]) -> dict[str, Parcel]:
        """Fetch the replies that have come."""
        came: list[Message] = []
        with _told("gives no messages"):
            came += self._grid.pull_messages(list(names))
        return {one.metadata.reply_to_message_id: _parcel_of(one) for one in came}


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell of an error of a SuperLink that may come to itself again; how long it is waited for is up to the engine."""
    try:
        yield
    except HTTPError as error:
        say(f"the SuperLink {what}: {error}")


def _parcel_of(message: Message) -> Parcel:
    if message.has_error():
        return Parcel(LOST, {"reason": message.error.reason})
    if (said := message.content.config_records.get(REASON)) is not None:
        return Parcel(REFUSED, dict(said))
    try:
        return unpack(bytes_of(message))
    except ValueError as error:
        return refused(error)


def flower(grid: Grid, patience: Patience) -> Callable[..., Engine]:
    """Return what makes the engine of a grid's nodes, as `ReplicatedModule.replicate` takes it."""

    def engine(module: ReplicatedModule, plan: Replicas, here: LocalEngine, tell: Callable[[int, int], None]) -> Engine:
        alike = agreed(module, plan, module.how())
        return RemoteEngine(GridPost(grid), plan.nodes, here, alike, patience=patience, tell=tell, say=say)

    return engine
