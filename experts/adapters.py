"""What a pretrained expert is tuned by: LoRA, its last layers, or a map of its tokens.

Legend: U inputs, N tokens, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from experts.base import Expert, ExpertTokens
from experts.layers import layers_of
from experts.wrapping import WrappingExpert

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
# torch's own modules that may read the weights of their layers without calling them
CLOSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass
class Lora:
    """Low-rank changes of layers (Hu et al. 2021, arXiv 2106.09685); the peft library makes them.

    Args:
        rank: Of a change.
        alpha: A change is scaled by alpha / rank.
        dropout: Of a change's input.
        target_modules: Names of layers, or the last parts of their names, such as `query`; by default all linear
            layers, or in a network of convolutions all convolutions that mix channels.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    target_modules: list[str] | None = None


class TunedExpert(WrappingExpert):
    """Trains a part of an expert, or all of it with lower rates for earlier layers.

    What does not train stays in eval mode, as it is when an expert is frozen.

    Args:
        expert: With `freeze: false`.
        lora: Trains low-rank changes, nothing else.
        last_layers: Trains so many of the last layers, nothing else.
        layer_decay: Each layer's learning rate is this share of the rate of the next.

    Raises:
        ValueError: The expert is frozen, a number is out of range, or a name is of no layer.
    """

    def __init__(
        self,
        expert: Expert,
        *,
        lora: Lora | None = None,
        last_layers: int | None = None,
        layer_decay: float = 1.0,
    ) -> None:
        if expert.frozen:
            raise ValueError(f"{type(expert).__name__} is frozen: set its `freeze: false`, then what is not tuned is")
        if lora is not None and last_layers is not None:
            raise ValueError("give `lora` or `last_layers`, not both")
        if not 0 < layer_decay <= 1:
            raise ValueError(f"layer_decay is a share, above 0 and at most 1, not {layer_decay}")
        super().__init__(expert)
        self.layer_decay = layer_decay
        self._scales = _scales(expert, layer_decay)
        trained: set[str] = {name for name, _ in expert.named_modules()}
        if lora is not None:
            trained = _add_lora(expert, lora)
        elif last_layers is not None:
            trained = _train_only_last(expert, last_layers)
        self._trained = trained
        self.train(self.training)

    def train(self, mode: bool = True) -> TunedExpert:
        """Set the mode of what trains; the rest stays in eval mode."""
        super().train(mode)
        frozen = _frozen_parts(self.network)
        for name, module in self.network.named_modules():
            if _is_in(name, frozen):  # it looks after itself
                continue
            # cuDNN computes no gradient through a recurrent network in eval mode, even for what comes before it
            always = isinstance(module, nn.RNNBase) and not module.dropout
            module.training = mode and (always or name in getattr(self, "_trained", {name}))
        return self

    def rate_scales(self) -> dict[str, float]:
        """Return by parameter the share of the learning rate, where it is not 1."""
        plain = (name.replace(".base_layer", "").partition(".lora_")[0] for name, _ in self.network.named_parameters())
        scales = {}
        for (name, _), layer in zip(self.network.named_parameters(), plain, strict=True):
            scale = self._scales.get(layer) or self._scales.get(f"{layer}.weight")
            if scale is not None and scale != 1:
                scales[f"network.{name}"] = scale
        return scales

    def merged(self) -> Expert:
        """Return a copy of the expert into whose layers the changes of LoRA are added: it gives the same tokens."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        expert = copy.deepcopy(self.network).eval()
        for name, module in list(expert.named_modules()):
            if isinstance(module, BaseTunerLayer):
                module.merge()
                expert.set_submodule(name, module.get_base_layer())
        expert.requires_grad_(True)
        for name in _frozen_parts(expert):
            expert.get_submodule(name).requires_grad_(False)
        return expert


class ProjectedExpert(WrappingExpert):
    """Maps an expert's tokens by a network that is trained, such as to the width of another expert's tokens.

    Args:
        expert: Frozen, or trained too.
        width: D of the tokens.
        hidden: Width of a hidden layer; 0 makes the map linear.
        tokens: `mean` makes one token of all, `all` maps each.
    """

    def __init__(self, expert: Expert, *, width: int, hidden: int = 0, tokens: Literal["mean", "all"] = "all") -> None:
        if width < 1 or hidden < 0:
            raise ValueError(f"width must be at least 1, not {width}, and hidden at least 0, not {hidden}")
        super().__init__(expert, width=width)
        self.tokens = tokens
        before = [nn.Linear(expert.width, hidden), nn.GELU()] if hidden else []
        last = nn.Linear(hidden or expert.width, width)
        self.map = nn.Sequential(nn.LayerNorm(expert.width), *before, last)

    def encode(self, inputs: Any) -> ExpertTokens:
        """Map the expert's tokens."""
        tokens = self.network(inputs).to(next(self.map.parameters()).dtype)
        if self.tokens == "mean":
            tokens = ExpertTokens(tokens.mean().unsqueeze(1), tokens.mask_BN.any(1, keepdim=True))
        return ExpertTokens(self.map(tokens.tokens_BND).masked_fill(~tokens.mask_BN.unsqueeze(-1), 0), tokens.mask_BN)


