"""Seconds from the end of the imports to the first training step, where everything is in the feature store.

    python scripts/bench_start.py [--config configs/easy_vqa.yaml]

It fits twice in processes of their own: the first fills the store, the second is timed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

TIMED = """
import importlib, sys, time
for name in ("wandb", "crossmodal.training_cli", "datamodules.easy_vqa", "experts.image", "experts.text"):
    importlib.import_module(name)
imported = time.perf_counter()
from pytorch_lightning import Callback
from crossmodal.console import tame_chatter
from crossmodal.training_cli import TrainingCLI

class FirstStep(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        print("first step after", time.perf_counter() - imported, flush=True)
        raise SystemExit

class Timed(TrainingCLI):
    def fit(self, **kwargs):
        self.trainer.callbacks.append(FirstStep())
        super().fit(**kwargs)

tame_chatter()
Timed()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/easy_vqa.yaml"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["fit", "--config", str(options.config), "--runs", folder]
        arguments += [f"--model.feature_store={folder}/features", "--trainer.max_epochs=1"]
        subprocess.run([sys.executable, "-m", "crossmodal", *arguments], check=True, stdout=subprocess.DEVNULL)
        timed = subprocess.run([sys.executable, "-c", TIMED, *arguments], capture_output=True, text=True)
    lines = [line for line in (timed.stdout + timed.stderr).splitlines() if "encoded" in line or "first step" in line]
    print("\n".join(lines))
    seconds = next(float(line.split()[-1]) for line in lines if line.startswith("first step"))
    print(json.dumps({"seconds to the first step": round(seconds, 2)}))


if __name__ == "__main__":
    main()
