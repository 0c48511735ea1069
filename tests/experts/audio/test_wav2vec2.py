"""Legend: U inputs, S samples, N tokens, D width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio.pipelines
from safetensors.torch import save_file
from torch import Tensor
from torchaudio.models import wav2vec2_model, wavlm_model

from experts.audio import Wav2Vec2Expert
from experts.audio.lengths import by_length, num_outputs, receptive_field
from tests.experts.audio.sounds import check_padding_changes_nothing, tokens_of, tone
from tests.experts.test_features import check_learns, check_travels, collated

RATE = 16_000
SOUNDS = [tone(440, 0.5, rate=RATE), tone(300, 0.13, rate=RATE, seed=1), tone(700, 1.23, rate=8000, seed=2)]
SHORT = [tone(200, 1 / RATE, rate=RATE, seed=3), tone(200, 0.02, rate=RATE, seed=4)]
CONVOLUTIONS = [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2]
TINY: dict[str, Any] = {
    "extractor_conv_layer_config": CONVOLUTIONS,
    "encoder_embed_dim": 16,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_ff_interm_features": 32,
}
# normalised over time; each state by itself, and each waveform; with relative positions and no masks
BUNDLES = ["WAV2VEC2_BASE", "HUBERT_LARGE", "WAVLM_BASE", "WAV2VEC2_ASR_BASE_960H"]


def reference(bundle: str, seed: int = 0) -> Any:
    """torchaudio's own network of a bundle, small, with random weights."""
    torch.manual_seed(seed)
    build = wavlm_model if bundle.startswith("WAVLM") else wav2vec2_model
    network = build(**{**getattr(torchaudio.pipelines, bundle)._params, **TINY}).eval()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):  # or padding would be zero whatever becomes of it
            torch.nn.init.normal_(parameter, std=0.1)
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    found = {bundle: folder / f"{bundle}.safetensors" for bundle in BUNDLES}
    for bundle, path in found.items():
        save_file(reference(bundle).state_dict(), path)
    return found


def build(files: dict[str, Path], bundle: str = BUNDLES[0], **arguments: Any) -> Wav2Vec2Expert:
    return Wav2Vec2Expert(
        bundle, **{"pretrained": str(files.get(bundle)), "architecture": TINY, "precision": "float32", **arguments}
    )


@pytest.mark.parametrize("layers", [None, [0, -1]])
@pytest.mark.parametrize("tokens", ["mean", "all"])
@pytest.mark.parametrize("bundle", BUNDLES)
def test_padding_changes_nothing(files: dict[str, Path], bundle: str, tokens: str, layers: list[int] | None) -> None:
    check_padding_changes_nothing(build(files, bundle, tokens=tokens, layers=layers), [*SOUNDS, *SHORT, SOUNDS[0]])


