"""The layers of a network, in the order in which it reads through them."""

from __future__ import annotations

from torch import nn

LISTS = (nn.ModuleList, nn.Sequential)


def layers_of(network: nn.Module) -> list[list[str]]:
    """Split a network's parameters into layers: what comes before the blocks, then each block, the last with the rest.

    The blocks are the list of modules that holds most of the parameters, such as `encoder.layer` of BERT or `blocks`
    of a vision transformer. Where it has sisters of its own kind, as `layer4` of ResNet has, or holds less than a
    quarter, they are the parts of the network that it lies in.

    Returns:
        The parameters' names, layer by layer; none is empty.
    """
    sizes = {name: parameter.numel() for name, parameter in network.named_parameters()}
    blocks = _blocks(network, sizes)
    layers: list[list[str]] = [[]]
    number = 0
    for name in sizes:
        place = next((place for place, block in enumerate(blocks, start=1) if name.startswith(f"{block}.")), None)
        number = place or (len(blocks) if number else 0)
        layers += [[] for _ in range(number + 1 - len(layers))]
        layers[number].append(name)
    return [layer for layer in layers if layer]


def _blocks(network: nn.Module, sizes: dict[str, int]) -> list[str]:
    def size(module: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(f"{module}."))

    lists = {name: module for name, module in network.named_modules() if isinstance(module, LISTS) and len(module)}
    best = max(lists, key=lambda name: size(name) if name else sum(sizes.values()), default=None)
    if best is None:
        return [name for name, _ in network.named_children()]
    parent = best.rpartition(".")[0]
    sisters = [
        name
        for name, module in lists.items()
        if name != best and name.rpartition(".")[0] == parent and type(module[0]) is type(lists[best][0])
    ]
    if best and (sisters or 4 * size(best) < sum(sizes.values())):
        best = parent
    return [f"{best}.{child}" if best else child for child, _ in network.get_submodule(best).named_children()]
