"""Pictures of what each fusion does: its flow, and what reaches each workspace token of a trained model.

A model with each fusion is trained on easy-VQA as in configs/easy_vqa.yaml, but with several tokens an input: 16 of a
picture (those of its 8 x 8 places, four to one) and one of each word piece. The influence of an input token on a
workspace token is the length of the token times that of the derivative (estimated by 32 random directions of the
workspace token): how much the one changes if the other grows a little. Shown is one test row.

    python scripts/draw_fusions.py [--epochs 2] [--store runs/features] [--models runs/draw_fusions]
        [--pictures docs/pictures]

Trained models are kept and not trained again. One thread.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare_fusion import BATCH, TASK, begin_quietly, right
from fusion_flows import FLOWS, draw_flow
from kept_models import trained_once
from markupsafe import Markup
from token_rows import SPLITS, TokenRows, Tokens, easy_vqa, easy_vqa_experts
from torch import Tensor

from crossmodal.check.charts import standalone
from crossmodal.module import CrossModalModule
from datamodules.batch import PairedBatch
from datamodules.easy_vqa import EasyVQA
from datamodules.rows import PairedDataset
from experts.base import ExpertTokens

GRID = 4  # places of a picture along each side
QUESTION = "what is the color of the rectangle?"
DIRECTIONS = 32
CELL, SLOT, TOP = 18, 84, 24  # pixels
LABEL = 130


def main() -> None:
    """Train what is not trained yet, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--store", type=Path, default=Path("runs/features"))
    parser.add_argument("--models", type=Path, default=Path("runs/draw_fusions"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    begin_quietly()
    options.pictures.mkdir(parents=True, exist_ok=True)
    experts = easy_vqa_experts(image="grid", question="all")
    data = in_places(easy_vqa(experts, options.store, batch_size=BATCH))
    example = an_example(experts["question"].transform.tokenizer)  # type: ignore[attr-defined]
    rows = data.splits["test"]
    batch = PairedDataset(rows, rows.sources)[np.array([example.row])]  # type: ignore[arg-type]
    for name in FLOWS:
        file = name.replace(" ", "_").replace("-", "_")
        (options.pictures / f"{file}_flow.svg").write_text(draw_flow(name))
        module = trained_once(name, data, options.models / f"{file}_{options.epochs}.pt", epochs=options.epochs)
        reach_LN = influence(module, batch)
        (options.pictures / f"{file}_influence.svg").write_text(draw_influence(reach_LN, example))
        given = data.outputs[TASK][int(module(batch)[TASK].argmax())]
        accuracy = right(module, rows, BATCH)
        print(f"{name}: {accuracy:.4f} of the test rows; here {given!r}, right is {example.answer!r}", flush=True)


def in_places(data: TokenRows) -> TokenRows:
    """Return the rows with GRID x GRID tokens a picture."""
    splits = {}
    for split in SPLITS:
        rows = data.splits[split]
        tokens_UND: Tensor = rows.sources["image"].tokens.tokens_BND  # type: ignore[attr-defined]
        side = round(tokens_UND.shape[1] ** 0.5)
        maps_UDHW = tokens_UND.transpose(1, 2).unflatten(2, (side, side))
        pooled_UND = torch.nn.functional.adaptive_avg_pool2d(maps_UDHW, GRID).flatten(2).transpose(1, 2).contiguous()
        mask_UN = torch.ones(pooled_UND.shape[:2], dtype=torch.bool)
        splits[split] = replace(rows, sources={**rows.sources, "image": Tokens(ExpertTokens(pooled_UND, mask_UN))})
    return TokenRows(splits, data.outputs, batch_size=BATCH)


@dataclass(frozen=True)
class Example:
    """A row of the test split, and what one sees of it.

    Args:
        row: Its number.
        pieces: The question's word pieces.
        picture: As a PNG.
        answer: The right one.
    """

    row: int
    pieces: list[str]
    picture: bytes
    answer: str


def an_example(tokenizer: Any) -> Example:
    """Return the first row with `QUESTION`."""
    data = EasyVQA()
    rows = data.rows("test")
    assert rows is not None
    position = rows.sources["question"].texts.index(QUESTION)  # type: ignore[attr-defined]
    row = int(np.flatnonzero(rows.index["question"] == position)[0])
    stream = io.BytesIO()
    rows.sources["image"].load(int(rows.index["image"][row])).save(stream, "PNG", optimize=True)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer(QUESTION)["input_ids"])
    return Example(row, pieces, stream.getvalue(), data.outputs[TASK][int(rows.targets[TASK][row])])


def influence(module: CrossModalModule, batch: PairedBatch) -> dict[str, Tensor]:
    """Return by modality how much each of one row's tokens reaches each workspace token, (L, N); shares of all."""
    model = module.model
    assert model.fusion is not None
    encoded = model.encode(batch)
    own = {name: model.tokens_of_rows(encoded[name], index_B, name) for name, index_B in batch.index.items()}
    leaves = {name: one.tokens_BND.detach().requires_grad_() for name, one in own.items()}
    workspace_BLD = model.fusion({name: ExpertTokens(leaf, own[name].mask_BN) for name, leaf in leaves.items()})
    draw = torch.Generator().manual_seed(0)
    squares = {name: torch.zeros(workspace_BLD.shape[1], leaf.shape[1]) for name, leaf in leaves.items()}
    for slot, value_D in enumerate(workspace_BLD[0]):
        for _ in range(DIRECTIONS):
            along = value_D @ torch.randn(len(value_D), generator=draw)
            gradients = torch.autograd.grad(along, list(leaves.values()), retain_graph=True)
            for name, gradient_BND in zip(leaves, gradients, strict=True):
                squares[name][slot] += gradient_BND[0].square().sum(-1)
    reach_LN = {name: squares[name].sqrt() * leaf.detach()[0].norm(dim=-1) for name, leaf in leaves.items()}
    total_L1 = torch.stack([one.sum(1, keepdim=True) for one in reach_LN.values()]).sum(0)
    return {name: (one / total_L1)[:, own[name].mask_BN[0]] for name, one in reach_LN.items()}


def draw_influence(reach_LN: Mapping[str, Tensor], example: Example) -> str:
    """Return the influence as SVG: for each workspace token a map of the picture, and the words below."""
    most = max(float(one.max()) for one in reach_LN.values())
    image_LN, question_LN = reach_LN["image"], reach_LN["question"]
    side, words_top = GRID * CELL, TOP + GRID * CELL + 26
    drawn = Markup('<image x="{0}" y="{1}" width="{2}" height="{2}" href="data:image/png;base64,{3}"/>').format(
        LABEL - side - 12, TOP, side, base64.b64encode(example.picture).decode()
    )
    for number, piece in enumerate(example.pieces):
        word = '<text x="{}" y="{}" text-anchor="end">{}</text>'
        drawn += Markup(word).format(LABEL - 12, words_top + number * CELL + 13, piece)
    for slot in range(len(image_LN)):
        left = LABEL + slot * SLOT
        title = f"token {slot + 1}" if len(image_LN) > 1 else "the token"
        drawn += Markup('<text x="{}" y="16" text-anchor="middle">{}</text>').format(left + side / 2, title)
        for place, share in enumerate(image_LN[slot].tolist()):
            down, across = divmod(place, GRID)
            drawn += _cell("c0", left + across * CELL, TOP + down * CELL, CELL, share / most)
        said = '<text class="n" x="{}" y="{}" text-anchor="middle">image {:.0%}</text>'
        drawn += Markup(said).format(left + side / 2, words_top - 9, float(image_LN[slot].sum()))
        for number, share in enumerate(question_LN[slot].tolist()):
            drawn += _cell("c1", left, words_top + number * CELL, side, share / most)
    height = words_top + len(example.pieces) * CELL + 4
    return standalone(drawn, height, width=LABEL + len(image_LN) * SLOT)


def _cell(kind: str, x: float, y: float, width: float, strength: float) -> Markup:
    return Markup('<rect class="{}" x="{:.0f}" y="{:.0f}" width="{:.0f}" height="{}" opacity="{:.2f}"/>').format(
        kind, x + 1, y + 1, width - 2, CELL - 2, 0.06 + 0.94 * strength
    )


if __name__ == "__main__":
    main()
