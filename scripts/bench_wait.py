"""The share of time that training waits for data: JPEGs of 224 px through a small expert that is trained.

`crossmodal fit` runs once for each number of workers, in processes of their own, and logs `train/waiting`.

    python scripts/bench_wait.py [--pictures 1024] [--workers 0 2] [--model tf_efficientnet_lite0]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import easy_vqa
import numpy as np
import yaml
from PIL import Image

CLASSES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1024)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    options = parser.parse_args()
    figures: dict[str, object] = {"pictures": options.pictures, "model": options.model}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder / "pictures", options.pictures)
        config = folder / "wait.yaml"
        config.write_text(yaml.safe_dump(experiment(folder / "pictures", options.model)))
        print(f"{'workers':>7}  {'waiting':>7}  {'rows/s':>6}")
        for workers in options.workers:
            waiting, seconds = fit(config, folder, workers)
            figures[f"waiting, {workers} workers"] = round(waiting, 4)
            figures[f"rows/s, {workers} workers"] = round(options.pictures / seconds, 1)
            print(f"{workers:>7}  {waiting:>7.1%}  {options.pictures / seconds:>6.1f}", flush=True)
    print(json.dumps(figures))


def fit(config: Path, folder: Path, workers: int) -> tuple[float, float]:
    """Train for two epochs; return the second's share of waiting, and its seconds."""
    runs = folder / f"runs-{workers}"
    program = [sys.executable, "-m", "crossmodal", "fit", "--config", str(config), "--runs", str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [*program, "--data.init_args.num_workers", str(workers)],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    with (runs / "wait" / "0" / "metrics.csv").open(newline="") as file:
        waiting = [float(row["train/waiting"]) for row in csv.DictReader(file) if row["train/waiting"]]
    last = next(line for line in done.stdout.splitlines() if line.startswith("epoch 2/2"))
    return waiting[-1], float(last.split()[-2])


def write_pictures(folder: Path, count: int) -> None:
    """Write easy-VQA's pictures at 224 px with noise, so that they are as large on the disk as photographs."""
    sources = sorted((Path(easy_vqa.__file__).parent / "data" / "train" / "images").glob("*.png"))
    for number in range(count):
        draw = np.random.default_rng(number)
        with Image.open(sources[number % len(sources)]) as image:
            pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)).astype(np.int16)
        noisy = np.clip(pixels + draw.normal(scale=12, size=pixels.shape), 0, 255).astype(np.uint8)
        path = folder / f"class {number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)


def experiment(pictures: Path, model: str) -> dict[str, object]:
    return {
        "experts": {
            "image": {
                "class_path": "experts.image.ImageExpert",
                "init_args": {"model": model, "pretrained": False, "image_size": 224, "freeze": False, "augment": True},
            }
        },
        "data": {
            "class_path": "datamodules.manifest.Manifest",
            "init_args": {
                "train": str(pictures),
                "modalities": {"image": {"type": "image", "column": "file"}},
                "targets": {"label": {"type": "class", "column": "label"}},
                "batch_size": 32,
            },
        },
        "model": {
            "fusion": {"class_path": "crossmodal.fusion.ConcatFusion", "init_args": {"width": 32}},
            "heads": {"label": {"class_path": "crossmodal.heads.ClassificationHead"}},
        },
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_checkpointing": False},
    }


if __name__ == "__main__":
    main()