def _frozen_parts(expert: Expert) -> list[str]:
    """Return the names of frozen experts within, through which no gradient flows."""
    return [name for name, module in expert.named_modules() if isinstance(module, Expert) and module.frozen]


def _is_in(name: str, parts: Sequence[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _layers(expert: Expert) -> list[list[str]]:
    """Return the names of the parameters that can be trained, layer by layer."""
    frozen = _frozen_parts(expert)
    layers = ([name for name in layer if not _is_in(name, frozen)] for layer in layers_of(expert))
    return [layer for layer in layers if layer]


def _scales(expert: Expert, decay: float) -> dict[str, float]:
    layers = _layers(expert)
    return {name: decay ** (len(layers) - 1 - place) for place, layer in enumerate(layers) for name in layer}


def _train_only_last(expert: Expert, count: int) -> set[str]:
    """Freeze all but the last layers; return the modules that train."""
    layers = _layers(expert)
    if not 0 < count <= len(layers):
        raise ValueError(f"last_layers: the expert has {len(layers)} layers, so 1 to {len(layers)}, not {count}")
    trained = {name for layer in layers[-count:] for name in layer}
    for name, parameter in expert.named_parameters():
        parameter.requires_grad_(name in trained)
    holders = {name.rpartition(".")[0] for name in trained}
    frozen = {name.rpartition(".")[0] for name, _ in expert.named_parameters() if name not in trained}
    # a module without parameters, such as dropout, trains where all that is beside and below it does
    return {name for name, _ in expert.named_modules() if name in holders or _beside(name, holders, frozen)}


def _beside(name: str, holders: set[str], frozen: set[str]) -> bool:
    while name:
        name = name.rpartition(".")[0]
        inside = f"{name}." if name else ""
        if any(one.startswith(inside) for one in frozen):
            return False
        if any(one.startswith(inside) for one in holders):
            return True
    return False


def _add_lora(expert: Expert, lora: Lora) -> set[str]:
    """Put low-rank changes into the expert's layers; return the modules that train."""
    if lora.rank < 1 or lora.alpha <= 0 or not 0 <= lora.dropout < 1:
        raise ValueError(
            f"lora: rank ({lora.rank}) must be at least 1, alpha ({lora.alpha}) above 0, dropout ({lora.dropout}) a "
            "share below 1"
        )
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_targets(expert, lora.target_modules),
    )
    expert.requires_grad_(False)
    inject_adapter_in_model(config, expert)
    return {name for name, _ in expert.named_modules() if ".lora_" in name}


def _targets(expert: Expert, wanted: list[str] | None) -> list[str]:
    """Return the full names of the layers to change."""
    closed = [name for name, module in expert.named_modules() if isinstance(module, CLOSED)] + _frozen_parts(expert)
    layers = {
        name: module
        for name, module in expert.named_modules()
        if isinstance(module, ADAPTED) and not _is_in(name, closed)
    }
    if wanted is None:
        linear = [name for name, module in layers.items() if isinstance(module, nn.Linear)]
        found = linear or [name for name, module in layers.items() if module.groups == 1]
        if not found:
            raise ValueError("lora: the expert has no layer that it could change")
        return found
    found = []
    for target in wanted:
        matching = [name for name in layers if name == target or name.endswith(f".{target}")]
        if not matching:
            there = ", ".join(sorted({name.rpartition(".")[2] for name in layers})) or "none"
            raise ValueError(f"lora.target_modules: no layer is called {target!r}; the expert has {there}")
        found += matching
    return list(dict.fromkeys(found))
