"""Nodes on other machines: who is there, who is waited for, and what is done without those that do not answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.engine import Job, Update
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.wire import (
    REFUSED,
    Parcel,
    loss_of,
    parcel_of_job,
    parcel_of_score,
    update_of,
)

LOST = "lost"  # the kind of an answer in the place of one that will never come
HELLO = "hello"
TELL_EVERY = 10.0  # seconds
PAUSE = 0.2  # seconds between two looks
GREET_AGAIN = 60.0  # seconds after which who has not said who it is is asked again


class Post(Protocol):
    """Carries parcels to other machines, and brings answers."""

    def there(self) -> set[int]:
        """Return the addresses of those that are connected; who comes back may have another one."""

    def send(self, address: int, parcel: Parcel, *, seconds: float) -> str:
        """Send a parcel; return the name by which its answer is asked for, or nothing where it could not be sent.

        Args:
            address: Of one that is connected.
            parcel: To send.
            seconds: After which nobody waits for an answer any more.
        """

    def answers(self, names: Collection[str]) -> dict[str, Parcel]:
        """Return the answers that have come, by name; each once. Does not wait."""


@dataclass(frozen=True)
class Patience:
    """How long nodes are waited for.

    Args:
        timeout: Seconds, in a round.
        min_nodes: That must be there.
    """

    timeout: float = 600.0
    min_nodes: int = 1

    def __post_init__(self) -> None:
        if not self.timeout > 0 or self.min_nodes < 1:
            raise ValueError(f"timeout is above 0, not {self.timeout}, and min-nodes at least 1, not {self.min_nodes}")


@dataclass
class _Asked:
    """What a node is asked.

    Args:
        node: Its number.
        parcel: That says what.
        address: That it was sent to; None before.
        name: By which the answer is asked for.
    """

    node: int
    parcel: Parcel
    address: int | None = None
    name: str = ""


class RemoteEngine:
    """Lets nodes on other machines train.

    A node is known by its number, and found anew when it comes back. A round goes on without those that do not answer
    in time, of whom there may be as many as there are nodes beyond `min_nodes`.

    Args:
        post: To them.
        nodes: How many there are.
        here: Measures with the rows of the server.
        agreed: What nodes must have found in their configuration, too, by key.
        patience: With them.
        tell: Called with the number of jobs that are done, and of all.
        say: Called with a line for people.
    """

    def __init__(
        self,
        post: Post,
        nodes: int,
        here: LocalEngine,
        agreed: Mapping[str, Any],
        *,
        patience: Patience,
        tell: Callable[[int, int], None] = lambda done, of: None,
        say: Callable[[str], None] = print,
    ) -> None:
        if patience.min_nodes > nodes:
            raise ValueError(f"min-nodes: there are {nodes} nodes, so that {patience.min_nodes} can never be there")
        self.nodes = nodes
        self._post = post
        self._here = here
        self._agreed = agreed
        self._patience = patience
        self._tell = tell
        self._say = say
        self._run = secrets.token_hex(8)  # so that nodes know what is left of another run
        self._addresses: dict[int, int] = {}  # of nodes that are there
        self._greeted: dict[int, tuple[str, float]] = {}  # by address: the name of the question who it is, and when
        self._known: set[int] = set()  # addresses that have said who they are
        self._reasons: dict[int, str] = {}  # by number, why a node takes no part
        self._has_begun = False

    def train(self, jobs: Sequence[Job]) -> list[Update]:
        """Send the jobs, and wait."""
        parcels = [(job.node, parcel_of_job(job)) for job in jobs]
        what = f"round {jobs[0].round + 1}" if jobs else ""
        found: dict[int, Update] = {}

        def take(number: int, answer: Parcel) -> None:
            found[number] = update_of(answer, jobs[number])
            self._tell(len(found), len(jobs))

        self._exchange(what, parcels, take)
        return [found[number] for number in sorted(found)]

    def score(self, states: Sequence[tuple[int, State]]) -> list[float]:
        """Send the states, and wait; not a number for a node that does not answer."""
        found = [float("nan")] * len(states)

        def take(number: int, answer: Parcel) -> None:
            found[number] = loss_of(answer)

        self._exchange("scores", [(node, parcel_of_score(state)) for node, state in states], take)
        return found

    def train_split(self, jobs: Sequence[Job], *, merge_every: int | None) -> tuple[list[Update], dict[str, Tensor]]:
        """Refuse."""
        raise ValueError("replicas.method: batch by batch no model is trained with nodes on other machines")

    def measure(self, state: State) -> float:
        """Measure at the server."""
        return self._here.measure(state)

    def state_dict(self) -> dict[str, Any]:
        """Return what the run is called; what nodes keep is there."""
        return {"run": self._run}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with this run."""
        self._run = state_dict.get("run", self._run)

    def _exchange(self, what: str, parcels: Sequence[tuple[int, Parcel]], take: Callable[[int, Parcel], None]) -> None:
        """Send parcels to nodes, and take the answers of those that answer in time.

        Args:
            what: Is done, for people.
            parcels: And the nodes that they are for.
            take: Called with the place of a parcel and its answer; raises ValueError where it is none.

        Raises:
            TimeoutError: Fewer than `min_nodes` are left.
        """
        began = said = time.monotonic()
        deadline = began + self._patience.timeout
        waiting = {number: _Asked(node, self._of_run(parcel)) for number, (node, parcel) in enumerate(parcels)}
        silent: set[int] = set()  # nodes that have refused
        while waiting:
            self._call_the_roll()
            for one in waiting.values():
                self._send(one, deadline)
            for number, answer in self._come(waiting).items():
                node = waiting.pop(number).node
                try:
                    if answer.kind == REFUSED:
                        raise ValueError(answer.settings.get("reason"))
                    take(number, answer)
                except ValueError as error:
                    silent.add(node)
                    self._say(f"{what}: node {node}: {error}")
            missing = silent | {one.node for one in waiting.values()} | ({*range(self.nodes)} - self._addresses.keys())
            may_go = len(missing) <= self.nodes - self._patience.min_nodes
            gone = [one for one in waiting.values() if one.node not in self._addresses]
            if may_go and len(gone) == len(waiting) and (self._has_begun or not waiting):
                break
            now = time.monotonic()
            if now >= deadline or (not waiting and not may_go):
                if may_go:
                    break
                raise TimeoutError(f"{what}: {self._who_is_missing(missing)}; min-nodes is {self._patience.min_nodes}")
            if now - said >= TELL_EVERY:
                said = now
                self._say(f"{what}: waiting for {self._who_is_missing({one.node for one in waiting.values()})}")
            time.sleep(PAUSE)
        if waiting:
            self._say(f"{what}: goes on without {self._who_is_missing({one.node for one in waiting.values()})}")
        self._has_begun = True

    def _of_run(self, parcel: Parcel) -> Parcel:
        return Parcel(parcel.kind, {**parcel.settings, "run": self._run}, parcel.tensors)

    def _send(self, one: _Asked, deadline: float) -> None:
        """Send what a node is asked, if it is there and was not asked yet; again to one that has come back."""
        address = self._addresses.get(one.node)
        if address is not None and address != one.address:
            seconds = max(1.0, deadline - time.monotonic())
            one.name = self._post.send(address, one.parcel, seconds=seconds)
            one.address = address if one.name else None

    def _come(self, waiting: Mapping[int, _Asked]) -> dict[int, Parcel]:
        """Return the answers that have come, by place; who is lost is no longer there."""
        names = {one.name: number for number, one in waiting.items() if one.name}
        found = {}
        for name, answer in (self._post.answers(names.keys()) if names else {}).items():
            one = waiting[names[name]]
            if answer.kind != LOST:
                found[names[name]] = answer
            elif self._addresses.get(one.node) == one.address:
                self._known.discard(self._addresses.pop(one.node))  # who is there after all is asked again
        return found

    def _call_the_roll(self) -> None:
        """Ask newcomers who they are, and forget who has left."""
        there, now = self._post.there(), time.monotonic()
        self._addresses = {node: address for node, address in self._addresses.items() if address in there}
        self._greeted = {address: asked for address, asked in self._greeted.items() if address in there}
        self._known &= there  # who comes back with the same address may have been started otherwise
        for address in there - self._known:
            if address not in self._greeted or now - self._greeted[address][1] > GREET_AGAIN:
                name = self._post.send(address, self._of_run(Parcel(HELLO)), seconds=GREET_AGAIN)
                self._greeted[address] = (name, now)
        names = {name: address for address, (name, _) in self._greeted.items() if name}
        for name, answer in (self._post.answers(names.keys()) if names else {}).items():
            address = names[name]
            if answer.kind == LOST:
                self._greeted[address] = ("", self._greeted[address][1])
                continue
            del self._greeted[address]
            self._known.add(address)
            self._welcome(address, answer)

    def _welcome(self, address: int, answer: Parcel) -> None:
        node = answer.settings.get("node")
        if not isinstance(node, int) or not 0 <= node < self.nodes:
            reason = answer.settings.get("reason", f"there is no node {node}; they are 0 to {self.nodes - 1}")
            self._say(f"a node takes no part: {reason}")
            return
        if answer.kind == REFUSED:
            self._reasons[node] = str(answer.settings.get("reason"))
        else:
            self._reasons.pop(node, None)
            said = answer.settings.get("agreed")
            there = said if isinstance(said, dict) else {}
            for key, value in self._agreed.items():
                if there.get(key) != value:
                    self._reasons[node] = f"{key} is {there.get(key)} there and {value} here"
                    break
        if node in self._reasons:
            self._say(f"node {node} takes no part: {self._reasons[node]}")
            return
        self._addresses[node] = address  # the newest, if an older one is not known to be gone yet
        self._say(f"node {node} is there")

    def _who_is_missing(self, nodes: Collection[int]) -> str:
        said = []
        for node in sorted(nodes):
            why = "no answer yet" if node in self._addresses else self._reasons.get(node, "not connected")
            said.append(f"node {node} ({why})")
        return ", ".join(said)
