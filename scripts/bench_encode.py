"""Inputs per second of encoding against a bare `model(batch)` loop over decoded inputs.

Ours reads the files, decodes, resizes, encodes and writes the store; the bare loop has its inputs decoded,
normalised and laid out in memory. All are run in turn, several times, in one process. The bare model is what
timm gives, in each precision and layout. Where it says so, the bare loop has what ours has beside: the
C library keeps freed memory, and batch norms are folded; the rest is what reading and writing cost.

    python scripts/bench_encode.py [--inputs 2048] [--rounds 5] [--accuracy]

--accuracy also fits configs/easy_vqa.yaml on features of either precision (some minutes).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml

from crossmodal.encoder import encode_in_batches, num_encode_workers
from crossmodal.feature_store import FeatureStore
from crossmodal.memory import kept_memory
from datamodules.easy_vqa import EasyVQA
from datamodules.sources import RawReader
from experts.image import ImageExpert, _create, _features, _prune

CONFIG = Path("configs/easy_vqa.yaml")
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--accuracy", action="store_true")
    options = parser.parse_args()
    settings = yaml.safe_load(CONFIG.read_text())["experts"]["image"]["init_args"]
    experts = {name: ImageExpert(**settings, precision=name) for name in ("float32", "bfloat16")}
    for name, expert in experts.items():
        expert.set_precision(name)
    plain = _create(settings["model"], settings["pretrained"], None, settings["image_size"]).eval()
    layers = _prune(plain, settings["model"], settings["layers"])

    rows = EasyVQA().rows("train")
    source = rows.sources["image"]
    reader = RawReader(source, experts["float32"].transform)
    positions = np.arange(options.inputs)
    keys = source.keys(positions)
    pixels = [reader.read(positions[start : start + BATCH]) for start in range(0, len(positions), BATCH)]
    decoded = [experts["float32"].normalize(batch) for batch in pixels]

    def bare(
        network: torch.nn.Module, dtype: torch.dtype, layout: torch.memory_format, *, kept: bool = False
    ) -> Callable[[], None]:
        network = copy.deepcopy(network).to(dtype=dtype, memory_format=layout)
        batches = [batch.to(dtype).contiguous(memory_format=layout) for batch in decoded]

        def run() -> None:
            with torch.inference_mode(), kept_memory() if kept else nullcontext():
                for batch in batches:
                    _features(network, batch, layers, "pooled")

        return run

    def ours(name: str) -> Callable[[], None]:
        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                writer = FeatureStore(Path(folder)).writer(name, {})
                done = 0
                for batch in encode_in_batches(
                    experts[name],
                    reader,
                    positions,
                    batch_size=BATCH,
                    device=torch.device("cpu"),
                    num_workers=num_encode_workers(None, len(pixels)),
                ):
                    assert batch.tokens is not None
                    writer.add(keys[done : done + len(batch.positions)], batch.tokens)
                    done += len(batch.positions)
                writer.flush()

        return run

    last, rows_first = torch.channels_last, torch.contiguous_format
    runs = {
        "bare float32": bare(plain, torch.float32, rows_first),
        "bare float32 channels_last": bare(plain, torch.float32, last),
        "ours float32": ours("float32"),
        "folded float32, memory kept": bare(experts["float32"].network, torch.float32, last, kept=True),
        "bare bfloat16 channels_last": bare(plain, torch.bfloat16, last),
        "bare bfloat16, memory kept": bare(plain, torch.bfloat16, last, kept=True),
        "ours bfloat16": ours("bfloat16"),
        "folded bfloat16, memory kept": bare(experts["bfloat16"].network, torch.bfloat16, last, kept=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number:  # the first round warms up
                rates[name].append(options.inputs / (time.perf_counter() - began))
    for name, values in rates.items():
        print(f"{name:<32}{statistics.median(values):>8.0f} inputs/s  ({min(values):.0f} to {max(values):.0f})")

    def ratio(above: str, below: str) -> float:
        return round(statistics.median(a / b for a, b in zip(rates[above], rates[below], strict=True)), 3)

    figures = {
        "ours/bare float32": ratio("ours float32", "bare float32 channels_last"),
        "ours/bare bfloat16": ratio("ours bfloat16", "bare bfloat16 channels_last"),
        "ours bfloat16/bare float32": ratio("ours bfloat16", "bare float32"),
        "ours float32/bare float32 (contiguous)": ratio("ours float32", "bare float32"),
        "ours/bare bfloat16, memory kept": ratio("ours bfloat16", "bare bfloat16, memory kept"),
        "ours/folded float32, memory kept": ratio("ours float32", "folded float32, memory kept"),
        "ours/folded bfloat16, memory kept": ratio("ours bfloat16", "folded bfloat16, memory kept"),
        **closeness(experts, plain, layers, pixels, decoded),
    }
    if options.accuracy:
        figures |= {f"test/accuracy {name}": accuracy(name) for name in experts}
    print(json.dumps(figures))


def closeness(
    experts: dict[str, ImageExpert],
    plain: torch.nn.Module,
    layers: list[int],
    pixels: list[torch.Tensor],
    decoded: list[torch.Tensor],
) -> dict[str, float]:
    with torch.inference_mode():
        exact = torch.cat([_features(plain, batch, layers, "pooled") for batch in decoded]).flatten(1)
        tokens = {
            name: torch.cat([expert(batch).tokens_BND.float() for batch in pixels]).flatten(1)
            for name, expert in experts.items()
        }
    found = {}
    for name, value in tokens.items():
        found[f"{name}: relative error"] = round(float((value - exact).norm() / exact.norm()), 6)
        distance = 1 - F.cosine_similarity(value, exact, dim=-1)
        found[f"{name}: largest cosine distance"] = round(float(distance.max()), 6)
    return found


def accuracy(precision: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "crossmodal", "fit", "--config", str(CONFIG), "--runs", folder]
        command += [f"--model.feature_store={folder}/features", f"--experts.image.init_args.precision={precision}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return float(json.loads(next(Path(folder).glob("*/0/metrics.json")).read_text())["test/accuracy"])


if __name__ == "__main__":
    main()
