"""Replicas that are hostile, and replicas that disagree, on MNIST: what each method makes of them.

hostile: 2 of 10 nodes send ten times the opposite of what they have learned, fifty times as much, or noise of fifty
    times the size. Each rule of merging is tried against each, and without any.
segmented: 5 of 10 nodes have other names for the digits. One model for all, segments that are found, and each group by
    itself.

    CROSSMODAL_DATA=/path/to/data python scripts/compare_replicas.py [--experiments hostile segmented] [--seeds 3]
        [--rounds 15] [--alpha 1.0] [--kept runs/compare_replicas.jsonl] [--processes 2] [--quick]

Images of each digit are dealt out in shares from a Dirichlet distribution (`--alpha`). What is told is the accuracy on
the 5,000 test images, those of each group by its own names. What is measured is appended to a file, and what is in it
is not measured again, so that a killed script goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commands import Kept, markdown
from numpy.typing import NDArray
from processes import in_processes
from torch import Tensor
from torch.nn import functional as F

from crossmodal.replicas.aggregation import State
from crossmodal.replicas.attacks import Attack, HostileEngine
from crossmodal.replicas.compression import num_bytes
from crossmodal.replicas.digits import DigitLearner
from crossmodal.replicas.engine import Engine, Job, Update
from crossmodal.replicas.federated import Federated
from crossmodal.replicas.merging import GeometricMedian, Krum, Mean, Median, Merge, TrimmedMean
from crossmodal.replicas.method import Method
from crossmodal.replicas.partition import dirichlet
from crossmodal.replicas.segmented import Segmented
from datamodules.mnist import TRAINED, read_mnist

NODES, HOSTILE = 10, [2, 7]
APART = 2.0  # nats: after two rounds nodes of a group are up to 2 apart, since each has few digits; groups 3 and more
RULES: dict[str, Merge] = {
    "mean (FedAvg)": Mean(),
    "median": Median(),
    "trimmed mean": TrimmedMean(0.2),
    "multi-Krum": Krum(faulty=2),
    "geometric median": GeometricMedian(),
}
ATTACKS = {
    "none": None,
    "10 times the opposite": Attack(HOSTILE, "flipped", scale=10.0),
    "50 times as much": Attack(HOSTILE, "scaled", scale=50.0),
    "noise, 50 times the size": Attack(HOSTILE, "random", scale=50.0),
}


class DigitEngine:
    """Nodes that train the digit network, each with the names that its group has for digits.

    Args:
        learners: Of each group, over the same images.
        groups: Of each node.
        images: Of each node, and what they are called there, as `score` takes them.
    """

    def __init__(
        self, learners: Sequence[DigitLearner], groups: Sequence[int], rows: Sequence[tuple[Tensor, Tensor]], seed: int
    ) -> None:
        self.nodes = len(groups)
        self._learners, self._groups, self._rows, self._seed = learners, groups, rows, seed

    def train(self, jobs: Sequence[Job]) -> list[Update]:
        """Train in turn."""
        found = []
        for job in jobs:
            seed = int(np.random.SeedSequence([self._seed, job.round, job.node]).generate_state(1)[0])
            state = self._learners[self._groups[job.node]].train(job.state, job.node, seed)
            found.append(Update(job.node, state, len(self._rows[job.node][1]), 0.0, num_bytes(dict(state))))
        return found

    def score(self, states: Sequence[tuple[int, State]]) -> list[float]:
        """Return the mean loss over a node's images."""
        found = []
        for node, state in states:
            images_R, labels_R = self._rows[node]
            with torch.inference_mode():
                logits = torch.func.functional_call(self._learners[0].network, dict(state), (images_R,))
            found.append(float(F.cross_entropy(logits, labels_R)))
        return found

    def train_split(self, jobs: Sequence[Job], *, merge_every: int | None) -> tuple[list[Update], dict[str, Tensor]]:
        """Not here."""
        raise NotImplementedError

    def measure(self, state: State) -> float:
        """Return the accuracy by the first group's names."""
        return self._learners[0].accuracy(state)

    def state_dict(self) -> dict[str, Any]:
        """Nodes keep nothing."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nodes keep nothing."""


def engine(data: str | None, seed: int, alpha: float, *, other_names: bool) -> tuple[DigitEngine, list[DigitLearner]]:
    """Return nodes, and the learners of their groups."""
    images, labels = read_mnist(data)
    nodes = dirichlet(labels[:TRAINED], NODES, alpha=alpha, least=20, seed=seed)
    names: list[NDArray[np.int64]] = [np.arange(10)]
    if other_names:
        names.append((np.arange(10) + 1) % 10)  # no digit keeps its name
    learners = [
        DigitLearner(images[:TRAINED], of[labels[:TRAINED]], nodes, (images[TRAINED:], of[labels[TRAINED:]]))
        for of in names
    ]
    groups = [node % len(names) for node in range(NODES)]
    rows = [learners[group].rows(node) for node, group in enumerate(groups)]
    return DigitEngine(learners, groups, rows, seed), learners


