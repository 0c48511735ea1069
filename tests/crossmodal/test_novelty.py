"""Legend: U distinct inputs, D width, M modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.testing import assert_close

from crossmodal.gates import copy_gates, read_gate, write_gate
from crossmodal.novelty import MOST_INPUTS, Autoencoder, NoveltyGate, fit_autoencoder
from crossmodal.run_folder import RunFolder
from datamodules.synthetic import COLOURS, DotPictures
from experts.base import Expert, ExpertTokens
from experts.image import ImageExpert


def expert_of(**arguments: object) -> Expert:
    settings = {"image_size": 32, "tokens": "grid", "layers": [1], **arguments}
    return ImageExpert("test_efficientnet", pretrained=False, **settings)  # type: ignore[arg-type]


def days(count: int, seed: int) -> list[Image.Image]:
    colours = np.random.default_rng(seed).integers(0, len(COLOURS), (count, 2))
    source = DotPictures(colours, size=32, seed=seed)
    return [source.load(position) for position in range(count)]


def nights(count: int, seed: int) -> list[Image.Image]:
    return [ImageOps.invert(picture) for picture in days(count, seed)]


def noise(count: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]


def tokens_of(expert: Expert, pictures: list[Image.Image]) -> ExpertTokens:
    tokens: ExpertTokens = expert(expert.transform.collate([expert.transform(picture) for picture in pictures]))
    return tokens


@pytest.fixture(scope="module")
def experts() -> dict[str, Expert]:
    """Two networks, of different widths."""
    return {"image": expert_of(), "thermal": expert_of(layers=[2])}


@pytest.fixture(scope="module")
def gate(experts: dict[str, Expert]) -> NoveltyGate:
    """Its image expert learned from pictures of the day, its thermal expert from those of the night."""
    pictures = {"image": days(256, seed=1), "thermal": nights(256, seed=2)}
    return NoveltyGate(
        {name: fit_autoencoder(tokens_of(experts[name], some).mean()) for name, some in pictures.items()}
    )


def routed(gate: NoveltyGate, experts: dict[str, Expert], pictures: list[Image.Image]) -> list[str | None]:
    return gate.route({name: tokens_of(expert, pictures) for name, expert in experts.items()})


def test_held_out_pictures_go_to_the_expert_that_knows_their_kind(
    gate: NoveltyGate, experts: dict[str, Expert]
) -> None:
    assert len({expert.width for expert in experts.values()}) == 2
    assert routed(gate, experts, days(200, seed=3)).count("image") >= 190
    assert routed(gate, experts, nights(200, seed=4)).count("thermal") >= 190


def test_what_no_expert_has_seen_is_new(gate: NoveltyGate, experts: dict[str, Expert]) -> None:
    strange = [*noise(50), *(Image.new("RGB", (32, 32), colour) for colour in ("pink", "olive"))]
    assert routed(gate, experts, strange) == [None] * 52
    lenient = NoveltyGate(dict(gate.autoencoders.items()), limit=float("inf"))  # type: ignore[arg-type]
    assert None not in routed(lenient, experts, strange)


def test_errors_are_in_units_of_the_training_inputs_own(gate: NoveltyGate, experts: dict[str, Expert]) -> None:
    for name, pictures in (("image", days(400, seed=5)), ("thermal", nights(400, seed=6))):
        errors_UM = gate.errors({name: tokens_of(experts[name], pictures)})
        assert errors_UM.shape == (400, 1)
        assert float((errors_UM <= 1).float().mean()) >= 0.95
        assert 0.3 < float(errors_UM.max()) < 5


def test_the_order_is_that_of_the_tokens(gate: NoveltyGate, experts: dict[str, Expert]) -> None:
    tokens = {name: tokens_of(expert, days(8, seed=3)) for name, expert in experts.items()}
    turned = dict(reversed(tokens.items()))
    assert_close(gate.errors(tokens), gate.errors(turned).flip(1))
    assert gate.route(tokens) == gate.route(turned) == ["image"] * 8


def test_the_same_tokens_and_seed_give_the_same_one() -> None:
    tokens_UD = torch.randn(100, 12, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first, second, other = (fit_autoencoder(tokens_UD, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["decoder.2.weight"], other["decoder.2.weight"])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
def test_tiny_data_give_finite_errors(count: int, scale: float) -> None:
    tokens_UD = 3 + scale * torch.randn(count, 6, generator=torch.Generator().manual_seed(count))
    autoencoder = fit_autoencoder(tokens_UD)
    errors_U = autoencoder.errors(tokens_UD)
    assert errors_U.isfinite().all()
    assert float(errors_U.median()) <= 1
    assert float(autoencoder.errors(-1000 * (1 + tokens_UD.abs()))[0]) > 1


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_constant_tokens_are_known_and_others_new(value: float) -> None:
    autoencoder = fit_autoencoder(torch.full((50, 4), value))
    assert float(autoencoder.errors(torch.full((1, 4), value))[0]) <= 1
    assert float(autoencoder.errors(torch.full((1, 4), value + 1))[0]) > 1


def test_what_never_varied_in_training_tells_when_it_does() -> None:
    tokens_UD = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    tokens_UD[:, 3] = 1.0
    strange_UD = tokens_UD.clone()
    strange_UD[:, 3] = 2.0
    autoencoder = fit_autoencoder(tokens_UD)
    assert (autoencoder.errors(strange_UD) > 1).all()


def test_very_many_inputs_are_drawn_from() -> None:
    one, other = torch.zeros(MOST_INPUTS, 2), torch.ones(MOST_INPUTS, 2)
    autoencoder = fit_autoencoder(torch.cat([one, other]))
    assert_close(autoencoder.mean_D, torch.full((2,), 0.5), atol=0.05, rtol=0)


def test_numbers_that_are_none_are_new_and_cannot_be_learned() -> None:
    tokens_UD = torch.randn(20, 4)
    autoencoder = fit_autoencoder(tokens_UD)
    tokens_UD[0, 0], tokens_UD[1, 1] = torch.nan, torch.inf
    assert autoencoder.errors(tokens_UD)[:2].isinf().all()
    for wrong in (tokens_UD, torch.empty(0, 4), torch.zeros(4)):
        with pytest.raises(ValueError, match="a gate needs finite tokens"):
            fit_autoencoder(wrong)


def test_an_input_without_tokens_is_new() -> None:
    gate = NoveltyGate({"image": fit_autoencoder(torch.zeros(20, 4))})
    tokens = ExpertTokens(torch.zeros(2, 3, 4), torch.tensor([[True, False, False], [False, False, False]]))
    assert gate.route({"image": tokens}) == ["image", None]
    assert NoveltyGate(dict(gate.autoencoders.items()), limit=float("inf")).route({"image": tokens}) == ["image", None]  # type: ignore[arg-type]


def test_other_modalities_and_widths_are_refused() -> None:
    gate = NoveltyGate({"image": fit_autoencoder(torch.randn(20, 4))})
    with pytest.raises(ValueError, match="there is no gate for 'speech'; there are image"):
        gate.route({"speech": ExpertTokens(torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.bool))})
    with pytest.raises(ValueError, match="tokens of width 4, not 5"):
        gate.route({"image": ExpertTokens(torch.zeros(1, 1, 5), torch.ones(1, 1, dtype=torch.bool))})


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Autoencoder, Expert]:
    expert = expert_of()
    autoencoder = fit_autoencoder(torch.randn(40, expert.width, generator=torch.Generator().manual_seed(0)))
    path = RunFolder(tmp_path / "run").gate("image")
    path.parent.parent.mkdir()
    write_gate(path, autoencoder, expert)
    return path, autoencoder, expert


def test_a_gate_is_read_as_it_was_written(written: tuple[Path, Autoencoder, Expert]) -> None:
    path, autoencoder, expert = written
    tokens_UD: Tensor = torch.randn(7, expert.width)
    assert torch.equal(read_gate(path, expert).errors(tokens_UD), autoencoder.errors(tokens_UD))
    assert torch.equal(read_gate(path, expert_of()).errors(tokens_UD), autoencoder.errors(tokens_UD))
    assert [one.name for one in path.parent.iterdir()] == ["image.safetensors"]
    other = RunFolder(path.parents[2] / "other")
    other.path.mkdir()
    copy_gates(RunFolder(path.parents[1]), other, ["image", "speech"])
    assert [one.name for one in other.gate("image").parent.iterdir()] == ["image.safetensors"]
    assert other.gate("image").read_bytes() == path.read_bytes()


def test_a_gate_of_another_expert_is_refused(written: tuple[Path, Autoencoder, Expert]) -> None:
    path, _, _ = written
    for other in (expert_of(layers=[2]), expert_of(crop_pct=0.5), expert_of(freeze=False)):
        with pytest.raises(ValueError, match="was made for another expert"):
            read_gate(path, other)


def test_the_gate_of_an_expert_that_is_trained_goes_with_its_weights(tmp_path: Path) -> None:
    expert = expert_of(freeze=False)
    write_gate(tmp_path / "gates" / "image.safetensors", fit_autoencoder(torch.randn(9, expert.width)), expert)
    read_gate(tmp_path / "gates" / "image.safetensors", expert)
    with torch.no_grad():
        next(expert.network.parameters()).add_(1)
    with pytest.raises(ValueError, match="was made for another expert"):
        read_gate(tmp_path / "gates" / "image.safetensors", expert)


def test_a_damaged_file_is_refused(written: tuple[Path, Autoencoder, Expert]) -> None:
    path, _, expert = written
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-10], b"no gate at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a gate"):
            read_gate(path, expert)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no such gate"):
        read_gate(path, expert)
