"""The LightningModule that is trained by replicas: an epoch of the trainer is a round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch.optim import SGD

from crossmodal.module import CrossModalModule
from crossmodal.observers.logging import log
from crossmodal.optimization import WarmupCosine
from crossmodal.replicas.agreement import refuse_to_send
from crossmodal.replicas.attacks import HostileEngine
from crossmodal.replicas.dealing import NODE, Own, labels, spread, without
from crossmodal.replicas.engine import Engine, Told
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.method import MOST_NODES_SHOWN
from crossmodal.replicas.node import LocalTraining, load_sent, sent_state
from crossmodal.replicas.partition import Rows
from crossmodal.replicas.plan import Replicas
from crossmodal.replicas.unlabelled import Unlabelled
from datamodules.batch import PairedBatch
from datamodules.loading import ResumableLoader
from datamodules.paired import PairedDataModule, Split


class Remote(Protocol):
    """Makes the engine of nodes on other machines."""

    def __call__(
        self, module: ReplicatedModule, plan: Replicas, here: LocalEngine, tell: Callable[[int, int], None]
    ) -> Engine:
        """Make it.

        Args:
            module: That is trained, on its device.
            plan: How.
            here: An engine without nodes, which measures at the server.
            tell: Called with the number of nodes that have trained in a round, and of all.
        """


class ReplicatedModule(CrossModalModule):
    """What `CrossModalModule` is, trained otherwise: its state is that of the method after the round.

    It takes the same arguments; `replicate` says how it is trained.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.automatic_optimization = False
        self.plan: Replicas | None = None
        self.told: list[Told] = []  # of each round
        self.labels_R: NDArray[np.int64] = np.empty(0, np.int64)  # the rows' classes
        self.names: list[str] = []  # of its classes
        self._groups_R: NDArray[np.int64] = np.empty(0, np.int64)  # what the partition goes by
        self.dealt: Rows = []
        self._clip_norm: float | None = None
        self._seed = 0
        self._engine: Engine | None = None
        self._loaded: dict[str, Any] | None = None
        self._tell: Callable[[int, int], None] = lambda done, of: None
        self._remote: Remote | None = None

    def replicate(
        self,
        plan: Replicas,
        *,
        clip_norm: float | None,
        seed: int,
        tell: Callable[[int, int], None] = lambda done, of: None,
        remote: Remote | None = None,
    ) -> None:
        """Say how it is trained.

        Args:
            plan: That is followed.
            clip_norm: Of gradients.
            seed: Of what is drawn.
            tell: Called while a round goes on, with the number of nodes that have trained, and of all.
            remote: Makes the engine of nodes on other machines; None for all in this process.
        """
        self.plan, self._clip_norm, self._seed, self._tell, self._remote = plan, clip_norm, seed, tell, remote

    def setup(self, stage: str) -> None:
        """Deal the training split out to nodes, unless each has data of its own."""
        data = getattr(self.trainer, "datamodule", None)
        is_own = self._remote is not None and self.plan is not None and isinstance(self.plan.partition, Own)
        if is_own and isinstance(data, PairedDataModule):
            data.do_without("train")
        super().setup(stage)
        if stage != "fit" or self.plan is None:
            return
        if not isinstance(data, PairedDataModule):
            raise ValueError("replicas: need a data module with a train split")
        if self._remote is not None:
            refuse_to_send(self, self.plan)
        if not is_own:
            self._deal(data)
        data.train_in_rounds()

    def _deal(self, data: PairedDataModule) -> None:
        assert self.plan is not None
        if (rows := data.rows("train")) is None:
            raise ValueError("replicas: need a data module with a train split")
        task, self.labels_R = labels(rows, self.plan.by)
        self.names = self.outputs[task] if not rows.targets[task].is_floating_point() else []
        self._groups_R = self.plan.partition.groups(rows, self.labels_R)
        self.dealt = self.plan.partition.deal(self._groups_R, self.plan.nodes, seed=self._seed)
        if self.plan.nodes <= MOST_NODES_SHOWN or self.plan.method.is_personal:
            self._give_to_nodes(data, "val")
        if self.plan.method.is_personal:
            self._give_to_nodes(data, "test")

    def _give_to_nodes(self, data: PairedDataModule, split: Split) -> None:
        """Let rows that nobody trains with belong to nodes, too, by the classes that nodes have."""
        assert self.plan is not None
        if (rows := data.rows(split)) is None:
            return
        groups_V = self.plan.partition.groups(rows, labels(rows, self.plan.by)[1])
        node_V = spread(self._groups_R, self.dealt, groups_V, seed=self._seed)
        for node in range(self.plan.nodes):
            data.mark(split, f"{NODE}{node}", node_V == node)

    def on_train_start(self) -> None:
        """Begin, or go on where a checkpoint has ended."""
        assert self.plan is not None
        self._engine = self._make_engine()
        self.plan.method.prepare(self, rounds=int(self.trainer.max_epochs or 1))
        began = {name: value.cpu() for name, value in sent_state(self).items()}
        self.plan.method.begin(began, self.plan.nodes, seed=self._seed)
        if self._loaded is not None:
            self.plan.method.load_state_dict(self._loaded["method"])
            self._engine.load_state_dict(self._loaded["engine"])
            self.told = [Told({}, **one) for one in self._loaded["told"]]
            self._loaded = None

    def how(self) -> LocalTraining:
        """Return how nodes train."""
        assert self.plan is not None
        return LocalTraining(
            epochs=self.plan.epochs,
            rounds=self.trainer.max_epochs if self.plan.decay else None,
            clip_norm=self._clip_norm,
            steps=1 if self.trainer.fast_dev_run else None,  # type: ignore[attr-defined]
            seed=self._seed,
            context=self.trainer.precision_plugin.train_step_context,
            secret=f"{self._seed}",  # in one process nothing is hidden from anybody
        )

    def _make_engine(self) -> Engine:
        assert self.plan is not None
        data: PairedDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        val = data.dataloader("val")
        if self._remote is not None:
            return self._remote(self, self.plan, LocalEngine(self, [], self.how(), val=val), self._tell)
        if self.plan.together > 1 and data.quarantine is not None:
            raise ValueError(
                "replicas.together: where rows are left out (data.init_args.on_error: quarantine) batches are of "
                "unlike sizes, and nodes train one after the other"
            )
        rows = data.unlabelled() if self.plan.method.reads_unlabelled else None
        engine = LocalEngine(
            *(self, self._loaders(), self.how()),
            compressor=self.plan.compress,
            unlabelled=None if rows is None else Unlabelled(data, rows),
            tell=self._tell,
            val=val,
            together=self.plan.together,
        )
        if self.plan.attack is None:
            return engine
        return HostileEngine(engine, self.plan.attack, seed=self._seed)

    def _loaders(self) -> list[ResumableLoader]:
        assert self.plan is not None
        data: PairedDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = data.rows("train")
        assert rows is not None
        own = [rows.select(numbers) for numbers in self.dealt]
        for node, modalities in self.plan.lacks.items():
            own[node] = without(own[node], modalities)
        return [data.loader(of, "train", part=node) for node, of in enumerate(own)]

    def training_step(self, batch: range, batch_idx: int) -> None:  # type: ignore[override]
        """Do a round."""
        assert self.plan is not None
        assert self._engine is not None
        optimizer: Any = self.optimizers()
        if self.plan.decay:  # what it says is logged
            rate = WarmupCosine(int(self.trainer.max_epochs or 1), warmup=self.warmup)(self.current_epoch)
            for group, base in zip(optimizer.param_groups, self._base_rates, strict=True):
                group["lr"] = base * rate
        told = self.plan.method.round(self._engine, self.current_epoch)
        self.told.append(told)
        load_sent(self, self.plan.method.state)
        self.log("train/loss", told.figures["train/loss"], prog_bar=True, batch_size=1)
        log(self.trainer, {name: value for name, value in told.figures.items() if name != "train/loss"})
        optimizer.step()  # nothing has a gradient here: it counts the round

    def _log_figures(self, stage: str) -> None:
        """Log what was measured; of each node to the loggers alone, since a line of all of them would be a wall."""
        figures = {f"{stage}/{name}": value for name, value in self._figures.figures().items()}
        of_nodes = {name: value for name, value in figures.items() if name.rpartition("/")[2].startswith(NODE)}
        log(self.trainer, of_nodes)
        self.log_dict({name: value for name, value in figures.items() if name not in of_nodes})

    def _evaluate(self, batch: PairedBatch, stage: str) -> dict[str, Any] | None:
        """Measure rows; where nodes use states of their own, each row by that of its node."""
        method = None if self.plan is None else self.plan.method
        if method is None or not method.is_personal or f"{NODE}0" not in batch.kinds:
            return super()._evaluate(batch, stage)
        last = None
        for node in range(self.plan.nodes if self.plan else 0):
            of_node_B = batch.kinds[f"{NODE}{node}"]
            if of_node_B.any():
                load_sent(self, method.state_of(node))
                last = super()._evaluate(batch.take(of_node_B.nonzero().squeeze(1)), stage)
        load_sent(self, method.state)
        return last

    def on_after_backward(self) -> None:
        """Do nothing: nodes do."""

    def configure_optimizers(self) -> Any:
        """Return one that counts rounds; what nodes train with is made anew at each."""
        made = self.make_optimizer()
        self._base_rates = [group["lr"] for group in made.param_groups]
        groups = [{"params": group["params"], "lr": group["lr"]} for group in made.param_groups]
        return SGD(groups)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what method and nodes keep."""
        super().on_save_checkpoint(checkpoint)
        if self.plan is not None and self._engine is not None:
            checkpoint["replicas"] = {
                "method": self.plan.method.state_dict(),
                "engine": self._engine.state_dict(),
                "told": [{"path": list(one.path), "segments": list(one.segments)} for one in self.told],
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what method and nodes kept, too."""
        super().on_load_checkpoint(checkpoint)
        self._loaded = checkpoint.get("replicas")
        # training has ended, and its best checkpoint is measured; before it begins there is nothing that could go on
        if self._loaded is not None and self.plan is not None and self._engine is not None:
            self.plan.method.load_state_dict(self._loaded["method"])
