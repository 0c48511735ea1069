"""Legend: U distinct inputs, B rows, N tokens, D width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from crossmodal.fusion import ConcatFusion, Fusion
from crossmodal.heads import ClassificationHead, Head, RegressionHead
from crossmodal.joining import Joined, add_joined, begin_joined, lacking
from crossmodal.model import CrossModalModel
from datamodules.batch import PairedBatch
from experts.base import Expert, ExpertTokens
from tests.crossmodal.test_model import FUSIONS, WIDTH, Tiny, batch_of, row_of

WIDTHS = {"image": 5, "question": 7, "speech": 7, "labs": 4}
OUTPUTS = {"answer": list("abcd"), "price": ["euros"]}


def built(kind: str, *names: str, joined: dict[str, Joined] | None = None, freeze: bool = False) -> CrossModalModel:
    joined = joined or {}
    experts: dict[str, Expert] = {}
    for name in names:
        torch.manual_seed(WIDTHS[name] + len(name))  # a new one is the same in each model
        experts[name] = Tiny(WIDTHS[name], freeze=freeze)
    fusion: Fusion = FUSIONS[kind]([name for name in names if name not in joined])
    newcomer = add_joined(fusion, experts, joined)
    heads: dict[str, Head] = {"answer": ClassificationHead(WIDTH, 4), "price": RegressionHead(WIDTH, 1)}
    return shaken(CrossModalModel(experts, fusion, heads, newcomer=newcomer))


def shaken(model: CrossModalModel, *, only: set[str] | None = None) -> CrossModalModel:
    """What begins as zero must not hide what depends on it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if only is None or name in only:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def saved(model: CrossModalModel, path: Path, **also: object) -> str:
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"global_step": 1, "state_dict": state, "outputs": OUTPUTS, **also}, path)
    return str(path)


