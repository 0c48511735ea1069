"""What is measured of each kind of rows, where the data tell kinds apart.

Legend: B rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torchmetrics import MetricCollection

from crossmodal.heads import Head
from datamodules.batch import PairedBatch


class KindFigures:
    """Each head's metrics over the rows of each kind since they were last asked for."""

    def __init__(self) -> None:
        self._metrics: dict[tuple[str, str], MetricCollection] = {}

    def measure(
        self,
        heads: Mapping[str, Head],
        outputs: Mapping[str, Tensor],
        batch: PairedBatch,
        prefixes: Mapping[str, str],
    ) -> None:
        """Take a batch into account.

        Args:
            heads: By task.
            outputs: By task, raw, (B, C).
            batch: Whose rows may be of kinds.
            prefixes: By task, of its figures' names; a kind's name is put after them.
        """
        for kind, of_kind_B in batch.kinds.items():
            for task in outputs.keys() & batch.targets.keys() if of_kind_B.any() else ():
                if (task, kind) not in self._metrics:
                    fresh = heads[task].metrics().clone(prefix=prefixes[task], postfix=f"/{kind}")
                    self._metrics[task, kind] = fresh.to(of_kind_B.device)
                activated_BC = heads[task].activate(outputs[task][of_kind_B])
                self._metrics[task, kind].update(activated_BC, batch.targets[task][of_kind_B])

    def figures(self) -> dict[str, float]:
        """Return each figure by its name, such as `accuracy/KIND`, and begin anew."""
        found = {name: float(value) for one in self._metrics.values() for name, value in one.compute().items()}
        self._metrics = {}
        return found
