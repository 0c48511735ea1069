"""Peak resident memory of `crossmodal fit` on a store of 1,000,000 rows of 1,000 floats (4 GB).

The first fit encodes and trains, the second reads what is stored. The peak is the operating system's own
figure of the finished process, mapped pages included.

    python scripts/bench_memory.py [--rows 1000000] [--width 1000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="with room for the store; by default a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        config = folder / "million.yaml"
        config.write_text(yaml.safe_dump(experiment(options.rows, options.width, folder)))
        figures: dict[str, object] = {"rows": options.rows, "floats a row": options.width}
        for run in ("encode and fit", "fit"):
            began = time.perf_counter()
            peak = fit(config, folder)
            figures[f"{run}: peak GB"] = round(peak / 1e9, 3)
            figures[f"{run}: seconds"] = round(time.perf_counter() - began, 1)
            print(f"{run}: {peak / 1e9:.2f} GB at the peak, {figures[f'{run}: seconds']} s", flush=True)
        store = sum(path.stat().st_size for path in (folder / "features").rglob("*.safetensors"))
        print(json.dumps({**figures, "store GB": round(store / 1e9, 3)}))


def fit(config: Path, folder: Path) -> int:
    """Run the command in a process of its own; return its peak resident bytes."""
    program = [sys.executable, "-m", "crossmodal", "fit", "--config", str(config), "--runs", str(folder / "runs")]
    process = subprocess.Popen(
        program, cwd=Path(__file__).parent, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"fit ended with status {os.waitstatus_to_exitcode(status)}")
    assert isinstance(usage, resource.struct_rusage)
    return usage.ru_maxrss * 1024


def experiment(rows: int, width: int, folder: Path) -> dict[str, object]:
    return {
        "experts": {"floats": {"class_path": "million_rows.FloatsExpert", "init_args": {"width": width}}},
        "data": {"class_path": "million_rows.FloatRows", "init_args": {"num_rows": rows, "width": width}},
        "model": {
            "fusion": {"class_path": "crossmodal.fusion.ConcatFusion", "init_args": {"width": 32}},
            "heads": {"sign": {"class_path": "crossmodal.heads.ClassificationHead"}},
            "feature_store": str(folder / "features"),
            "encode_batch_size": 1024,
        },
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False},
    }


if __name__ == "__main__":
    main()