@pytest.fixture(params=FUSIONS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def before(kind: str, tmp_path: Path) -> tuple[CrossModalModel, str]:
    model = built(kind, "image", "question")
    return model, saved(model, tmp_path / "before.ckpt")


def extended(kind: str, path: str, *, like: str | None = None, trained: bool = True) -> CrossModalModel:
    model = built(kind, "image", "question", "speech", joined={"speech": Joined(path, like)})
    assert model.newcomer is not None
    begin_joined(model, Joined(path, like), OUTPUTS)
    return shaken(model, only=model.own_state("speech")) if trained else model


def modes(model: CrossModalModel) -> set[str]:
    """The modules in training mode."""
    return {name for name, module in model.named_modules() if module.training}


OLD = {"image": [0, 0, 1, -1, -1], "question": [0, 1, -1, 1, -1]}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for task, outputs_BC in one.items():
        assert torch.equal(outputs_BC, other[task])


def test_rows_without_the_newcomer_are_answered_as_before(kind: str, before: tuple[CrossModalModel, str]) -> None:
    old, path = before
    batch = batch_of(OLD)
    assert_equal(extended(kind, path)(lacking(batch, ["speech"])), old(batch))


def test_in_a_batch_with_others_too(kind: str, before: tuple[CrossModalModel, str]) -> None:
    old, path = before
    mixed = batch_of({**OLD, "speech": [-1, 0, -1, 1, -1]})
    rows = torch.tensor([0, 2, 4])
    alone = PairedBatch(
        {name: mixed.inputs[name] for name in ("image", "question")},
        {name: mixed.index[name][rows] for name in ("image", "question")},
        {},
        ["", "", ""],
    )
    answers, expected = extended(kind, path)(mixed), old(alone)
    for task in answers:
        assert torch.equal(answers[task][rows], expected[task])
        assert not torch.equal(answers[task][[1, 3]], old(batch_of(OLD))[task][[1, 3]])


index_of_five = st.lists(st.integers(-1, 2), min_size=5, max_size=5)


@given(image=index_of_five, question=index_of_five, speech=index_of_five, labs=index_of_five)
@pytest.mark.parametrize("name", FUSIONS)
def test_each_row_is_answered_as_if_it_were_alone(
    name: str, image: list[int], question: list[int], speech: list[int], labs: list[int]
) -> None:
    torch.manual_seed(0)
    model = built(name, "image", "question", "speech", "labs", joined={"speech": Joined(""), "labs": Joined("")})
    batch = batch_of({"image": image, "question": question, "speech": speech, "labs": labs})
    answers = model(batch)
    for row in range(5):
        for task, outputs_1C in model(row_of(batch, row)).items():
            assert_close(answers[task][[row]], outputs_1C, rtol=1e-4, atol=1e-5)


def test_an_empty_batch(kind: str) -> None:
    model = built(kind, "image", "speech", joined={"speech": Joined("")})
    batch = PairedBatch({}, {"image": torch.zeros(0).long(), "speech": torch.zeros(0).long()}, {}, [])
    assert model(batch)["answer"].shape == (0, 4)


def test_only_what_is_new_trains(kind: str, before: tuple[CrossModalModel, str]) -> None:
    old, path = before
    model = extended(kind, path)
    own = model.own_state("speech")
    assert own == model.state_dict().keys() - old.state_dict().keys()
    assert {name for name, one in model.named_parameters() if one.requires_grad} == own
    assert not any(module.training for module in model.modules())  # `shaken` left it in eval mode
    fresh = CrossModalModel(dict(model.experts), model.fusion, {}, newcomer="speech")  # type: ignore[arg-type]
    assert modes(fresh) == {name for name in modes(fresh) if name.startswith(("experts.speech", "projections.speech"))}
    assert "projections.speech.linear" in modes(fresh)  # in the mode in which Lightning finds it
    model.train()
    training = {name for name, module in model.named_modules() if module.training}
    assert training == {
        name for name, _ in model.named_modules() if name.startswith(("experts.speech", "projections.speech"))
    }
    sum(one.sum() for one in model(batch_of({**OLD, "speech": [0, 0, 1, -1, -1]})).values()).backward()
    with_gradient = {name for name, one in model.named_parameters() if one.grad is not None and one.grad.any()}
    assert with_gradient == own


def test_the_weights_of_the_model_before_are_taken(kind: str, before: tuple[CrossModalModel, str]) -> None:
    old, path = before
    state = extended(kind, path).state_dict()
    for name, value in old.state_dict().items():
        assert torch.equal(state[name], value)


@pytest.mark.parametrize("like", ["question", "speech"])
def test_like_another_it_is_read_as_that(kind: str, before: tuple[CrossModalModel, str], like: str) -> None:
    _, path = before
    model = extended(kind, path, like="question", trained=False)
    if like == "speech":  # a second one, like the first
        first = saved(model, Path(path).with_name("first.ckpt"))
        joined = {"speech": Joined(path), "labs": Joined(first, "speech")}
        WIDTHS["labs"] = WIDTHS["speech"]
        model = built(kind, "image", "question", "speech", "labs", joined=joined)
        WIDTHS["labs"] = 4
        begin_joined(model, joined["labs"], OUTPUTS)
        model.experts["labs"].load_state_dict(model.experts["speech"].state_dict())
    newcomer = model.newcomer
    assert newcomer is not None
    model.experts[newcomer].load_state_dict(model.experts["question"].state_dict())
    model.experts["speech"].load_state_dict(model.experts["question"].state_dict())
    written = batch_of({"image": [0, 1, -1], "question": [0, 1, 2], "speech": [-1, -1, -1]})
    written = lacking(written, model.experts)
    spoken = PairedBatch(
        {"image": written.inputs["image"], newcomer: written.inputs["question"]},
        {**written.index, newcomer: written.index["question"], "question": written.index["speech"]},
        {},
        written.ids,
    )
    assert_close(model.eval()(spoken), model(written), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused(kind: str, before: tuple[CrossModalModel, str], tmp_path: Path) -> None:
    _, path = before
    other = saved(built(kind, "image"), tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"model\.joined\.speech\.model: .*other\.ckpt does not fit: it is of another"):
        extended(kind, other)
    classes = saved(built(kind, "image", "question"), tmp_path / "classes.ckpt", outputs={"answer": ["x"]})
    with pytest.raises(ValueError, match="it was trained for answer: x; the data has answer: a, b, c, d"):
        extended(kind, classes)
    (tmp_path / "none.ckpt").write_text("no")
    with pytest.raises(ValueError, match=r"none\.ckpt is no checkpoint"):
        extended(kind, str(tmp_path / "none.ckpt"))
    with pytest.raises(ValueError, match=r"speech\.like: its tokens have width 7, those of 'image' 5: train an expert"):
        extended(kind, path, like="image")
    with pytest.raises(ValueError, match=r"model\.joined\.speech\.like: 'text' is none of image, question"):
        extended(kind, path, like="text")
    with pytest.raises(ValueError, match=r"model\.joined\.labs: there is no expert for it; there are image, speech"):
        built(kind, "image", "speech", joined={"labs": Joined(path)})


@pytest.mark.parametrize("name", ["keys", "training", "type"])
def test_a_name_that_torch_has_taken_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"experts\.{name}: torch has that name for something else"):
        add_joined(None, {name: Tiny(5, freeze=True)}, {})


def test_a_frozen_expert_must_be_the_one_that_it_was(kind: str, tmp_path: Path) -> None:
    old = built(kind, "image", freeze=True)
    prints = {"image": old.experts["image"].identity()}  # type: ignore[operator]
    path = saved(old, tmp_path / "frozen.ckpt", frozen_experts=prints)
    torch.manual_seed(5)
    model = built(kind, "image", "speech", joined={"speech": Joined(path)}, freeze=True)
    begin_joined(model, Joined(path), OUTPUTS)
    model.experts["image"] = Tiny(5, freeze=True)
    with pytest.raises(ValueError, match="trained with another frozen expert for 'image'"):
        begin_joined(model, Joined(path), OUTPUTS)


def test_a_fusion_that_takes_no_more_is_refused() -> None:
    class Fixed(Fusion):
        def forward(self, tokens: dict[str, ExpertTokens]) -> Tensor:
            return torch.zeros(1, 1, self.width)

    with pytest.raises(ValueError, match="Fixed has no method `add`, so that no modality can join it"):
        Fixed(["image"], width=2).join("speech")
    with pytest.raises(ValueError, match=r"model\.joined: modalities join a fusion, but there is none"):
        add_joined(None, {}, {"speech": Joined("")})


def test_what_joins_begins_by_saying_nothing() -> None:
    fusion = ConcatFusion(["image"], width=2, hidden=4, dropout=0)
    token = ExpertTokens(torch.randn(3, 1, 2), torch.ones(3, 1, dtype=torch.bool))
    before = fusion({"image": token})
    fusion.join("speech")
    assert torch.equal(fusion({"image": token, "speech": token}), before)
    assert isinstance(fusion.added["speech"], nn.Linear)
