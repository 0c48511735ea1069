from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from experts.weights import check_sha256, check_weights_source, load_by_order, locate, require_hub, weights_file


def package(root: Path, name: str, *files: str) -> Path:
    folder = root / name
    for file in ("__init__.py", *files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package(tmp_path, "one_file", "deep/weights.pth", "deep/readme.txt")
    package(tmp_path, "one_folder", "model/config.json", "model/model.safetensors", "model/pytorch_model.bin")
    package(tmp_path, "several", "a.pth", "b.safetensors")
    package(tmp_path, "nothing", "readme.txt")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("package:one_file", "one_file/deep/weights.pth"),
        ("package:one_folder", "one_folder/model"),
        ("package:several/b.safetensors", "several/b.safetensors"),
        ("package:several/a.pth", "several/a.pth"),
        ("package:one_folder/model", "one_folder/model"),
    ],
)
def test_package_carries_weights(packages: Path, source: str, found: str) -> None:
    assert locate(source) == packages / found


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("package:no_such_package", ValueError, "no installed package 'no_such_package'.*pip install no-such-package"),
        ("package:no_such_package.part", ValueError, "no installed package 'no_such_package.part'"),
        ("package:.part", ValueError, "no installed package"),
        ("package:", ValueError, "no installed package"),
        ("package:one_file/missing.pth", FileNotFoundError, "no missing.pth in"),
        ("package:several", ValueError, "expected one.*found several/a.pth, several/b.safetensors"),
        ("package:nothing", ValueError, "expected one.*found none"),
        ("./missing", FileNotFoundError, "./missing: no such file or folder"),
        ("/missing/folder", FileNotFoundError, "no such file or folder"),
        ("~/missing/folder", FileNotFoundError, "no such file or folder"),
        ("missing.safetensors", FileNotFoundError, "no such file or folder"),
        ("runs/missing", FileNotFoundError, "no such file or folder"),
    ],
)
def test_weights_that_are_not_there(packages: Path, source: str, error: type[Exception], message: str) -> None:
    for look in (locate, check_weights_source):
        with pytest.raises(error, match=message) as caught:
            look(source)
        assert "\n" not in str(caught.value)


def test_paths_are_found_and_other_names_are_a_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pth"
    file.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate(str(file)) == locate("~/weights.pth") == file
    assert locate("weights.pth") == Path("weights.pth")
    assert locate(".") == Path(".")
    assert locate("organization/model") is None
    assert locate("bert-base-uncased") is None
    check_weights_source(True)
    check_weights_source("organization/model")


def test_weights_file_in_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or pytorch_model\.bin"):
        weights_file(tmp_path)
    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).touch()
        assert weights_file(tmp_path) == weights_file(tmp_path / name) == tmp_path / name


def test_sha256(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    right = hashlib.sha256(b"weights").hexdigest()
    for expected in (right, right.upper(), None):
        check_sha256(file, expected)
        check_sha256(tmp_path, expected)
    with pytest.raises(ValueError, match=f"SHA-256 {right}, the configuration wants {'0' * 64}: refused"):
        check_sha256(file, "0" * 64)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 4))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"block.{chr(ord('z') - position)}": value for position, value in enumerate(state.values())}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.values(), right.values(), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        dict,
        renamed,
        lambda state: dict(reversed(state.items())),
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"state_dict": renamed(state)},
    ],
    ids=["by name", "by order", "by name in another order", "inside a checkpoint", "by order inside a checkpoint"],
)
def test_weights_are_loaded(tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, object]]) -> None:
    state, loaded = dict(network(0).state_dict()), network(1)
    torch.save(change(state), tmp_path / "weights.pth")
    load_by_order(loaded, tmp_path / "weights.pth")
    assert same(loaded.state_dict(), state)


def test_safetensors_are_loaded_by_name(tmp_path: Path) -> None:
    state, loaded = dict(network(0).state_dict()), network(1)
    save_file(state, tmp_path / "weights.safetensors")
    load_by_order(loaded, tmp_path / "weights.safetensors")
    assert same(loaded.state_dict(), state)


