"""How a model is trained by many replicas, as a configuration says it."""

from __future__ import annotations

from dataclasses import dataclass, field

from crossmodal.replicas.attacks import Attack
from crossmodal.replicas.compression import Compressor
from crossmodal.replicas.dealing import IID, Partition
from crossmodal.replicas.federated import Federated
from crossmodal.replicas.method import Method


@dataclass(frozen=True)
class Replicas:
    """How a model is trained by many replicas, each where its rows lie; a round is an epoch of the trainer.

    Args:
        nodes: How many.
        method: How they learn from each other.
        partition: Which rows of the training split lie at which node.
        by: The task whose classes the partition goes by; by default the only one.
        lacks: By node, the modalities that it has not.
        epochs: Over its rows that a node trains in a round.
        together: Nodes that train side by side, in one step of all: as many models are in memory at once. On a GPU, or
            of small models, that takes less time. Nodes with other numbers of rows, or other modalities, train apart.
        decay: The learning rate falls over all rounds; else it stays as it is.
        compress: What makes that which nodes send smaller.
        attack: Nodes that are hostile, to try a method against.
    """

    nodes: int
    method: Method = field(default_factory=Federated)
    partition: Partition = field(default_factory=IID)
    by: str | None = None
    lacks: dict[int, list[str]] = field(default_factory=dict)
    epochs: int = 1
    together: int = 1
    decay: bool = True
    compress: Compressor | None = None
    attack: Attack | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "epochs", "together"):
            if getattr(self, name) < 1:
                raise ValueError(f"replicas.{name}: at least 1, not {getattr(self, name)}")
        named = {"lacks": [*self.lacks], "attack.nodes": self.attack.nodes if self.attack else []}
        for key, nodes in named.items():
            if outside := [node for node in nodes if not 0 <= node < self.nodes]:
                raise ValueError(f"replicas.{key}: there is no node {outside[0]}; they are 0 to {self.nodes - 1}")
        if self.method.hides and (self.compress is not None or self.attack is not None):
            raise ValueError("replicas.method.secure: what is hidden is not compressed, and no node is made hostile")
        if self.compress is not None and not self.method.takes_changes:
            raise ValueError(f"replicas.compress: nodes of {type(self.method).__name__} send models, not changes")
