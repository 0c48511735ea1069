"""What looking on costs: `crossmodal fit` with all default callbacks, and with `--observe false`, in turn.

Each run is a process of its own, with its features stored before. A step's time is that of the whole fit but for start,
encoding and the final measuring: validations, looks and logging are counted.

    python scripts/bench_observe.py [--config configs/easy_vqa.yaml] [--epochs 14] [--repeats 3] [--track offline]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics

from commands import crossmodal, markdown

from crossmodal.console import tame_chatter

SECONDS = re.compile(r"^epoch .* ([\d.]+) s$", re.MULTILINE)


def steps_per_second(config: str, epochs: int, runs: str, store: str, track: str, *, observes: bool) -> float:
    """Train; return the steps a second over all epochs."""
    done = crossmodal(
        *("fit", "--config", config, "--trainer.max_epochs", epochs, "--runs", runs, "--track", track),
        *("--model.feature_store", store, "--observe", str(observes).lower()),
    )
    seconds = [float(found) for found in SECONDS.findall(done.told)]
    return float(done.figures["step"]) / sum(seconds)


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/easy_vqa.yaml")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--track", default="offline")
    parser.add_argument("--runs", default="runs/bench_observe")
    parser.add_argument("--store", default="runs/features")
    options = parser.parse_args()
    tame_chatter()
    crossmodal(
        *("fit", "--config", options.config, "--trainer.max_epochs", 1, "--runs", options.runs, "--track", "disabled"),
        *("--model.feature_store", options.store),
    )
    rates: dict[bool, list[float]] = {True: [], False: []}
    for repeat in range(options.repeats):
        for observes in (True, False) if repeat % 2 else (False, True):
            rate = steps_per_second(
                *(options.config, options.epochs, options.runs, options.store, options.track), observes=observes
            )
            rates[observes].append(rate)
            print(f"observe {observes}: {rate:.1f} steps/s", flush=True)
    ratios = [a / b for a, b in zip(rates[True], rates[False], strict=True)]
    lines = [
        [str(observes).lower(), f"{statistics.median(of):.1f}", f"{min(of):.1f} to {max(of):.1f}"]
        for observes, of in rates.items()
    ]
    print(f"\n{markdown(['observe', 'steps/s (median)', 'range'], lines)}\n")
    print(json.dumps({"ratio": statistics.median(ratios), "ratios": ratios}))


if __name__ == "__main__":
    main()
