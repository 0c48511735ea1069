from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm.layers
import torch
from torch import Tensor, nn

from experts.inference import cast, fold_batch_norms

IMAGE = (3, 6, 6)


class Network(nn.Module):
    """A convolution and two batch norms, put together by the case."""

    def __init__(self, forward: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.same = nn.Conv2d(4, 4, 1)
        self.pixel_norm = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.put_together = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.put_together(self, x)


def add_in_place_before_norm(net: Network, x: Tensor) -> Tensor:
    return net.norm(net.conv(x).add_(1))


def output_used_before_and_after(net: Network, x: Tensor) -> Tensor:
    features = net.conv(x)
    return net.norm(features) + features


def conv_used_twice(net: Network, x: Tensor) -> Tensor:
    features = net.norm(net.same(net.conv(x)))
    return net.same(features)


FOLDED = {
    "conv1d": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (3, 6)),
    "conv2d": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), IMAGE),
    "conv2d without bias": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)), IMAGE),
    "grouped conv2d": (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6)), IMAGE),
    "conv3d": (nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)), (3, 4, 4, 4)),
    "linear": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (5,)),
    "linear without bias": (nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)), (5,)),
    "norm with its activation": (nn.Sequential(nn.Conv2d(3, 4, 3), timm.layers.BatchNormAct2d(4)), IMAGE),
    "norm without weights": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), IMAGE),
    "linear, norm without weights": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False)), (5,)),
    "several": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)),
        IMAGE,
    ),
}
KEPT = {
    "output used twice": (Network(output_used_before_and_after), IMAGE),
    "norm used twice": (Network(lambda net, x: net.norm(net.same(net.norm(net.conv(x))))), IMAGE),
    "conv used twice": (Network(conv_used_twice), IMAGE),
    "norm after no conv": (Network(lambda net, x: net.conv(net.pixel_norm(x))), IMAGE),
    "norm after an activation": (Network(lambda net, x: net.norm(torch.relu(net.conv(x)))), IMAGE),
    "norm after an activation in place": (Network(lambda net, x: net.norm(net.relu(net.conv(x)))), IMAGE),
    "output changed in place": (Network(add_in_place_before_norm), IMAGE),
    "norm over a sequence": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(7)), (7, 5)),
    "norm over a square sequence": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (4, 5)),
    "norm of the batch": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)), IMAGE),
    "no norm": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), IMAGE),
}
EITHER = {"norm by keyword": (Network(lambda net, x: net.norm(input=net.conv(x))), IMAGE)}


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


@pytest.mark.parametrize("name", [*FOLDED, *KEPT, *EITHER])
def test_folding_changes_nothing_but_the_norms(name: str) -> None:
    network, shape = {**FOLDED, **KEPT, **EITHER}[name]
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for value in (module.running_mean, module.weight, module.bias):
                if value is not None:
                    nn.init.normal_(value)
            if module.running_var is not None:
                nn.init.uniform_(module.running_var, 0.3, 3)
    network.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    example, fresh = torch.randn(2, *shape), 2 * torch.randn(5, *shape)
    with torch.no_grad():
        folded = fold_batch_norms(network, lambda net: net(example))
        assert torch.allclose(folded(fresh), network(fresh), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    if name not in EITHER:
        assert norms(folded) == (0 if name in FOLDED else norms(network))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in folded.modules())


def smooth_pictures() -> Tensor:
    torch.manual_seed(0)
    return nn.functional.interpolate(torch.rand(4, 3, 3, 3), size=32, mode="bilinear")


def test_a_cast_keeps_the_sums_of_kernels() -> None:
    pictures = smooth_pictures()
    exact = nn.Sequential(nn.Conv2d(3, 48, 5, groups=3, bias=False), nn.Conv2d(48, 48, 3, groups=48, bias=False))
    nearest, kept = copy.deepcopy(exact), copy.deepcopy(exact)
    for parameter in nearest.parameters():
        parameter.data = parameter.data.bfloat16().float()
    cast(kept, torch.bfloat16)
    assert {parameter.dtype for parameter in kept.parameters()} == {torch.bfloat16}
    kept.float()
    for own, other in zip(exact, kept, strict=True):
        # each kernel errs by no more than its last weight's rounding
        bound = own.weight.abs().amax((2, 3)) * 2**-8
        assert ((other.weight - own.weight).sum((2, 3)).abs() <= bound).all()
        assert torch.allclose(other.weight, own.weight, rtol=2**-6, atol=2**-8)
    with torch.no_grad():
        errors = [float((network(pictures) - exact(pictures)).norm()) for network in (kept, nearest)]
    assert errors[0] < errors[1] / 2


def test_a_second_cast_changes_nothing() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 3)
    cast(network, torch.bfloat16)
    before = network.weight.clone()
    cast(network, torch.bfloat16)
    assert torch.equal(network.weight, before)


def test_a_cast_to_float32_is_exact() -> None:
    network = nn.Conv2d(3, 4, 3)
    before = network.weight.clone()
    cast(network, torch.float32)
    assert torch.equal(network.weight, before)