def test_safetensors_never_swap_tensors(tmp_path: Path) -> None:
    # the format sorts by type and name: the order of the network that was saved is lost
    stem, head, own = (torch.full((4, 4), value) for value in (1.0, 2.0, 3.0))
    loaded = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    loaded.load_state_dict({"0.weight": own, "1.weight": own})
    save_file({"stem.weight": stem, "head.weight": head}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load_by_order(loaded, tmp_path / "weights.safetensors")
    assert torch.equal(loaded[0].weight, own)


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "3.bias"), "10 tensors in the file, 11 in the network.*only the network has is 3.bias"),
        (lambda s: {**s, "4.bias": torch.zeros(4)}, "12 tensors in the file, 11 in.*only the file has is 4.bias"),
        (lambda s: {}, "0 tensors in the file, 11 in the network.*only the network has is 0.weight"),
        (
            lambda s: {**renamed(s), "block.z": torch.zeros(4, 3, 1), "block.y": torch.zeros(9)},
            r"tensor 0 is block.z of shape \(4, 3, 1\) in the file, 0.weight of shape \(4, 3\) in the network",
        ),
        (lambda s: without(renamed(s), "block.y"), r"tensor 5 is block.t of shape \(\) in the file, 1.running_var"),
        (lambda s: {**s, "2.bias": torch.zeros(5)}, r"2.bias has shape \(5,\) in the file, \(4,\) in the network"),
        (
            lambda s: {"old.weight" if key == "0.weight" else key: s[key] for key in reversed(s)},
            "some names agree, but tensor 0 is 3.bias in the file, 0.weight in the network",
        ),
        (lambda s: {"model": s}, "hold no state dict, but dict"),
        (lambda s: list(s.values()), "hold no state dict, but list"),
    ],
    ids=["too few", "too many", "none", "by order", "one left out", "by name", "swapped", "nested", "list"],
)
def test_weights_that_do_not_fit(tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str) -> None:
    loaded = network(1)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    torch.save(change(dict(network(0).state_dict())), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=message) as caught:
        load_by_order(loaded, tmp_path / "weights.pth")
    assert str(tmp_path / "weights.pth") in str(caught.value)
    assert same(loaded.state_dict(), before)


class MakesAFolder:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "pytorch_model.bin"])
@pytest.mark.parametrize("how", ["pickle", "torch", "torch, before 1.6"])
def test_a_pickled_object_is_refused_and_not_run(tmp_path: Path, how: str, name: str) -> None:
    folder, file = tmp_path / "made", tmp_path / name
    content = {**network().state_dict(), "0.weight": MakesAFolder(folder)}
    if how == "pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))
        pickle.loads(file.read_bytes())
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
        torch.load(file, weights_only=False)
    folder.rmdir()  # the attack works where nobody looks
    with pytest.raises(ValueError, match="cannot be read as plain tensors") as caught:
        load_by_order(network(), file)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["weights.pth", "before 1.6.pth", "weights.safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    file, state, loaded = tmp_path / kind, dict(network(0).state_dict()), network(1)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=kind == "weights.pth")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=kind):
        load_by_order(loaded, file)
    assert same(loaded.state_dict(), before)


@pytest.mark.parametrize("content", [b"hello, this is no file of weights", b"<!DOCTYPE html>\n<html></html>", b"\x80"])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_another_kind_of_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load_by_order(network(), tmp_path / name)


@pytest.mark.parametrize(("switch", "value"), [("TRANSFORMERS_OFFLINE", "true"), ("HTTPS_PROXY", "http://127.0.0.1:9")])
def test_no_hub_is_one_line(monkeypatch: pytest.MonkeyPatch, switch: str, value: str) -> None:
    monkeypatch.setenv(switch, value)
    with pytest.raises(ConnectionError, match=r"'organization/model'.*pretrained: package:NAME") as caught:
        require_hub("organization/model")
    assert "\n" not in str(caught.value)
