"""A node on a machine of its own: it builds the model that its own YAML says, and trains it when it is asked to.

It is a process that stays, so that a job does not wait for torch to be imported and data to be read. Who asks, through
a socket in the node's folder, is `crossmodal.replicas.flower_client`.

    python -m crossmodal.replicas.site --node 0 --folder FOLDER --owner PID -- --config FILE [--KEY VALUE ...]
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from crossmodal.console import tame_chatter
from crossmodal.errors import UsageError, refuse
from crossmodal.experiment_cli import MISTAKES, DataAndModel
from crossmodal.module import CrossModalModule
from crossmodal.preflight import check
from crossmodal.replicas.agreement import agreed, refuse_to_send
from crossmodal.replicas.dealing import Own, labels, without
from crossmodal.replicas.engine import Job, Update
from crossmodal.replicas.left import Left
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.masking import SECRET
from crossmodal.replicas.module import ReplicatedModule
from crossmodal.replicas.node import LocalTraining, sent_state, train_at
from crossmodal.replicas.owning import is_alive, socket_of
from crossmodal.replicas.wire import (
    Parcel,
    job_of,
    pack,
    parcel_of_update,
    refused,
    state_of,
    unpack,
)
from datamodules.paired import PairedDataModule

LEAST_SECRET = 32  # characters: what is shorter can be guessed
LOOK_EVERY = 1.0  # seconds, after the process that this one is for


class SiteModule(ReplicatedModule):
    """What trains at a node on a machine of its own; `serve` is called when all is ready, and ends the training."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.node = 0
        self.left: Left | None = None
        self.serve: Callable[[SiteModule], None] = lambda module: None

    def setup(self, stage: str) -> None:
        """Keep the node's own rows, and read no others."""
        assert self.plan is not None
        data: PairedDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        if not 0 <= self.node < self.plan.nodes:
            raise ValueError(f"there is no node {self.node}; they are 0 to {self.plan.nodes - 1}")
        data.do_without("val", "test", "predict")
        rows = data.rows("train")
        if rows is None:
            raise ValueError(f"{type(data).__name__} has no train split, so that there is nothing to train with")
        if not isinstance(self.plan.partition, Own):
            groups_R = self.plan.partition.groups(rows, labels(rows, self.plan.by)[1])
            dealt = self.plan.partition.deal(groups_R, self.plan.nodes, seed=self._seed)
            rows = rows.select(dealt[self.node])
        data.keep("train", without(rows, self.plan.lacks.get(self.node, [])))
        refuse_to_send(self, self.plan)
        CrossModalModule.setup(self, stage)
        data.train_in_rounds()

    def how(self) -> LocalTraining:
        """Return how it trains, with the secret that the server does not know."""
        return replace(super().how(), secret=os.environ.get(SECRET, ""))

    def on_train_start(self) -> None:
        """Answer, until nobody asks any more."""
        data: PairedDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = data.rows("train")
        assert rows is not None
        self._loader = data.loader(rows, "train", part=self.node)
        self.serve(self)
        self.trainer.should_stop = True

    def training_step(self, batch: range, batch_idx: int) -> None:  # type: ignore[override]
        """Do nothing: all was done."""

    def answer(self, asked: Parcel) -> Parcel:
        """Return the answer to what was asked.

        Raises:
            ValueError: It cannot be answered.
        """
        assert self.plan is not None
        fits = sent_state(self)
        match asked.kind:
            case "hello":
                return Parcel("here", {"node": self.node, "agreed": agreed(self, self.plan, self.how())})
            case "train":
                return parcel_of_update(self._train(job_of(asked, fits), str(asked.settings.get("run"))))
            case "score":
                [loss] = LocalEngine(self, [self._loader], self.how()).score([(0, state_of(asked, fits))])
                return Parcel("scored", {"loss": loss})
        raise ValueError(f"a node answers no {asked.kind!r}")

    def _train(self, job: Job, run: str) -> Update:
        assert self.plan is not None
        assert self.left is not None
        if job.node != self.node:
            raise ValueError(f"this is node {self.node}, not {job.node}")
        if self.plan.method.hides and job.hiding is None:
            raise ValueError(f"node {self.node} hides what it sends (replicas.method.secure), and was asked not to")
        if job.hiding is not None and len(self.how().secret) < LEAST_SECRET:
            raise ValueError(
                f"node {self.node} is to hide what it sends: set {SECRET} to the same {LEAST_SECRET} characters or "
                "more at each site, such as python -c 'import secrets; print(secrets.token_hex(32))' prints"
            )
        memory = self.left.before(run, job.round)
        update = train_at(self, self._loader, job, self.how(), memory, self.plan.compress)
        self.left.keep(run, job.round, memory)
        return update


