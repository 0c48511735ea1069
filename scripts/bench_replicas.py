"""Many replicas on one machine: one after the other against side by side (`torch.vmap`), in time and in memory.

Each replica is the network of Homogeneous Learning with 500 images of MNIST, which it trains with for an epoch. Ways
take turns; each is measured so often, after one time that does not count. Memory is what a way holds at most beyond
what was held before: of a GPU as PyTorch counts it, of a CPU as the system does, each in a process of its own.

    CROSSMODAL_DATA=/path/to/data python scripts/bench_replicas.py [--replicas 100] [--together 10 100] [--repeats 3]
        [--device cpu]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from commands import markdown

from crossmodal.replicas.digits import DigitLearner
from datamodules.mnist import TRAINED, read_mnist

ROWS = 500


class Way:
    """A way to train all replicas.

    Args:
        data: The folder that has mnist/.
        replicas: How many.
        together: Side by side; 1 for one after the other.
        device: That they are trained on.
    """

    def __init__(self, data: str | None, replicas: int, together: int, device: str) -> None:
        images, labels = read_mnist(data)
        draw = np.random.default_rng(0)
        nodes = [draw.permutation(TRAINED)[:ROWS] for _ in range(replicas)]
        self.learner = DigitLearner(images[:TRAINED], labels[:TRAINED], nodes, (images[:1], labels[:1]), device=device)
        self.states = [self.learner.begin(0)] * replicas
        self.together = together
        self.device = torch.device(device)

    def __call__(self) -> float:
        """Train all; return the seconds."""
        numbers = range(len(self.states))
        self._wait()
        began = time.perf_counter()
        if self.together == 1:
            for node in numbers:
                self.learner.train(self.states[node], node, node)
        else:
            for first in numbers[:: self.together]:
                some = numbers[first : first + self.together]
                self.learner.train_together([self.states[node] for node in some], some, some)
        self._wait()
        return time.perf_counter() - began

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def memory(self) -> float:
        """Train all; return how many MB that takes at most."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            return (torch.cuda.max_memory_allocated() - before) / 1e6
        Path("/proc/self/clear_refs").write_text("5")  # the peak is reckoned from here
        before = resident("VmRSS")
        self()
        return resident("VmHWM") - before


def resident(what: str) -> float:
    """Return how many MB of memory this process holds (`VmRSS`), or held at most (`VmHWM`)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{what}:"))
    return int(line.split()[1]) * 1024 / 1e6


def memory_of(arguments: tuple[str | None, int, int, str]) -> float:
    """Return how many MB a way takes at most, in a process that has done nothing else."""
    torch.set_num_threads(1)
    return Way(*arguments).memory()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="the folder that has mnist/; by default what CROSSMODAL_DATA says")
    parser.add_argument("--replicas", type=int, default=100)
    parser.add_argument("--together", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    counts = [1, *options.together]
    try:
        ways = {count: Way(options.data, options.replicas, count, options.device) for count in counts}
    except ValueError as error:
        parser.exit(1, f"{error}\n")
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    for number in range(options.repeats + 1):
        for count, way in ways.items():
            found = way()
            if number:
                seconds[count].append(found)
                print(f"{count} at once: {found:.2f} s", flush=True)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        arguments = [(options.data, options.replicas, count, options.device) for count in counts]
        memory = dict(zip(counts, pool.map(memory_of, arguments, chunksize=1), strict=True))
    alone = statistics.median(seconds[1])
    ratios = {
        count: statistics.median(one / other for one, other in zip(seconds[1], found, strict=True))
        for count, found in seconds.items()
    }
    rows = [
        [
            str(count),
            f"{statistics.median(seconds[count]):.2f}",
            f"{min(seconds[count]):.2f} to {max(seconds[count]):.2f}",
            f"{ratios[count]:.2f}",
            f"{memory[count]:.0f}",
        ]
        for count in counts
    ]
    print(f"\n{markdown(['at once', 's (median)', 'range', 'times as fast', 'MB'], rows)}\n")
    print(
        json.dumps(
            {
                "replicas": options.replicas,
                "device": options.device,
                "seconds_alone": alone,
                "ratio": ratios,
                "memory_MB": memory,
            }
        )
    )


if __name__ == "__main__":
    main()
