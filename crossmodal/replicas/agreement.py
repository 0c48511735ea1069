"""What a server and nodes on other machines must have found alike in their configurations."""

from __future__ import annotations

from typing import Any

from crossmodal.module import CrossModalModule
from crossmodal.replicas.compression import Compressor
from crossmodal.replicas.node import LocalTraining, sent_state
from crossmodal.replicas.plan import Replicas
from experts.digests import digest_of


def agreed(module: CrossModalModule, plan: Replicas, how: LocalTraining) -> dict[str, Any]:
    """Return it, by key: what a node's part of the training depends on, but for its rows.

    Args:
        module: That is trained.
        plan: How.
        how: Nodes train.
    """
    entries = {name: [str(value.dtype), *value.shape] for name, value in sent_state(module).items()}
    frozen = {f"experts.{name}": one.identity() for name, one in module.experts.items() if one.frozen}
    return {
        "replicas.nodes": plan.nodes,
        "replicas.epochs": plan.epochs,
        "replicas.decay": plan.decay,
        "replicas.compress": _named(plan.compress),
        "trainer.max_epochs": how.rounds,
        "trainer.gradient_clip_val": how.clip_norm,
        "trainer.fast_dev_run": how.steps is not None,  # which sites do not
        "seed_everything": how.seed,
        "model": digest_of(entries),
        **frozen,
    }


def refuse_to_send(module: CrossModalModule, plan: Replicas) -> None:
    """Refuse what nodes on other machines cannot do.

    Raises:
        ValueError: The message names the key.
    """
    method = type(plan.method).__name__
    if plan.method.is_split:
        raise ValueError(
            f"replicas.method: {method} has nodes and server train one model, batch by batch; with nodes on other "
            "machines that is not done"
        )
    if plan.method.reads_unlabelled:
        raise ValueError(
            f"replicas.method: {method} has nodes read rows without targets; with nodes on other machines that is not "
            "done"
        )
    if plan.attack is not None:
        raise ValueError(
            "replicas.attack: is to try methods in one process; nodes on other machines are not made hostile"
        )
    for name, expert in module.experts.items():
        if expert.needs_statistics:
            raise ValueError(
                f"experts.{name}: {type(expert).__name__} learns statistics of the whole training split, which nodes "
                "on other machines do not have; save it with `crossmodal expert fit`"
            )


def _named(compressor: Compressor | None) -> str | None:
    if compressor is None:
        return None
    settings = ", ".join(f"{name}={value}" for name, value in sorted(vars(compressor).items()))
    return f"{type(compressor).__name__}({settings})"
