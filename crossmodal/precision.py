"""Which precision a frozen expert encodes in."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from lightning_fabric.utilities import move_data_to_device
from torch.nn import functional as F
from torch.optim import Optimizer

from crossmodal.feature_files import PRECISION
from crossmodal.feature_store import FeatureStore
from crossmodal.whole_files import write_json
from experts.base import Expert, ExpertTokens

CLOSE = 1e-2  # the largest cosine distance between an input's tokens in bfloat16 and in float32


def choose_precision(expert: Expert, store: FeatureStore, trial: Callable[[], list[Any]], device: torch.device) -> None:
    """Settle `precision: auto` by a short trial on real inputs, and remember it beside the store.

    bfloat16 is chosen where the device has units for it and no input's tokens are further than 1e-2, as cosine
    distance, from float32's. Time is not measured: near a tie the same command would choose now one and now
    the other, and give other figures.

    Args:
        expert: Frozen.
        store: Where the decision is kept.
        trial: Reads a few batches of inputs.
        device: To encode on.
    """
    if expert.precision != "auto":
        expert.set_precision(expert.precision)
        return
    if not has_bfloat16(device):
        expert.set_precision("float32")
        return
    decision = store.root / PRECISION / f"{expert.fingerprint('auto')}.json"
    with suppress(FileNotFoundError, ValueError, KeyError):  # a damaged one is found anew
        expert.set_precision(json.loads(decision.read_text())["precision"])
        return
    batches = [move_data_to_device(inputs, device) for inputs in trial()]
    expert.to(device)
    expert.set_precision("float32")
    if not batches:  # none of the first inputs can be read: nothing is known
        return
    exact = copy.deepcopy(expert.network)
    with torch.inference_mode():
        expected = [expert(batch) for batch in batches]
    expert.set_precision("bfloat16")
    with torch.inference_mode():
        distance = max(map(_cosine_distance, expected, (expert(batch) for batch in batches)))
    if not distance <= CLOSE:  # NaN is not close
        expert.network = exact  # what went through bfloat16 has lost digits
        expert.set_precision("float32")
    write_json(decision, {"precision": expert.precision, "cosine_distance": distance})


def _cosine_distance(expected: ExpertTokens, actual: ExpertTokens) -> float:
    pair = [tokens.tokens_BND[tokens.mask_BN].float() for tokens in (expected, actual)]
    return float((1 - F.cosine_similarity(pair[0], pair[1], dim=-1)).max()) if len(pair[0]) else 0.0


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes in bfloat16, instead of imitating it."""
    if device.type == "cpu":
        units = _cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"}
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and bool(units)
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return {flag for line in file if line.startswith(("flags", "Features")) for flag in line.split()}
    except OSError:
        return set()


def refuse_to_cast(experts: Mapping[str, Expert], precision: str) -> None:
    """Raise ValueError if a trainer's precision would cast frozen experts."""
    if precision in ("16-true", "bf16-true", "64-true") and any(expert.frozen for expert in experts.values()):
        raise ValueError(
            f"trainer.precision {precision} would cast frozen experts; use bf16-mixed, and each expert's own "
            "`precision`"
        )


def refuse_to_clip(optimizer: Optimizer, precision: str) -> None:
    """Raise ValueError if gradients cannot be clipped in a trainer's precision."""
    if precision.endswith("mixed") and optimizer.defaults.get("fused"):
        raise ValueError(
            f"trainer.precision {precision} cannot clip the gradients of a fused optimizer; set "
            "model.optimizer.init_args.fused: false, or trainer.gradient_clip_val: null"
        )