def test_masks_are_used_where_they_are_exact(files: dict[str, Path]) -> None:
    assert [build(files, bundle)._masked is not None for bundle in BUNDLES] == [False, True, False, False]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_tokens_are_what_torchaudio_gives(files: dict[str, Path], bundle: str) -> None:
    samples_1S = torch.from_numpy(SOUNDS[0][0].T.copy())
    if bundle == "HUBERT_LARGE":
        samples_1S = torch.nn.functional.layer_norm(samples_1S, samples_1S.shape)
    network = reference(bundle)
    network.aux = None
    with torch.no_grad():
        (last_1ND, _), (layers, _) = network(samples_1S), network.extract_features(samples_1S)
    last = tokens_of(build(files, bundle, tokens="all"), [SOUNDS[0]]).tokens_BND
    assert last.shape == (1, 24, 16)
    assert torch.allclose(last, last_1ND, atol=1e-5)
    both = tokens_of(build(files, bundle, tokens="all", layers=[-1, 0]), [SOUNDS[0]]).tokens_BND
    assert torch.allclose(both, torch.cat([layers[1], layers[0]], dim=-1), atol=1e-5)
    mean = tokens_of(build(files, bundle), [SOUNDS[0]]).tokens_BND
    assert torch.allclose(mean, last_1ND.mean(1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("bundle", BUNDLES)
def test_a_short_sound_is_followed_by_silence(files: dict[str, Path], bundle: str) -> None:
    expert = build(files, bundle, tokens="all")
    samples_T1, rate = SHORT[1]
    filled = np.pad(samples_T1, ((0, 1600 - len(samples_T1)), (0, 0))), rate
    assert torch.equal(tokens_of(expert, [SHORT[1]]).tokens_BND, tokens_of(expert, [filled]).tokens_BND)


def test_weights_come_from_a_pickled_state_dict_too(files: dict[str, Path], tmp_path: Path) -> None:
    torch.save(reference(BUNDLES[0]).state_dict(), tmp_path / "tiny.pth")
    assert build(files).fingerprint() == build(files, pretrained=str(tmp_path / "tiny.pth")).fingerprint()


def test_fingerprint_tells_what_changes_the_tokens(files: dict[str, Path]) -> None:
    others: list[dict[str, Any]] = [
        {"layers": [0]},
        {"tokens": "all"},
        {"max_seconds": 1.0},
        {"pretrained": False},
        {"bundle": "HUBERT_LARGE"},
    ]
    prints = [build(files, **arguments).fingerprint() for arguments in others]
    assert len({build(files).fingerprint(), *prints}) == len(others) + 1
    expert = build(files)
    tokens_of(expert, SOUNDS)
    assert expert.fingerprint() == build(files).fingerprint()
    assert build(files, pretrained=False).fingerprint() == prints[3]


def test_frozen_is_frozen(files: dict[str, Path]) -> None:
    expert = build(files).train()
    assert not any(parameter.requires_grad for parameter in expert.parameters())
    assert expert.why_not_stored() is None
    assert torch.equal(tokens_of(expert, SOUNDS).tokens_BND, tokens_of(expert, SOUNDS).tokens_BND)
    assert expert.label() == "Wav2Vec2Expert WAV2VEC2_BASE"


@pytest.mark.parametrize("bundle", BUNDLES)
def test_every_parameter_learns(files: dict[str, Path], bundle: str) -> None:
    expert = build(files, bundle, freeze=False)
    check_learns(expert, collated(expert, SOUNDS))


def test_runs_in_bfloat16(files: dict[str, Path]) -> None:
    expected, found = (tokens_of(build(files, precision=kind), SOUNDS) for kind in ("float32", "bfloat16"))
    assert found.tokens_BND.dtype == torch.bfloat16
    assert torch.allclose(found.tokens_BND.float(), expected.tokens_BND, atol=0.1)


def test_travels(files: dict[str, Path]) -> None:
    check_travels(build(files), SOUNDS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"bundle": "WAV2VEC_BASE"}, ValueError, "no speech encoder 'WAV2VEC_BASE'; the nearest are WAV2VEC2_BASE"),
        ({"bundle": "TACOTRON2_WAVERNN_CHAR_LJSPEECH"}, ValueError, "torchaudio has no speech encoder"),
        ({"layers": [2]}, ValueError, "has 2 layers, 0 to 1; got layers: \\[2\\]"),
        ({"layers": []}, ValueError, "has 2 layers"),
        ({"max_seconds": 0.0}, ValueError, "max_seconds must be above 0"),
        ({"architecture": {"layers": 2}}, ValueError, "unknown key 'layers'; known are extractor_mode"),
        ({"architecture": {}}, ValueError, "do not fit"),
        ({"pretrained": True}, ValueError, "give a file, or pretrained: false"),
        ({"pretrained": True, "architecture": {}}, ConnectionError, "model 'WAV2VEC2_BASE' is not on this machine"),
        ({"pretrained": "no.pth"}, FileNotFoundError, "no.pth: no such file"),
        ({"pretrained": "nothing"}, FileNotFoundError, "a state dict is a local file"),
        ({"pretrained": False, "sha256": "0"}, ValueError, "sha256 of 'WAV2VEC2_BASE' needs"),
        ({"sha256": "0"}, ValueError, "the configuration wants 0: refused"),
    ],
    ids=str,
)
def test_refuses(
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(error, match=message) as caught:
        build(files, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [400, 719, 720, 16_000])
def test_outputs_are_counted_as_the_network_makes_them(length: int) -> None:
    convolutions = [(kernel, stride) for _, kernel, stride in CONVOLUTIONS]
    features, _ = reference(BUNDLES[0]).feature_extractor(torch.zeros(1, length), None)
    assert num_outputs(torch.tensor([length]), convolutions).tolist() == [features.shape[1]]
    assert receptive_field(convolutions) == 400


def test_groups_of_one_length_are_put_back_in_order() -> None:
    lengths_U = torch.tensor([3, 1, 3, 2])
    inputs_UT = torch.arange(12.0).view(4, 3)
    seen: list[tuple[int, ...]] = []

    def run(group_GT: Tensor, lengths: Tensor | None) -> Tensor:
        assert lengths is None
        seen.append(tuple(group_GT.shape))
        return group_GT.unsqueeze(2)

    hidden_UND, num_tokens_U = by_length(run, inputs_UT, lengths_U)
    assert seen == [(1, 1), (1, 2), (2, 3)]
    assert hidden_UND.squeeze(2).tolist() == [[0, 1, 2], [3, 0, 0], [6, 7, 8], [9, 10, 0]]
    assert torch.equal(num_tokens_U, lengths_U)
