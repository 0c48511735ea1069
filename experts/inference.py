"""What makes a frozen network faster without changing what it says.

Batch norms are folded into convolutions, and kernels rounded to bfloat16 with care.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrize import is_parametrized

FOLD_TOLERANCE = 1e-4
ROUNDING = "kernels keep their sums"  # part of bfloat16's fingerprint: name it anew where `cast` changes


def fold_batch_norms(network: nn.Module, run: Callable[[nn.Module], Tensor]) -> nn.Module:
    """Return a copy whose batch norms are folded into the layers before them, or the network itself.

    A batch norm is folded where it is the first to read what a convolution or a linear layer gave, as one
    run shows. The copy is kept only if it gives the same output, to a relative error of 1e-4.

    Args:
        network: In eval mode.
        run: Runs a network on a few inputs and returns its output.
    """
    expected = run(network)
    folded = copy.deepcopy(network)
    pairs = _layers_before_batch_norms(folded, run)
    for layer_name, norm_name in pairs:
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
        if is_parametrized(layer):
            continue
        if not norm.affine:
            norm.weight = nn.Parameter(torch.ones(norm.num_features))
            norm.bias = nn.Parameter(torch.zeros(norm.num_features))
        if isinstance(layer, nn.Linear):
            if layer.out_features != norm.num_features:
                continue  # it normalises another axis than the last
            folded.set_submodule(layer_name, fuse_linear_bn_eval(layer, norm))
        else:
            assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
            folded.set_submodule(layer_name, fuse_conv_bn_eval(layer, norm))
        folded.set_submodule(norm_name, _what_follows(norm))
    error = (run(folded) - expected).norm() / expected.norm().clamp_min(1e-12)
    return folded if pairs and bool(error < FOLD_TOLERANCE) else network


def _layers_before_batch_norms(network: nn.Module, run: Callable[[nn.Module], Tensor]) -> list[tuple[str, str]]:
    outputs: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, so that its id is not given to another
    runs: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []
    hooks = []

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            outputs[id(output)] = (name, output)

        return hook

    def pair(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            runs[name] = runs.get(name, 0) + 1
            if inputs and id(inputs[0]) in outputs:
                pairs.append((outputs.pop(id(inputs[0]))[0], name))

        return hook

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            hooks.append(module.register_forward_hook(remember(name)))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(pair(name)))
    run(network)
    for handle in hooks:
        handle.remove()
    return [(layer, norm) for layer, norm in pairs if runs[layer] == runs[norm] == 1]


def _what_follows(norm: nn.Module) -> nn.Module:
    # timm's BatchNormAct2d carries its activation (and a drop that eval mode leaves out)
    activation = getattr(norm, "act", None)
    return activation if isinstance(activation, nn.Module) else nn.Identity()


def to_channels_last(network: nn.Module) -> nn.Module:
    """Lay convolutions out as their kernels like them."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Cast a network in place; to bfloat16 such that the sum of each convolution kernel is kept.

    What a kernel sees is smooth: neighbours are nearly the same, so that its output errs by its sum's error. A
    weight's rounding error is handed on to the next weight of the kernel, as error diffusion does it to the grey of
    neighbouring pixels (Floyd & Steinberg, 1976).
    """
    if dtype == torch.bfloat16:
        for module in network.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and not is_parametrized(module):
                with torch.no_grad():
                    _round_kernels(module.weight)
    network.to(dtype)


def _round_kernels(weight: Tensor) -> None:
    """Round the kernels of a weight (out, in, *kernel) to values that bfloat16 has."""
    kernels = weight.flatten(2)
    rounded = torch.empty_like(kernels)
    carried = torch.zeros_like(kernels[..., 0])
    for position in range(kernels.shape[2]):
        wanted = kernels[..., position] + carried
        rounded[..., position] = wanted.bfloat16()
        carried = wanted - rounded[..., position]
    weight.copy_(rounded.view_as(weight))
