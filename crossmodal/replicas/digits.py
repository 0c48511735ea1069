"""The network that Homogeneous Learning was tried with, and how its nodes train it.

It is trained thousands of times, so nothing here is done that training does not need: images lie in memory, and a step
has no module's bookkeeping.

Legend: R images, B images of a batch, K nodes, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.stacked import Stack

HIDDEN = 500


class DigitNetwork(nn.Module):
    """Two convolutions of 20 and 50 filters of 5 by 5, each with max-pooling, and two dense layers (LeNet).

    It begins as Keras begins such layers, with which it was tried: weights as Glorot & Bengio (2010) say, no biases.

    Args:
        classes: C.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 20, 5)
        self.second = nn.Conv2d(20, 50, 5)
        self.dense = nn.Linear(4 * 4 * 50, HIDDEN)
        self.out = nn.Linear(HIDDEN, classes)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

    def forward(self, images_B1HW: Tensor) -> Tensor:
        """Return logits, (B, C), of images of 28 by 28."""
        found = F.max_pool2d(F.relu(self.first(images_B1HW)), 2)
        found = F.max_pool2d(F.relu(self.second(found)), 2)
        logits_BC: Tensor = self.out(F.relu(self.dense(found.flatten(1))))
        return logits_BC


class DigitLearner:
    """Trains the network at nodes, for `HomogeneousLearning`.

    What comes of it depends on the state, the node and the seed alone.

    Args:
        images: uint8, (R, 28, 28), all that nodes have.
        labels: Of each.
        nodes: The numbers of the images that each node has.
        held_out: Images that no node has, and their labels, by which a model is judged.
        batch_size: B.
        epochs: Over its rows that a node trains in a round.
        lr: Of Adam.
        device: That it is trained on.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        nodes: Sequence[NDArray[np.int64]],
        held_out: tuple[NDArray[np.uint8], NDArray[np.int64]],
        *,
        batch_size: int = 32,
        epochs: int = 1,
        lr: float = 1e-3,
        device: str = "cpu",
    ) -> None:
        pixels_R, labels_R = _prepared(images).to(device), torch.from_numpy(labels).to(device)
        self._nodes = [(pixels_R[rows], labels_R[rows]) for rows in map(torch.from_numpy, nodes)]
        self._held_out = _prepared(held_out[0]).to(device), torch.from_numpy(held_out[1]).to(device)
        self._batch_size = batch_size
        self._epochs = epochs
        self._lr = lr
        # on a CPU a round takes two thirds of the time so
        self.network = DigitNetwork().to(device)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._parameters = dict(self.network.named_parameters())
        self._asked: tuple[State, Tensor] | None = None

    def rows(self, node: int) -> tuple[Tensor, Tensor]:
        """Return a node's images, as the network takes them, and their labels."""
        return self._nodes[node]

    def begin(self, seed: int) -> State:
        """Return a model that nobody has trained."""
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return {name: value.detach() for name, value in DigitNetwork().named_parameters()}

    def train(self, state: State, node: int, seed: int) -> State:
        """Return the model after a node has trained it for a round, with an optimizer of its own."""
        self._load(state)
        images_R, labels_R = self._nodes[node]
        generator = torch.Generator().manual_seed(seed)
        # one kernel for all parameters: of 50 steps the optimizer's bookkeeping would be a third
        optimizer = torch.optim.Adam(self._parameters.values(), lr=self._lr, fused=True)
        for _ in range(self._epochs):
            order_R = torch.randperm(len(labels_R), generator=generator)
            for rows in torch.split(order_R, self._batch_size):
                loss = F.cross_entropy(self.network(images_R[rows]), labels_R[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return {name: value.detach().clone() for name, value in self._parameters.items()}

    def train_together(self, states: Sequence[State], nodes: Sequence[int], seeds: Sequence[int]) -> list[State]:
        """Return what `train` would of each, to rounding: all are trained side by side.

        Raises:
            ValueError: The nodes have not equally many rows.
        """
        sizes = {len(self._nodes[node][1]) for node in nodes}
        if len(sizes) != 1:
            raise ValueError(f"nodes that train side by side have equally many rows, not {sorted(sizes)}")
        images_KR, labels_KR = (torch.stack([self._nodes[node][part] for node in nodes]) for part in range(2))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        stack = Stack(
            _LossOf(self.network), [{f"network.{key}": value for key, value in one.items()} for one in states]
        )
        optimizer = torch.optim.Adam(stack.trained.values(), lr=self._lr, fused=True)
        replica_K1 = torch.arange(len(nodes)).unsqueeze(1)
        for _ in range(self._epochs):
            order_KR = torch.stack([torch.randperm(images_KR.shape[1], generator=one) for one in generators])
            for rows_KB in torch.split(order_KR, self._batch_size, dim=1):
                losses_K = stack(images_KR[replica_K1, rows_KB], labels_KR[replica_K1, rows_KB])
                losses_K.sum().backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return [{key.removeprefix("network."): value for key, value in one.items()} for one in stack.states()]

    def accuracy(self, state: State) -> float:
        """Return the share of the held-out images that a model tells rightly."""
        return float(self.right(state).double().mean())

    def accuracies(self, state: State) -> list[float]:
        """Return the same for each node, whose classes count as often as it has them."""
        right_R, labels_R = self.right(state).double(), self._held_out[1]
        counts_C = torch.bincount(labels_R, minlength=10).clamp_min(1)
        of_class_C = torch.bincount(labels_R, weights=right_R, minlength=10) / counts_C
        shares = [torch.bincount(labels, minlength=10) / len(labels) for _, labels in self._nodes]
        return [float(share_C.double() @ of_class_C) for share_C in shares]

    def right(self, state: State) -> Tensor:
        """Return which of the held-out images a model tells rightly; of the same state it is asked twice."""
        if self._asked is None or self._asked[0] is not state:
            self._asked = state, self._told(state)
        return self._asked[1]

    def _told(self, state: State) -> Tensor:
        self._load(state)
        images_R, labels_R = self._held_out
        with torch.inference_mode():
            return torch.cat([self.network(images).argmax(1) for images in torch.split(images_R, 250)]) == labels_R

    def _load(self, state: State) -> None:
        with torch.no_grad():
            for name, value in state.items():
                self._parameters[name].copy_(value)


class _LossOf(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_B1HW: Tensor, labels_B: Tensor) -> Tensor:
        return F.cross_entropy(self.network(images_B1HW), labels_B)


def _prepared(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)  # not centred, as its authors had them
