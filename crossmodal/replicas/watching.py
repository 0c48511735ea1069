"""Pictures of how replicas train: which classes lie at which node, who talks to whom, and the way of the model."""

from __future__ import annotations

from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from crossmodal.media import MediaLog
from crossmodal.observers.logging import add_media, is_look
from crossmodal.replicas.module import ReplicatedModule


class WatchReplicas(Callback):
    """Adds them to a run's media.

    Args:
        media: Where pictures go.
    """

    def __init__(self, media: MediaLog) -> None:
        self._media = media

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the partition, and who talks to whom."""
        assert isinstance(pl_module, ReplicatedModule)
        if trainer.current_epoch > 0:
            return
        if pl_module.dealt:
            self._show_partition(trainer, pl_module)
        weights_KK = getattr(pl_module.plan and pl_module.plan.method, "weights_KK", None)
        if weights_KK is not None:
            nodes = _nodes(pl_module)
            self._show(trainer, "topology", nodes, nodes, weights_KK.tolist(), "believes")

    def _show_partition(self, trainer: Trainer, pl_module: ReplicatedModule) -> None:
        classes = pl_module.names or [f"tenth {number + 1}" for number in range(int(pl_module.labels_R.max()) + 1)]
        counts = [np.bincount(pl_module.labels_R[own], minlength=len(classes)).tolist() for own in pl_module.dealt]
        self._show(trainer, "partition", _nodes(pl_module), classes, counts, "rows of")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the way of the model, now and then."""
        if is_look(trainer.current_epoch + 1):
            self._show_rounds(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the whole way."""
        self._show_rounds(trainer, pl_module)

    def _show_rounds(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show which nodes have trained in which round, where it is not all; and in which segment they were."""
        assert isinstance(pl_module, ReplicatedModule)
        told, nodes = pl_module.told, _nodes(pl_module)
        rounds = [str(number + 1) for number in range(len(told))]
        trained_KT = [[int(node in one.path) for one in told] for node in range(len(nodes))]
        if not all(map(all, trained_KT)):
            self._show(trainer, "path", nodes, rounds, trained_KT, "trained in round")
        if told and told[-1].segments:
            segments_KT = [[one.segments[node] for one in told] for node in range(len(nodes))]
            self._show(trainer, "segments", nodes, rounds, segments_KT, "segment in round")

    def _show(
        self, trainer: Trainer, name: str, nodes: list[str], columns: list[str], values: list[list[Any]], title: str
    ) -> None:
        add_media(
            *(trainer, self._media, f"replicas/{name}", "matrix"),
            rows=nodes,
            columns=columns,
            values=values,
            row_title="node",
            column_title=title,
        )


def _nodes(module: ReplicatedModule) -> list[str]:
    assert module.plan is not None
    return [f"node {node}" for node in range(module.plan.nodes)]
