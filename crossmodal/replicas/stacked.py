"""Replicas that train side by side: their parameters lie stacked, and a step is one of all of them (`torch.vmap`).

On a GPU a step of many small models takes hardly longer than a step of one, and so does on a CPU that of the smallest;
of larger ones there it takes longer than that of each in turn. Each replica in a stack takes memory of its own.

Legend: K replicas, B rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from crossmodal.replicas.aggregation import State

# of these a step of stacked parameters is that of each by itself
ELEMENTWISE = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.RAdam,
    torch.optim.NAdam,
    torch.optim.Adamax,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
)  # AdamW is an Adam


class Stack:
    """K replicas of a network.

    Args:
        network: Whose forward pass returns named terms of a loss, or one loss.
        states: Of each replica: the same entries, which take the place of the network's; its others all share.
    """

    def __init__(self, network: nn.Module, states: Sequence[State]) -> None:
        own = dict(network.named_parameters()) | dict(network.named_buffers())
        trained = {name for name, one in network.named_parameters() if one.requires_grad}
        self._network = network
        self.values: dict[str, Tensor] = {
            name: torch.stack([state[name].to(own[name].device) for state in states]) for name in states[0]
        }
        self.trained = {name: value.requires_grad_() for name, value in self.values.items() if name in trained}

    def optimizer(self, of_one: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Return an optimizer of the network as one of the stack.

        Args:
            of_one: That has not yet stepped.

        Raises:
            ValueError: It does more than to step each number by itself.
        """
        if not isinstance(of_one, ELEMENTWISE):
            there = ", ".join(one.__name__ for one in ELEMENTWISE)
            raise ValueError(
                f"{type(of_one).__name__} does not step each number by itself, as {there} do: replicas cannot train "
                "side by side with it"
            )
        name_of = {id(one): name for name, one in self._network.named_parameters()}
        for group in of_one.param_groups:
            group["params"] = [self.trained[name_of[id(one)]] for one in group["params"]]
        return of_one

    def __call__(self, *inputs: Any) -> Any:
        """Return what the network returns of each replica, K first; inputs are stacked, too.

        Raises:
            ValueError: The network does what cannot be done side by side.
        """

        def of_one(values: Mapping[str, Tensor], *own: Any) -> Any:
            return functional_call(self._network, dict(values), own)

        try:
            with sdpa_kernel(SDPBackend.MATH):  # of the others some would be run replica by replica
                return torch.vmap(of_one, randomness="different")(self.values, *inputs)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise ValueError(f"this model cannot train side by side: {str(error).splitlines()[0]}") from error

    def clip_gradients(self, norm: float) -> None:
        """Scale each replica's gradients, as `torch.nn.utils.clip_grad_norm_` does."""
        gradients = [one.grad for one in self.trained.values() if one.grad is not None]
        squares = [gradient.flatten(1).square().sum(1) for gradient in gradients]
        scale_K = (norm / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(scale_K.view(-1, *(1,) * (gradient.dim() - 1)))

    def states(self) -> list[dict[str, Tensor]]:
        """Return a copy of each replica's entries."""
        count = len(next(iter(self.values.values())))
        return [{name: value[k].detach().clone() for name, value in self.values.items()} for k in range(count)]