class Site(DataAndModel):
    """Data and model as the server builds them, and a trainer that has nothing but the device and the precision."""

    model_type = SiteModule

    def before_instantiate_classes(self) -> None:
        """Keep what the trainer is told."""
        self.told = self._get(self.config, "trainer").clone()
        super().before_instantiate_classes()

    def instantiate_classes(self) -> None:
        """Build, and say how it is trained."""
        super().instantiate_classes()
        plan = self._get(self.config_init, "replicas")
        if plan is None:
            raise ValueError("replicas: nothing says how replicas train")
        seed = int(self.settings.seed_everything or 0)
        self.model.replicate(plan, clip_norm=self.told.gradient_clip_val, seed=seed)

    def run(self, node: int, left: Left, serve: Callable[[SiteModule], None]) -> None:
        """Make all ready, and serve.

        Args:
            node: Its number.
            left: What it keeps between rounds.
            serve: Called when all is ready; ends when nobody asks any more.
        """
        self.model.node, self.model.left, self.model.serve = node, left, serve
        trainer = Trainer(
            accelerator=self.told.accelerator,
            devices=self.told.devices,
            precision=self.told.precision,
            max_epochs=self.told.max_epochs,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(self.model, datamodule=self.datamodule)


def answer_all(module: SiteModule, listener: Listener) -> None:
    """Answer one after the other, until the process ends."""
    while True:
        with listener.accept() as connection:
            _answer(module, connection)


def _answer(module: SiteModule, connection: Connection) -> None:
    try:
        asked = connection.recv_bytes()
    except (EOFError, OSError):  # who wanted to ask has ended
        return
    try:
        answer = module.answer(unpack(asked))
    except MISTAKES as error:
        answer = refused(error)
    try:
        connection.send_bytes(pack(answer))
    except OSError:
        print(f"node {module.node}: who asked is gone", flush=True)


def _end_with(owner: int) -> None:
    """End this process when another has."""

    def look() -> None:
        while is_alive(owner):
            time.sleep(LOOK_EVERY)
        os._exit(0)

    threading.Thread(target=look, daemon=True).start()


def main() -> int:
    """Be a node; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", type=int, required=True, help="its number")
    parser.add_argument("--folder", type=Path, required=True, help="of the node")
    parser.add_argument("--owner", type=int, required=True, help="the process with which it ends")
    parser.add_argument("arguments", nargs="*", help="of `crossmodal fit`")
    options = parser.parse_args()
    _end_with(options.owner)
    tame_chatter()
    sys.path.append(str(Path.cwd()))
    path = socket_of(options.folder, options.owner)
    try:
        check("fit", options.arguments)
        site = Site(options.arguments)

        def serve(module: SiteModule) -> None:
            path.unlink(missing_ok=True)
            with Listener(str(path), "AF_UNIX") as listener:
                print(f"node {options.node}: ready", flush=True)
                answer_all(module, listener)

        site.run(options.node, Left(options.folder / "left"), serve)
    except (UsageError, *MISTAKES) as error:
        return refuse(error, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
