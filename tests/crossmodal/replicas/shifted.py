"""Two domains with labels and one without: pictures of which each class has a colour, brighter in each next domain."""

from __future__ import annotations

import numpy as np
import torch

from crossmodal.fusion import MeanFusion
from crossmodal.heads import ClassificationHead
from crossmodal.module import CrossModalModule
from crossmodal.replicas.compression import Compressor
from crossmodal.replicas.dealing import ByKind
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.node import LocalTraining
from crossmodal.replicas.unlabelled import Unlabelled
from datamodules.digit_domains import DigitPictures
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedRows
from experts.convolutions import ConvolutionExpert

KINDS = ("dark", "grey", "bright")  # the last is the target
COUNT = 24  # rows of each


class Shifted(PairedDataModule):
    """Modality `image`, task `colour`."""

    @property
    def outputs(self) -> dict[str, list[str]]:
        return {"colour": ["red", "green", "blue"]}

    def load(self, split: Split) -> PairedRows | None:
        return None if split == "predict" else made(KINDS[:2] if split != "test" else KINDS)

    def load_unlabelled(self) -> PairedRows | None:
        of = made(KINDS[2:])
        return PairedRows(sources=of.sources, index=of.index, targets={}, ids=of.ids)


def made(kinds: tuple[str, ...]) -> PairedRows:
    draw = np.random.default_rng(0)
    label_R = np.arange(COUNT * len(kinds)) % 3
    kind_R = np.repeat([KINDS.index(kind) for kind in kinds], COUNT)
    pixels_RHW3 = draw.integers(0, 40, (len(label_R), 8, 8, 3)) + 60 * kind_R[:, None, None, None]
    pixels_RHW3[np.arange(len(label_R)), :, :, label_R] += 60
    return PairedRows(
        sources={"image": DigitPictures(pixels_RHW3.astype(np.uint8))},
        index={"image": np.arange(len(label_R))},
        targets={"colour": torch.from_numpy(label_R)},
        ids=NumberedIds("row", np.arange(len(label_R))),
        kinds={kind: kind_R == KINDS.index(kind) for kind in kinds},
    )


def make_module() -> CrossModalModule:
    torch.manual_seed(0)
    return CrossModalModule(
        {"image": ConvolutionExpert(size=8, channels=(4,), width=8, dropout=0.0)},
        Shifted().outputs,
        fusion=lambda names: MeanFusion(names, width=6),
        heads={"colour": ClassificationHead},
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2),
    )


def make_engine(
    module: CrossModalModule, *, unlabelled: bool = True, epochs: int = 1, compressor: Compressor | None = None
) -> LocalEngine:
    data = Shifted(batch_size=8)
    data.connect({"image": module.experts["image"].transform})
    rows, further = data.rows("train"), data.unlabelled()
    assert rows is not None
    assert further is not None
    by_kind = ByKind()
    dealt = by_kind.deal(by_kind.groups(rows, rows.targets["colour"].numpy()), 2, seed=0)
    loaders = [data.loader(rows.select(own), "train", part=node) for node, own in enumerate(dealt)]
    how = LocalTraining(epochs=epochs, clip_norm=1.0)
    return LocalEngine(
        module, loaders, how, compressor=compressor, unlabelled=Unlabelled(data, further) if unlabelled else None
    )
