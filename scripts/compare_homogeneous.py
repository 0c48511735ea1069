"""Homogeneous Learning on MNIST: who should train next, by chance, in turn, learned, and with all that will be known.

Ten nodes, of which node n has 400 images of digit n and 100 of others, hand one network on until it tells 80 % of the
held-out digits. Each policy plays the same episodes, by seed and number: the network, its first node and all training
are drawn from these. `stay_N` stays N rounds at a node, then goes to the nearest of those that trained least often.
What learned policies came to is that of the last episodes, in which they explore little.

    CROSSMODAL_DATA=/path/to/data python scripts/compare_homogeneous.py [--seeds 5] [--episodes 120] [--last 20]
        [--policies random round_robin stay_1 stay_2 stay_3 paper better greedy beam] [--results FILE.jsonl] [--quick]

Episodes are appended to the results as they come: the same command goes on where it was killed; learned policies begin
their seed anew. Look-ahead and beam search train at all nodes for each round that they choose, and play fewer episodes.
On two cores two commands with other policies, or other seeds, may write to the same file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from commands import markdown
from numpy.typing import NDArray

from crossmodal.replicas.digits import DigitLearner
from crossmodal.replicas.homogeneous import HomogeneousLearning
from crossmodal.replicas.partition import main_class
from crossmodal.replicas.policies import Episode, at_random, beam_search, greedy, play, round_robin, staying
from crossmodal.replicas.q_learning import BETTER, QLearning, Settings
from datamodules.mnist import TRAINED, read_mnist

NODES = 10
LEARNED = {"paper": Settings(), "better": BETTER}
PLAIN = ("random", "round_robin", "stay_1", "stay_2", "stay_3")
AHEAD = {"greedy": 10, "beam": 5}  # episodes that are played: each takes as long as many of the others
JUDGED = 1000  # of the held-out images, in each round; all 5,000 would take twice as long as training


def environment(data: str | None, seed: int, policy: str) -> HomogeneousLearning:
    """Return the environment of a seed: its partition and its distances; it observes what a policy looks at."""
    images, labels = read_mnist(data)
    nodes = main_class(labels[:TRAINED], main=400, others=100, evenly=False, seed=seed)
    held_out = images[TRAINED : TRAINED + JUDGED], labels[TRAINED : TRAINED + JUDGED]
    learner = DigitLearner(images[:TRAINED], labels[:TRAINED], nodes, held_out)
    return HomogeneousLearning(
        learner, distances(seed), observes_more=policy == "better", width=NODES if policy == "paper" else 0
    )


def distances(seed: int) -> NDArray[np.float64]:
    """Return symmetric distances, drawn from 0 to 0.1; none from a node to itself."""
    upper_KK = np.triu(np.random.default_rng([seed, 1]).uniform(0, 0.1, (NODES, NODES)), 1)
    found_KK: NDArray[np.float64] = upper_KK + upper_KK.T
    return found_KK


def episode_seed(seed: int, number: int) -> int:
    """Return the seed of an episode, the same for all policies."""
    return 1000 * seed + number


def learned(here: HomogeneousLearning, settings: Settings, seed: int, episodes: int) -> Iterator[Episode]:
    """Yield the episodes of a policy while it learns."""
    policy = QLearning(NODES, here.features, settings, seed=seed)
    for number in range(episodes):
        observed, _ = here.reset(seed=episode_seed(seed, number))
        found, is_cut_off = Episode(), False
        while not (found.reached or is_cut_off):
            node = policy.choose(observed)
            then, gained, found.reached, is_cut_off, told = here.step(np.int64(node))
            is_over = found.reached or is_cut_off
            policy.remember(observed, node, gained, then, ended=found.reached, is_over=is_over)
            found.add(node, gained, told["distance"], told["accuracy"])
            observed = then
        yield found


def plain(name: str, here: HomogeneousLearning, seed: int, numbers: list[int]) -> Iterator[Episode]:
    """Yield the episodes of a policy that learns nothing."""
    for number in numbers:
        of = episode_seed(seed, number)
        policies = {
            "random": at_random(np.random.default_rng([seed, number, 2])),
            "round_robin": round_robin,
            "stay_1": staying(1),
            "stay_2": staying(2),
            "stay_3": staying(3),
            "greedy": greedy,
        }
        yield play(here, policies[name], seed=of) if name in policies else beam_search(here, seed=of)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=120)
    parser.add_argument("--last", type=int, default=20)
    parser.add_argument("--policies", nargs="+", choices=[*PLAIN, *LEARNED, *AHEAD], default=[*PLAIN, *LEARNED, *AHEAD])
    parser.add_argument("--data", help="the folder that has mnist/; by default what CROSSMODAL_DATA says")
    parser.add_argument("--results", type=Path, default=Path("runs/compare_homogeneous.jsonl"))
    parser.add_argument("--quick", action="store_true", help="one seed, 6 episodes, none that looks ahead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        options.seeds, options.episodes, options.last = 1, 6, 3
        options.policies = [name for name in options.policies if name not in AHEAD]
    options.results.parent.mkdir(parents=True, exist_ok=True)
    done = read(options.results)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name in options.policies:
            key = (name, seed, options.episodes)
            first = options.episodes - options.last
            numbers = [*range(first, first + min(options.last, AHEAD.get(name, options.last)))]
            wanted = options.episodes if name in LEARNED else len(numbers)
            there = done.get(key, [])
            if len(there) >= wanted:
                continue
            try:
                here = environment(options.data, seed, name)
            except ValueError as error:
                parser.exit(1, f"{error}\n")
            if name in LEARNED:
                played, begins = learned(here, LEARNED[name], seed, options.episodes), 0
                done[key] = there = []
            else:
                played, begins = plain(name, here, seed, numbers[len(there) :]), len(there)
            began = time.perf_counter()
            for number, episode in enumerate(played, start=begins):
                seconds, began = time.perf_counter() - began, time.perf_counter()
                line = {"policy": name, "seed": seed, "of": options.episodes, "number": number, "seconds": seconds}
                line |= asdict(episode)
                there.append(line)
                with options.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            done[key] = there
            tell(name, seed, there[-options.last :])
    summary(done, options.policies, options.episodes, options.last)


def read(path: Path) -> dict[tuple[str, int, int], list[dict[str, object]]]:
    """Return the episodes that were played, by policy, seed and how many episodes were to be."""
    found: dict[tuple[str, int, int], list[dict[str, object]]] = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        line = json.loads(text)
        key = (line["policy"], line["seed"], line["of"])
        if line["number"] == 0:
            found[key] = []  # it was begun anew
        found.setdefault(key, []).append(line)
    return found


def tell(name: str, seed: int, lines: list[dict[str, object]]) -> None:
    """Print what the last episodes of a seed came to."""
    rounds, distance, seconds = (mean_of(lines, key) for key in ("rounds", "distance", "seconds"))
    print(f"seed {seed}  {name}: {rounds:.1f} rounds, distance {distance:.2f}, {seconds:.1f} s an episode", flush=True)


def mean_of(lines: list[dict[str, object]], key: str) -> float:
    """Return the mean of a figure over episodes."""
    return statistics.fmean(float(line[key]) for line in lines)  # type: ignore[arg-type]


def summary(
    done: dict[tuple[str, int, int], list[dict[str, object]]], policies: list[str], episodes: int, last: int
) -> None:
    """Print all policies beside each other, over seeds; rewards as shares of what is between chance and the beam."""
    found: dict[str, dict[str, list[float]]] = {}
    for (name, _, of), lines in sorted(done.items()):
        if of == episodes and name in policies:
            for key in ("rounds", "distance", "reward", "seconds"):
                found.setdefault(name, {}).setdefault(key, []).append(mean_of(lines[-last:], key))
    rows = []
    for name in policies:
        if name not in found:
            continue
        row = [name]
        for key in ("rounds", "distance", "reward"):
            values = found[name][key]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            row.append(f"{statistics.fmean(values):.2f} ± {deviation:.2f}")
        by = {key: statistics.fmean(found[name][key]) for key in ("rounds", "distance", "reward")}
        chance = {key: statistics.fmean(found["random"][key]) for key in by} if "random" in found else None
        row += [f"{1 - by[key] / chance[key]:.1%}" if chance else "" for key in ("rounds", "distance")]
        best = statistics.fmean(found["beam"]["reward"]) if "beam" in found else None
        row.append(f"{(by['reward'] - chance['reward']) / (best - chance['reward']):.0%}" if chance and best else "")
        row.append(f"{statistics.fmean(found[name]['seconds']):.1f}")
        rows.append(row)
    header = [
        "policy",
        "rounds",
        "distance",
        "reward",
        "fewer rounds",
        "less distance",
        "of the possible gain",
        "s/episode",
    ]
    print(f"\n{markdown(header, rows)}\n")
    print(
        json.dumps({name: {key: statistics.fmean(values) for key, values in of.items()} for name, of in found.items()})
    )


if __name__ == "__main__":
    main()
