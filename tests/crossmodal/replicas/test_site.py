"""A node's process, as what asks it sees it: without Flower."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossmodal.replicas.engine import Job
from crossmodal.replicas.left import Left
from crossmodal.replicas.node import sent_state
from crossmodal.replicas.owning import is_alive
from crossmodal.replicas.site import Site, SiteModule
from crossmodal.replicas.wire import Parcel, pack, parcel_of_job, parcel_of_score, unpack, update_of
from tests.conftest import ROOT

SMALL = (
    *("--config", str(ROOT / "configs" / "replicas" / "fedavg_dots.yaml"), "--data.init_args.num_pictures", "48"),
    *("--replicas.nodes", "3", "--trainer.max_epochs", "5", "--trainer.accelerator", "cpu"),
)
COMPRESS = ("--replicas.compress", "crossmodal.replicas.compression.EightBits")
RUN = "0123456789abcdef"


def asked(folder: Path, serve: Callable[[SiteModule], None], *further: str, node: int = 1) -> Site:
    """Begin a node, and let somebody ask it."""
    site = Site([*SMALL, "--model.feature_store", str(folder / "features"), *further])
    site.run(node, Left(folder / "left"), serve)
    return site


def crossed(parcel: Parcel) -> Parcel:
    return unpack(pack(Parcel(parcel.kind, {**parcel.settings, "run": RUN}, parcel.tensors)))


def test_a_node_trains_its_own_rows_and_does_a_round_again_as_it_did_it(tmp_path: Path) -> None:
    states: list[dict[str, torch.Tensor]] = []

    def serve(module: SiteModule) -> None:
        hello = crossed(module.answer(crossed(Parcel("hello"))))
        assert hello.settings["node"] == 1
        assert hello.settings["agreed"]["replicas.epochs"] == 2
        began = sent_state(module)
        for round_ in (0, 1, 1):
            job = Job(1, began, round_)
            update = update_of(crossed(module.answer(crossed(parcel_of_job(job)))), job)
            assert update.num_bytes < 60_000
            states.append(dict(update.state))
        loss = module.answer(crossed(parcel_of_score(began))).settings["loss"]
        assert 0 < loss < 10

    site = asked(tmp_path, serve, *COMPRESS)
    rows = site.datamodule.rows("train")
    assert 0 < len(rows) < 96
    assert site.datamodule.rows("val") is None
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[1])
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_node_with_data_of_its_own_trains_all_of_it(tmp_path: Path) -> None:
    site = asked(tmp_path, lambda module: None, "--replicas.partition", "crossmodal.replicas.dealing.Own")
    assert len(site.datamodule.rows("train")) == 96


def test_what_a_node_cannot_do_is_said(tmp_path: Path) -> None:
    def serve(module: SiteModule) -> None:
        job = parcel_of_job(Job(1, sent_state(module), 0))
        for parcel, message in (
            (Parcel("predict"), "answers no 'predict'"),
            (Parcel("train", {**job.settings, "node": 2}, job.tensors), "this is node 1, not 2"),
            (Parcel("train", job.settings, {"other": torch.zeros(1)}), "the model has no 'other'"),
            (Parcel("train", {**job.settings, "round": None}, job.tensors), "no number 'round'"),
        ):
            with pytest.raises(ValueError, match=message):
                module.answer(crossed(parcel))

    asked(tmp_path, serve)


@pytest.mark.parametrize(
    ("further", "node", "message"),
    [
        ((), 3, "there is no node 3; they are 0 to 2"),
        (("--replicas", "null"), 0, "nothing says how replicas train"),
        (("--replicas.method", "crossmodal.replicas.split.SplitLearning"), 0, r"replicas\.method: SplitLearning"),
        (("--replicas.method", "crossmodal.replicas.fedka.FedKA"), 0, r"replicas\.method: FedKA"),
        (("--replicas.attack.nodes", "[0]"), 0, r"replicas\.attack"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, further: tuple[str, ...], node: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        asked(tmp_path, lambda module: None, *further, node=node)


def test_a_process_that_has_ended_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and is_alive(process.pid):
        time.sleep(0.01)
    assert not is_alive(process.pid)  # though nobody has asked how it ended
    process.wait()
    assert not is_alive(process.pid)
