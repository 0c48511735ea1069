"""Legend: U inputs, N tokens, D width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from crossmodal.optimization import parameter_groups, with_scaled_rates
from experts.adapters import Lora, ProjectedExpert, TunedExpert
from experts.base import Expert, ExpertTokens
from experts.text import TextExpert
from experts.wrapping import WrappingExpert
from tests.experts.test_base import PIXELS_UCHW, TinyExpert, image_expert, text_expert

TEXTS = ["what colour is it?", "how many?"]
Build = Callable[[], Expert]


def text() -> TextExpert:
    return text_expert(freeze=False, layers=[1, 6])


def image() -> Expert:
    return image_expert(freeze=False)


def inputs_of(expert: Expert) -> Any:
    return expert.transform.collate(TEXTS) if hasattr(expert.transform, "tokenizer") else PIXELS_UCHW


def step(expert: Expert) -> None:
    """Change all that trains, a little and at random."""
    expert.train()
    expert(inputs_of(expert)).tokens_BND.square().mean().backward()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in expert.parameters():
            if parameter.requires_grad and parameter.grad is not None:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    expert.eval()


def changed(before: dict[str, torch.Tensor], expert: Expert) -> set[str]:
    return {name for name, value in expert.state_dict().items() if not torch.equal(before[name], value)}


def copied(expert: Expert) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in expert.state_dict().items()}


@pytest.mark.parametrize("build", [text, image])
def test_lora_changes_nothing_at_first_and_only_itself_later(build: Build) -> None:
    plain, tuned = build().eval(), TunedExpert(build(), lora=Lora(rank=2)).eval()
    inputs = inputs_of(plain)
    torch.testing.assert_close(tuned(inputs).tokens_BND, plain(inputs).tokens_BND, rtol=0, atol=1e-6)
    before = copied(tuned)
    step(tuned)
    assert changed(before, tuned) == {name for name, one in tuned.named_parameters() if one.requires_grad}
    assert all(".lora_" in name for name in changed(before, tuned))
    assert (tuned(inputs).tokens_BND - plain(inputs).tokens_BND).abs().max() > 0.01


@pytest.mark.parametrize("build", [text, image])
def test_merged_equals_unmerged(build: Build) -> None:
    tuned = TunedExpert(build(), lora=Lora(rank=4, alpha=8))
    step(tuned)
    merged = tuned.merged()
    assert [name for name, _ in merged.named_parameters()] == [name for name, _ in build().named_parameters()]
    inputs = inputs_of(merged)
    expected = tuned(inputs).tokens_BND
    assert ((merged(inputs).tokens_BND - expected).norm() / expected.norm()) < 1e-5


def test_only_named_layers_are_changed() -> None:
    tuned = TunedExpert(text(), lora=Lora(target_modules=["query", "layer.5.output.dense"]))
    layers = {name.partition(".lora_")[0] for name, one in tuned.named_parameters() if one.requires_grad}
    assert len(layers) == 7
    assert all(name.endswith((".query", "layer.5.output.dense")) for name in layers)


def test_a_name_that_matches_nothing_is_refused() -> None:
    told = r"lora.target_modules: no layer is called 'querry'; the expert has dense, key, query, value"
    with pytest.raises(ValueError, match=told):
        TunedExpert(text(), lora=Lora(target_modules=["query", "querry"]))


def test_layers_of_torchs_own_attention_cannot_be_changed() -> None:
    expert = TinyExpert(freeze=False)
    expert.network.append(nn.MultiheadAttention(8, 2))
    with pytest.raises(ValueError, match="no layer is called 'out_proj'; the expert has 1"):
        TunedExpert(expert, lora=Lora(target_modules=["out_proj"]))


def test_layers_that_torch_may_leave_uncalled_are_not_changed() -> None:
    expert = TinyExpert(freeze=False)
    expert.network.append(nn.TransformerEncoderLayer(8, 2, batch_first=True))
    tuned = TunedExpert(expert, lora=Lora(rank=2))
    assert not [name for name, one in tuned.named_parameters() if one.requires_grad and "linear1" in name]


def test_a_recurrent_network_stays_in_training_mode() -> None:
    expert = TinyExpert(freeze=False)
    expert.network.append(nn.GRU(8, 8))
    tuned = TunedExpert(expert, lora=Lora(rank=2)).train()
    assert tuned.network.network[-1].training  # type: ignore[index, union-attr]
    assert not tuned.network.network[2].training  # type: ignore[index, union-attr]
    assert not tuned.eval().network.network[-1].training  # type: ignore[index, union-attr]


@pytest.mark.parametrize("build", [text, image])
@pytest.mark.parametrize("count", [1, 2])
def test_the_last_layers_train(build: Build, count: int) -> None:
    tuned = TunedExpert(build(), last_layers=count)
    before = copied(tuned)
    step(tuned)
    told = {name for name, one in tuned.named_parameters() if one.requires_grad}
    assert 0 < len(told) < len(list(tuned.parameters()))
    norms = {name for name in changed(before, tuned) if "running_" in name or "num_batches" in name}
    assert changed(before, tuned) - norms <= told
    holders = {name.rpartition(".")[0] for name in told}
    assert {name.rpartition(".")[0] for name in norms} <= holders  # the statistics of what is frozen stay


def test_what_does_not_train_is_in_eval_mode() -> None:
    tuned = TunedExpert(text(), last_layers=2).train()
    modes = {name: module.training for name, module in tuned.network.named_modules() if isinstance(module, nn.Dropout)}
    assert {name.split(".")[3] for name, mode in modes.items() if mode and "layer" in name} == {"4", "5"}
    assert not modes["network.embeddings.dropout"]
    assert not any(module.training for module in tuned.eval().modules())


def test_earlier_layers_learn_more_slowly() -> None:
    tuned = TunedExpert(text(), layer_decay=0.5)
    optimizer = with_scaled_rates(torch.optim.AdamW(parameter_groups(tuned), lr=1.0))
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    by_name = {name: rates[id(one)] for name, one in tuned.named_parameters()}
    assert len(by_name) == len(rates) == len(list(tuned.parameters()))
    embeddings = by_name["network.network.embeddings.word_embeddings.weight"]
    first, last = (by_name[f"network.network.encoder.layer.{n}.attention.self.query.weight"] for n in (0, 5))
    assert (embeddings, first, last) == (0.5**6, 0.5**5, 1)


def test_the_rates_of_lora_follow_its_layers() -> None:
    tuned = TunedExpert(text(), lora=Lora(target_modules=["query"]), layer_decay=0.5)
    scales = tuned.rate_scales()
    assert scales["network.network.encoder.layer.0.attention.self.query.lora_A.default.weight"] == 0.5**5


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"lora": Lora(rank=0)}, "rank"),
        ({"lora": Lora(dropout=1.0)}, "dropout"),
        ({"lora": Lora(), "last_layers": 1}, "not both"),
        ({"last_layers": 0}, "the expert has 7 layers, so 1 to 7, not 0"),
        ({"last_layers": 9}, "the expert has 7 layers, so 1 to 7, not 9"),
        ({"layer_decay": 0.0}, "layer_decay"),
    ],
)
def test_numbers_out_of_range(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TunedExpert(text_expert(freeze=False), **arguments)


def test_a_frozen_expert_cannot_be_tuned() -> None:
    with pytest.raises(ValueError, match="TextExpert is frozen: set its `freeze: false`"):
        TunedExpert(text_expert(), last_layers=1)


@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("tokens", ["mean", "all"])
def test_projected(hidden: int, tokens: Any) -> None:
    expert = ProjectedExpert(text_expert(tokens="all"), width=5, hidden=hidden, tokens=tokens)
    inputs = inputs_of(expert)
    found = expert(inputs)
    assert found.tokens_BND.shape == (2, 1 if tokens == "mean" else inputs["input_ids"].shape[1], 5)
    assert not found.tokens_BND[~found.mask_BN].any()
    alone = expert(expert.transform.collate(TEXTS[1:]))
    torch.testing.assert_close(found.tokens_BND[1:, : alone.tokens_BND.shape[1]], alone.tokens_BND)
    found.tokens_BND.sum().backward()
    assert all(one.grad is not None for one in expert.map.parameters())
    assert not any(one.requires_grad for one in expert.network.parameters())
    assert expert.why_not_stored() == "it is trained"


def test_what_is_frozen_within_is_left_alone() -> None:
    """No gradient flows through it: what was put there would never train."""
    lora = TunedExpert(ProjectedExpert(text_expert(), width=5, hidden=3), lora=Lora(rank=2))
    last = TunedExpert(ProjectedExpert(text_expert(), width=5, hidden=3), last_layers=1)
    for tuned in (lora, last):
        told = {name for name, one in tuned.named_parameters() if one.requires_grad}
        assert told
        assert all(name.startswith("network.map.") for name in told)
    whole = TunedExpert(ProjectedExpert(text_expert(), width=5), layer_decay=0.5).train()
    assert not any(module.training for module in whole.network.network.network.modules())  # type: ignore[union-attr]
    assert whole.network.map.training  # type: ignore[union-attr]
    merged = lora.merged()
    assert {name.split(".")[0] for name, one in merged.named_parameters() if one.requires_grad} == {"map"}
    with pytest.raises(ValueError, match="the expert has no layer that it could change"):
        TunedExpert(Around(text_expert()), lora=Lora(rank=2))


class Around(WrappingExpert):
    def encode(self, inputs: Any) -> ExpertTokens:
        return self.network.encode(inputs)
