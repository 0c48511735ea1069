"""What the meta-learner of `scripts/compare_fusion.py` does where the image is broken in half of the test rows.

Trains the model of the task `nuisance` (seed 0), or takes the one that is kept. Prints, of whole and of broken rows,
how novel the image is to the meta-learner, how much of it the fusion hears, and how often the fusion is right if it
hears what the meta-learner lets it, all experts, or all but the image. Then how often the model is right with the
weight of novelty that it has learned, and with others.

    python scripts/inspect_meta_learner.py [--epochs 14] [--store runs/features] [--output runs/compare_fusion]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from commands import markdown
from compare_fusion import BATCH, TASK, WITH_META_LEARNER, begin_quietly, right
from kept_models import trained_once
from token_rows import easy_vqa, easy_vqa_experts, with_broken, with_nuisance

from crossmodal.meta_learner import FACTS
from crossmodal.module import CrossModalModule
from datamodules.rows import PairedDataset, PairedRows

NOVELTY = list(FACTS).index("novelty")
WEIGHTS = (-2.0, -4.0, -8.0, -12.0)


def main() -> None:
    """Train or load, print tables, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--store", type=Path, default=Path("runs/features"))
    parser.add_argument("--output", type=Path, default=Path("runs/compare_fusion"))
    options = parser.parse_args()
    begin_quietly()
    data = with_nuisance(easy_vqa(easy_vqa_experts(), options.store, batch_size=BATCH), 0)
    path = options.output / f"meta_learner_{options.epochs}_epochs.pt"
    module = trained_once(WITH_META_LEARNER, data, path, epochs=options.epochs)
    whole, broken = data.splits["test"], with_broken(data, "image", 0)
    is_broken_R = broken.index["image"] >= len(whole.sources["image"])
    rows = {"whole": broken.select(np.flatnonzero(~is_broken_R)), "broken": broken.select(np.flatnonzero(is_broken_R))}
    heard = {name: of_image(module, some) for name, some in rows.items()}
    print(
        markdown(
            ["of the rows", *heard["whole"]], [[name, *map("{:.4f}".format, of.values())] for name, of in heard.items()]
        )
    )
    by_weight = {f"{weight:.2f}": figures for weight, figures in with_weights(module, whole, broken)}
    print()
    print(
        markdown(
            ["weight of novelty", "clean", "image broken"],
            [[weight, *map("{:.4f}".format, of)] for weight, of in by_weight.items()],
        )
    )
    print(json.dumps({"heard": heard, "by weight of novelty": by_weight}))


@torch.inference_mode()
def of_image(module: CrossModalModule, rows: PairedRows) -> dict[str, float]:
    """Return means over rows: novelty and share of the image, and how often the fusion is right."""
    model = module.model
    assert model.mixture is not None
    image = [*module.experts].index("image")
    dataset = PairedDataset(rows, rows.sources)  # type: ignore[arg-type]
    sums: dict[str, float] = {}
    for numbers in np.array_split(np.arange(len(rows)), -(-len(rows) // 512)):
        batch = dataset[numbers]
        tokens = model.encode(batch)
        said = model.mixture.say(tokens, batch)
        shares_BE = model.mixture.score(said).shares()
        without_BE = torch.ones_like(shares_BE)
        without_BE[:, image] = 0
        told = {"novelty of the image": said.strangeness_BE2[:, image, 0], "share of it": shares_BE[:, image]}
        ways = {"fusion": shares_BE, "all heard": torch.ones_like(shares_BE), "all but the image": without_BE}
        for name, heard_BE in ways.items():
            told[name] = (model.fuse(tokens, batch, heard_BE)[TASK].argmax(-1) == batch.targets[TASK]).float()
        for name, values_B in told.items():
            sums[name] = sums.get(name, 0.0) + float(values_B.sum())
    return {name: total / len(rows) for name, total in sums.items()}


def with_weights(
    module: CrossModalModule, whole: PairedRows, broken: PairedRows
) -> list[tuple[float, tuple[float, float]]]:
    """Return how often a model is right with the weight of novelty that it learned, and with others."""
    assert module.model.mixture is not None
    weight_1F = module.model.mixture.meta_learner.fact_score.weight.detach()
    found = []
    for weight in (float(weight_1F[0, NOVELTY]), *WEIGHTS):
        weight_1F[0, NOVELTY] = weight
        found.append((weight, (right(module, whole, 512), right(module, broken, 512))))
    return found


if __name__ == "__main__":
    main()
