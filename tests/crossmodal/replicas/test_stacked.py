from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.replicas.stacked import Stack


class Loss(nn.Module):
    """Of a small network, one part of which does not train."""

    def __init__(self, *, branches: bool = False) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 4).requires_grad_(requires_grad=False)
        self.trained = nn.Linear(4, 2)
        self.branches = branches

    def forward(self, inputs_BD: Tensor, labels_B: Tensor) -> Tensor:
        hidden = self.frozen(inputs_BD).relu()
        if self.branches and hidden.sum() > 0:
            hidden = -hidden
        return F.cross_entropy(self.trained(hidden), labels_B)


def states(count: int) -> list[dict[str, Tensor]]:
    made = torch.Generator().manual_seed(0)
    return [
        {"trained.weight": torch.randn(2, 4, generator=made), "trained.bias": torch.randn(2, generator=made)}
        for _ in range(count)
    ]


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_replicas_side_by_side_learn_what_each_would_alone(optimizer: type, clip: float | None) -> None:
    torch.manual_seed(0)
    network, count = Loss(), 3
    inputs_KBD, labels_KB = torch.randn(count, 5, 3), torch.randint(2, (count, 5))
    alone = []
    for number, state in enumerate(states(count)):
        network.load_state_dict(state, strict=False)
        own = optimizer(network.trained.parameters(), lr=0.05)
        for _ in range(4):
            network(inputs_KBD[number], labels_KB[number]).backward()
            if clip:
                nn.utils.clip_grad_norm_(network.parameters(), clip)
            own.step()
            own.zero_grad()
        alone.append({name: value.clone() for name, value in network.state_dict().items() if name in state})
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stack = Stack(network, states(count))
    together = stack.optimizer(optimizer(network.trained.parameters(), lr=0.05))
    for _ in range(4):
        stack(inputs_KBD, labels_KB).sum().backward()
        if clip:
            stack.clip_gradients(clip)
        together.step()
        together.zero_grad()
    for one, other in zip(alone, stack.states(), strict=True):
        torch.testing.assert_close(one, other)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_cannot_be_done_side_by_side_is_refused() -> None:
    network = Loss(branches=True)
    with pytest.raises(ValueError, match="cannot train side by side: vmap"):
        Stack(network, states(2))(torch.randn(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="shapes"):  # a fault of its own stays what it is
        Stack(Loss(), states(2))(torch.randn(2, 5, 7), torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="LBFGS does not step each number by itself"):
        Stack(network, states(2)).optimizer(torch.optim.LBFGS(network.trained.parameters()))