def trained(method: Method, there: Engine, began: State, rounds: int, seed: int) -> Method:
    """Return a method after so many rounds."""
    method.begin(began, there.nodes, seed=seed)
    for number in range(rounds):
        method.round(there, number)
    return method


def hostile(data: str | None, seed: int, rounds: int, alpha: float, rule: str, attack: str) -> dict[str, float]:
    """Return the accuracy of a rule under an attack."""
    here, (learner,) = engine(data, seed, alpha, other_names=False)
    of = ATTACKS[attack]
    there = here if of is None else HostileEngine(here, of, seed=seed)
    done = trained(Federated(RULES[rule]), there, learner.begin(seed), rounds, seed)
    return {f"{rule} / {attack}": learner.accuracy(done.state)}


class _Group:
    """Some of the nodes of an engine, as if there were no others."""

    def __init__(self, whole: DigitEngine, members: list[int]) -> None:
        self.nodes = len(members)
        self._whole, self._members = whole, members

    def train(self, jobs: Sequence[Job]) -> list[Update]:
        of_whole = [Job(self._members[job.node], job.state, job.round) for job in jobs]
        return self._whole.train(of_whole)


def segmented(data: str | None, seed: int, rounds: int, alpha: float, apart: float) -> dict[str, float]:
    """Return the mean accuracy of nodes by their own names: one model, segments, and each group by itself."""
    here, learners = engine(data, seed, alpha, other_names=True)
    began = learners[0].begin(seed)
    groups = [node % 2 for node in range(NODES)]
    one = trained(Federated(), here, began, rounds, seed)
    parted = trained(Segmented(begins=2, every=3, apart=apart), here, began, rounds, seed)
    alone = [
        trained(
            Federated(), _Group(here, [node for node in range(NODES) if groups[node] == group]), began, rounds, seed
        )  # type: ignore[arg-type]
        for group in (0, 1)
    ]
    segments = parted.state_dict()["segments"]
    pairs = [(i, j) for i in range(NODES) for j in range(i)]
    same = [(segments[i] == segments[j]) == (groups[i] == groups[j]) for i, j in pairs]
    return {
        "one model": statistics.fmean(learners[group].accuracy(one.state) for group in groups),
        "segments": statistics.fmean(
            learners[group].accuracy(parted.state_of(node)) for node, group in enumerate(groups)
        ),
        "each group by itself": statistics.fmean(learners[group].accuracy(alone[group].state) for group in groups),
        "pairs of nodes that are rightly together or apart": statistics.fmean(same),
        "segments that were found": float(len(set(segments))),
    }


def measured(of: dict[str, Any], data: str | None) -> dict[str, Any]:
    """Return what is to be measured, and the figures, in a process of its own."""
    settings = {key: value for key, value in of.items() if key != "experiment"}
    return {**of, "found": {"hostile": hostile, "segmented": segmented}[of["experiment"]](data, **settings)}


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what: dict[str, list[dict[str, Any]]] = {
        "hostile": [{"rule": rule, "attack": attack} for rule in RULES for attack in ATTACKS],
        "segmented": [{"apart": APART}],
    }
    parser.add_argument("--experiments", nargs="+", choices=[*what], default=[*what])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--data", help="the folder that has mnist/; by default what CROSSMODAL_DATA says")
    parser.add_argument("--kept", type=Path, default=Path("runs/compare_replicas.jsonl"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--quick", action="store_true", help="one seed, 3 rounds")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.rounds = 1, 3
    try:
        read_mnist(options.data)
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    settings = {"rounds": options.rounds, "alpha": options.alpha}
    wanted = [
        {"experiment": name, "seed": seed, **settings, **one}
        for name in options.experiments
        for seed in range(options.seeds)
        for one in what[name]
    ]
    kept = Kept(options.kept)

    def keep(line: dict[str, Any]) -> None:
        found = ", ".join(f"{key} {value:.3f}" for key, value in kept.add(line)["found"].items())
        print(f"{line['experiment']}, seed {line['seed']}: {found}", flush=True)

    lacking = [(of, options.data) for of in wanted if kept.get(of) is None]
    in_processes(measured, lacking, jobs=options.processes, begin=partial(torch.set_num_threads, 1), keep=keep)
    there = [line for of in wanted if (line := kept.get(of)) is not None]
    summary([(line["experiment"], line["found"]) for line in there])


def summary(measured_: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    """Print a table of each experiment, over seeds, and one line of JSON."""
    told: dict[str, dict[str, list[float]]] = {}
    for name, found in measured_:
        for key, value in found.items():
            told.setdefault(name, {}).setdefault(key, []).append(value)
    for name, figures in told.items():
        rows = [
            [key, f"{statistics.fmean(of):.4f}", f"{statistics.stdev(of) if len(of) > 1 else 0.0:.4f}"]
            for key, of in figures.items()
        ]
        print(f"\n{markdown([name, 'mean', 'deviation'], rows)}\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
