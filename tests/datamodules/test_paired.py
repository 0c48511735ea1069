"""Legend: B rows of a batch, R rows of a split, U distinct inputs."""

from __future__ import annotations

import gc
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from datamodules.batch import ABSENT, PairedBatch, gather_rows
from datamodules.loading import BatchLoader, EpochBatches, ResumableLoader
from datamodules.paired import PairedDataModule, Split
from datamodules.rows import NumberedIds, PairedDataset, PairedRows
from datamodules.sources import ImageFiles, RawReader, Source, Texts
from datamodules.synthetic import Dots


class Numerals(Source):
    """The numbers from 0 on; remembers what was read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reads: list[int] = []

    def __len__(self) -> int:
        return self.count

    def load(self, position: int) -> int:
        self.reads.append(position)
        return position

    def name(self, position: int) -> str:
        return f"number {position}"

    def content(self, position: int) -> bytes:
        return str(position).encode()


class Pixels:
    def __call__(self, raw: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(raw.convert("RGB")))

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(items))

    @property
    def for_evaluation(self) -> Pixels:
        return self


class Squares:
    def __call__(self, raw: int) -> Tensor:
        return torch.tensor([raw**2 + 1])

    def collate(self, items: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(items))

    @property
    def for_evaluation(self) -> Squares:
        return self


def dataset(index: Sequence[int], num_inputs: int) -> tuple[PairedDataset, Numerals]:
    source = Numerals(num_inputs)
    rows = PairedRows(
        sources={"number": source},
        index={"number": np.array(index, dtype=np.int64)},
        targets={"row": torch.arange(len(index))},
        ids=NumberedIds("train", np.arange(len(index))),
    )
    return PairedDataset(rows, {"number": RawReader(source, Squares())}), source


def loader(num_workers: int = 0, *, num_rows: int = 11, seed: int = 5) -> ResumableLoader:
    paired, _ = dataset([row % 3 - 1 for row in range(num_rows)], 2)
    return ResumableLoader(
        paired, EpochBatches(num_rows, batch_size=3, shuffle=True, seed=seed), num_workers=num_workers
    )


def at(epoch: int, batches: int) -> dict[str, int]:
    return {"epoch": epoch, "batches": batches, **loader().sampler.settings}


def rows_of(batches: Sequence[PairedBatch]) -> list[list[int]]:
    return [batch.targets["row"].tolist() for batch in batches]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
@pytest.mark.parametrize("num_rows", [0, 1, 8, 9])
def test_each_row_stands_once_in_an_epoch(num_rows: int, batch_size: int, shuffle: bool) -> None:
    batches = EpochBatches(num_rows, batch_size=batch_size, shuffle=shuffle, seed=0)
    found = list(batches)
    assert len(found) == len(batches)
    assert all(len(rows) == batch_size for rows in found[:-1])
    assert all(len(rows) > 0 for rows in found)
    assert sorted(row for rows in found for row in rows) == list(range(num_rows))


def test_rows_of_a_like_size_share_a_batch() -> None:
    sizes = np.random.default_rng(0).integers(100, size=1000)
    batches = EpochBatches(1000, batch_size=8, shuffle=True, seed=0, sizes=sizes)
    epochs = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        epochs.append([rows.tolist() for rows in batches])
    first, second, again = epochs
    assert sorted(row for rows in first for row in rows) == list(range(1000))
    spread, of_all = np.mean([np.ptp(sizes[rows]) for rows in first]), np.ptp(sizes)
    assert spread < of_all / 8
    smallest = [sizes[rows].min() for rows in first]
    assert smallest != sorted(smallest)
    assert first == again
    assert {tuple(sorted(rows)) for rows in first}.isdisjoint(tuple(sorted(rows)) for rows in second)
    batches.start = 100  # of the epoch 0
    assert [rows.tolist() for rows in batches] == first[100:]
    plain = EpochBatches(1000, batch_size=8, shuffle=False, seed=0, sizes=sizes)
    assert np.concatenate(list(plain)).tolist() == list(range(1000))


def test_rows_of_a_group_come_together() -> None:
    groups = np.random.default_rng(0).integers(100, 140, size=1000)
    batches = EpochBatches(1000, batch_size=8, shuffle=True, seed=0, groups=groups)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        orders.append(np.concatenate(list(batches)))
    first, second, again = orders
    assert sorted(first) == list(range(1000))
    assert (np.diff(groups[first]) != 0).sum() == 39
    assert first.tolist() == again.tolist()
    assert groups[first].tolist() != groups[second].tolist()
    of_one = [order[groups[order] == 100].tolist() for order in (first, second)]
    assert sorted(of_one[0]) == sorted(of_one[1])
    assert of_one[0] != of_one[1]
    batches.start = 100  # of the epoch 0
    assert np.concatenate(list(batches)).tolist() == first[800:].tolist()
    plain = EpochBatches(1000, batch_size=8, shuffle=False, seed=0, groups=groups)
    assert np.concatenate(list(plain)).tolist() == list(range(1000))
    assert batches.settings != plain.settings
    with pytest.raises(ValueError, match="by size or by group, not by both"):
        EpochBatches(1000, batch_size=8, shuffle=True, seed=0, sizes=groups, groups=groups)


def order(epoch: int, *, seed: int = 0, shuffle: bool = True) -> list[int]:
    batches = EpochBatches(50, batch_size=7, shuffle=shuffle, seed=seed)
    batches.set_epoch(epoch)
    return [int(row) for rows in batches for row in rows]


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert order(3) == order(3)
    assert len({tuple(order(epoch, seed=seed)) for epoch in range(4) for seed in range(4)}) == 16
    assert order(0, shuffle=False) == order(7, shuffle=False) == list(range(50))


def run(paired: ResumableLoader, until: int) -> list[list[int]]:
    """Go through the epochs, from where the loader is, as Lightning does."""
    found = []
    for epoch in range(paired.sampler.epoch, until):
        paired.sampler.set_epoch(epoch)
        found += rows_of(list(paired))
    return found


@pytest.mark.parametrize("handed_out", range(5))
@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_resumes_at_any_batch(num_workers: int, handed_out: int) -> None:
    undisturbed, killed, resumed = loader(), loader(num_workers), loader(num_workers)
    assert len(undisturbed) == 4
    expected = run(undisturbed, 3)[4:]
    killed.sampler.set_epoch(1)
    assert rows_of(list(islice(iter(killed), handed_out))) == expected[:handed_out]
    resumed.load_state_dict(killed.state_dict())
    assert run(resumed, 3) == expected[handed_out:]


def test_loader_resumes_after_every_batch() -> None:
    state, found = loader().state_dict(), []
    for _ in range(2 * 4):
        resumed = loader()
        resumed.load_state_dict(state)
        found += rows_of(list(islice(iter(resumed), 1)))
        state = resumed.state_dict()
    assert found == run(loader(), 2)


def test_state_at_the_end_of_an_epoch_is_the_beginning_of_the_next() -> None:
    ended, resumed = loader(), loader()
    run(ended, 1)
    resumed.load_state_dict(ended.state_dict())
    assert resumed.state_dict() == at(1, 0)
    assert len(list(resumed)) == len(resumed)


def test_state_that_was_loaded_is_the_state() -> None:
    resumed = loader()
    resumed.load_state_dict(at(2, 3))
    assert resumed.state_dict() == at(2, 3)


def test_an_iteration_that_was_left_is_not_gone_on_with() -> None:
    resumed = loader()
    resumed.load_state_dict(at(0, 3))
    next(iter(resumed))
    assert rows_of(list(resumed)) == run(loader(), 1)
    assert resumed.state_dict() == at(0, 4)


@pytest.mark.parametrize(("key", "now"), [("rows", 12), ("batch_size", 4), ("seed of the order", 6)])
def test_other_batches_are_not_gone_on_with(key: str, now: int) -> None:
    state = {**at(1, 2), key: now}
    with pytest.raises(ValueError, match=f"the checkpoint's epoch has {key} {now}, here it is"):
        loader().load_state_dict(state)


def test_the_order_follows_seed_everything_and_the_splits_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_batches(seed_everything: str) -> list[list[str]]:
        monkeypatch.setenv("PL_GLOBAL_SEED", seed_everything)
        data = Dots(num_pictures=32)
        data.connect({})
        return [list(next(iter(made)).ids) for made in (data.train_dataloader(), data.val_dataloader())]

    zero, one = first_batches("0"), first_batches("1")
    assert zero == first_batches("0")
    assert zero[0] != one[0]
    assert zero[1] == one[1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_leaves_the_random_state_alone(num_workers: int) -> None:
    before = torch.get_rng_state()
    list(loader(num_workers))
    assert torch.equal(torch.get_rng_state(), before)


class Noise(Squares):
    """Draws from all three generators."""

    def __call__(self, raw: int) -> Tensor:
        return torch.tensor([raw, random.random(), np.random.rand(), torch.rand(()).item()])


def test_what_workers_draw_is_drawn_again_after_a_resume() -> None:
    paired, _ = dataset(range(11), 11)
    noisy = PairedDataset(paired.rows, {"number": RawReader(paired.rows.sources["number"], Noise())})

    def noise() -> ResumableLoader:
        return ResumableLoader(noisy, EpochBatches(11, batch_size=3, shuffle=True, seed=5), num_workers=2)

    undisturbed, resumed = noise(), noise()
    expected = [batch.inputs["number"] for batch in undisturbed]
    resumed.load_state_dict({"epoch": 0, "batches": 2})
    for found, batch in zip(resumed, expected[2:], strict=True):
        assert torch.equal(found.inputs["number"], batch)
    resumed.sampler.set_epoch(1)
    values = torch.cat([*expected, *(batch.inputs["number"] for batch in resumed)])[:, 1:]
    assert all(len(set(column.tolist())) == 22 for column in values.T)


# Python's queues complain when a DataLoader is left with work in them
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_workers_draw_differs_from_epoch_to_epoch() -> None:
    paired, _ = dataset(range(3), 3)
    noisy = PairedDataset(paired.rows, {"number": RawReader(paired.rows.sources["number"], Noise())})
    drawn = set()
    for seed in range(2):
        single = ResumableLoader(noisy, EpochBatches(3, batch_size=1, shuffle=True, seed=seed), num_workers=2)
        for epoch in range(2):
            single.sampler.set_epoch(epoch)
            drawn |= {batch.inputs["number"][0, 3].item() for batch in single}
    assert len(drawn) == 2 * 2 * 3


class OwnError(ValueError):
    """As a damaged shard's: it cannot be made of its message alone."""

    def __init__(self, path: str, fault: str) -> None:
        super().__init__(f"{path} {fault}")


class Damaged(Squares):
    def __call__(self, raw: int) -> Tensor:
        raise OwnError("shard", "is damaged")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_any_kind_of_value_error_comes_from_a_worker(num_workers: int) -> None:
    paired, _ = dataset(range(3), 3)
    reader = RawReader(paired.rows.sources["number"], Damaged())
    batches = BatchLoader(lambda rows, _: reader.read(rows), [np.arange(3)], num_workers=num_workers)
    with pytest.raises(ValueError, match="shard is damaged"):
        list(batches)
    del batches
    gc.collect()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_input_that_cannot_be_read_is_named(tmp_path: Path, num_workers: int) -> None:
    rows = PairedRows(
        sources={"image": ImageFiles([picture(tmp_path / "bad.png", damage="empty")])},
        index={"image": np.zeros(1, np.int64)},
        targets={},
        ids=["only"],
    )
    paired = PairedDataset(rows, {"image": RawReader(rows.sources["image"], Pixels())})
    bad = ResumableLoader(paired, EpochBatches(1, batch_size=1, shuffle=False, seed=0), num_workers=num_workers)
    with pytest.raises(ValueError, match=r"^cannot read only: .*bad.png: is empty"):
        list(bad)
    del bad
    gc.collect()  # here, where the complaint is expected


def test_data_module_resumes_training() -> None:
    def module() -> Dots:
        dots = Dots(num_pictures=20, batch_size=8)
        dots.connect({})
        return dots

    interrupted, resumed = module(), module()
    batches = iter(interrupted.train_dataloader())
    next(batches)
    resumed.load_state_dict(interrupted.state_dict())
    expected = [list(batch.ids) for batch in batches]
    assert len(expected) == 4
    assert [list(batch.ids) for batch in resumed.train_dataloader()] == expected


@given(st.data())
def test_dataset_reads_each_distinct_input_once(data: st.DataObject) -> None:
    num_inputs = data.draw(st.integers(0, 5))
    index = data.draw(st.lists(st.integers(ABSENT, num_inputs - 1), min_size=1, max_size=10))
    rows = data.draw(st.lists(st.integers(0, len(index) - 1), max_size=12))
    paired, source = dataset(index, num_inputs)
    batch = paired[np.array(rows, dtype=np.int64)]
    expected = [index[row] for row in rows]
    assert sorted(source.reads) == sorted(set(expected) - {ABSENT})
    assert batch.targets["row"].tolist() == rows
    assert list(batch.ids) == [f"train/{row}" for row in rows]
    assert batch.present("number").tolist() == [position != ABSENT for position in expected]
    if source.reads:
        rows_B1 = gather_rows(batch.inputs["number"], batch.index["number"])
        assert rows_B1.flatten().tolist() == [0 if position == ABSENT else position**2 + 1 for position in expected]
    else:
        assert batch.inputs == {}


def test_only_modalities_with_an_expert_are_read() -> None:
    paired, source = dataset([0, 1], 2)
    batch = PairedDataset(paired.rows, {})[np.array([0, 1])]
    assert (batch.inputs, batch.index, source.reads) == ({}, {}, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"index": {"text": [2, 0]}}, "index of 'text' must be a NumPy array of 2 int64, not list"),
        ({"index": {"text": np.array([2, 0, 1])}}, r"array of 2 int64, not int64 of shape \(3,\)"),
        ({"index": {"text": np.array([2.0, 0.0])}}, r"array of 2 int64, not float64 of shape \(2,\)"),
        ({"index": {"text": np.array([3, 0])}}, "index of 'text' points outside its 3 inputs"),
        ({"index": {}}, r"sources of \['text'\], but an index of \[\]"),
        ({"targets": {"class": np.array([5, 6])}}, "targets of 'class' must be a torch tensor, not ndarray"),
        ({"targets": {"class": torch.tensor([5])}}, "targets of 'class' have 1 rows, not 2"),
    ],
)
def test_rows_that_do_not_fit_together_are_refused(change: dict[str, Any], message: str) -> None:
    rows: dict[str, Any] = {"index": {"text": np.array([2, 0])}, "targets": {"class": torch.tensor([5, 6])}, **change}
    with pytest.raises(ValueError, match=message):
        PairedRows(sources={"text": Texts(["a", "b", "c"])}, ids=["p", "q"], **rows)


def test_selected_rows_keep_their_inputs_targets_and_ids() -> None:
    rows = PairedRows(
        sources={"text": Texts(["a", "b", "c"])},
        index={"text": np.array([2, ABSENT, 0, 2])},
        targets={"class": torch.tensor([5, 6, 7, 8])},
        ids=["p", "q", "r", "s"],
    )
    assert rows.used("text").tolist() == [0, 2]
    chosen = rows.select(np.array([3, 1]))
    assert len(chosen) == 2
    assert chosen.index["text"].tolist() == [2, ABSENT]
    assert chosen.targets["class"].tolist() == [8, 6]
    assert chosen.ids == ["s", "q"]
    assert chosen.used("text").tolist() == [2]
    assert chosen.select(np.array([1])).used("text").tolist() == []


def picture(path: Path, *, damage: str = "") -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    second_chunk = content.index(b"IDAT", content.index(b"IDAT") + 4)
    cut = {"truncated": len(content) // 2, "truncated in a chunk's name": second_chunk + 2, "empty": 0}
    if damage in cut:
        path.write_bytes(content[: cut[damage]])
    elif damage == "a damaged chunk":
        path.write_bytes(content[:second_chunk] + b"\0" + content[second_chunk + 1 :])
    elif damage == "missing":
        path.unlink()
    return path


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        ("truncated", "truncated"),
        ("truncated in a chunk's name", "broken PNG"),
        ("a damaged chunk", "broken PNG"),
        ("empty", "is empty"),
        ("missing", "no such file"),
    ],
)
def test_error_names_the_file_and_the_cause(tmp_path: Path, damage: str, cause: str) -> None:
    paths = [picture(tmp_path / "good.png"), picture(tmp_path / "bad.png", damage=damage)]
    reader = RawReader(ImageFiles(paths), Pixels())
    assert reader.read(np.array([0, 0])).shape == (2, 160, 160, 3)
    with pytest.raises(ValueError, match=cause) as caught:
        reader.read(np.array([0, 1]))
    assert str(caught.value).startswith(f"cannot read {paths[1]}: ")
    assert caught.value.__cause__ is not None


def test_error_names_the_picture_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"large\.png: has more than 1,000 pixels"):
        RawReader(ImageFiles([path]), Pixels()).read(np.array([0]))


def positions(source: Source) -> NDArray[np.int64]:
    return np.arange(len(source))


@given(st.lists(st.text(max_size=3), max_size=8))
def test_keys_are_equal_where_texts_are(texts: list[str]) -> None:
    source = Texts(texts)
    keys = source.keys(positions(source))
    assert keys.dtype == "S16"
    assert [[a == b for b in keys] for a in keys] == [[a == b for b in texts] for a in texts]


def test_keys_are_equal_where_files_content_is(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path, content in zip(paths, (b"one", b"two", b"one"), strict=True):
        path.write_bytes(content)
    first, second, third = ImageFiles(paths).keys(np.arange(3))
    assert first == third != second
    assert ImageFiles(paths[::-1]).keys(np.array([0])).tolist() == [third]


def test_numbered_ids_are_a_sequence() -> None:
    ids = NumberedIds("test", np.array([4, 7, 9]))
    assert list(ids) == ["test/4", "test/7", "test/9"]
    assert (ids[0], ids[np.int64(1)], ids[-1], len(ids)) == ("test/4", "test/7", "test/9", 3)
    assert list(ids[1:]) == ["test/7", "test/9"]
    assert list(ids[np.array([2, 0, 2])]) == ["test/9", "test/4", "test/9"]
    assert "test/7" in ids
    assert list(ids[:0]) == []
    with pytest.raises(IndexError):
        ids[3]


def test_expert_for_a_modality_that_is_not_there() -> None:
    dots = Dots()
    dots.connect({"image": Pixels(), "speech": Pixels()})
    with pytest.raises(ValueError, match=r"experts.speech: Dots has no such modality; it has image, question"):
        dots.train_dataloader()


def test_an_empty_split_is_named() -> None:
    dots = Dots(num_pictures=4)
    rows = dots.load("train")
    assert rows is not None
    dots.load = lambda split: rows.select(np.empty(0, np.int64))  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the val split of Dots has no rows"):
        dots.val_dataloader()


class TestOnly(PairedDataModule):
    __test__ = False  # for pytest: no test case

    @property
    def outputs(self) -> dict[str, list[str]]:
        return {}

    def load(self, split: Split) -> PairedRows | None:
        return dataset([0, 1, ABSENT], 2)[0].rows if split == "test" else None


def test_missing_split_is_an_error_where_it_is_needed() -> None:
    data = TestOnly(batch_size=2)
    data.connect({"number": Squares()})
    with pytest.raises(ValueError, match="TestOnly has no train split"):
        data.train_dataloader()
    assert data.val_dataloader() == []
    assert rows_of(list(data.test_dataloader())) == rows_of(list(data.predict_dataloader())) == [[0, 1], [2]]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_only_training_rows_are_shuffled(split: Split) -> None:
    dots = Dots()
    dots.connect({})
    loaded = dots.dataloader(split)
    assert loaded is not None
    numbers = [int(row.removeprefix(f"{split}/")) for batch in loaded for row in batch.ids]
    assert sorted(numbers) == list(range(len(numbers)))
    assert (numbers != sorted(numbers)) == (split == "train")


def test_batch_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        Dots(batch_size=0)


def test_some_rows_are_kept_the_first_or_those_that_are_drawn() -> None:
    kept = {}
    for drawn in (False, True):
        data = Dots(num_pictures=200)
        data.limit("train", 20, drawn=drawn)
        rows = data.rows("train")
        assert rows is not None
        kept[drawn] = [int(name.removeprefix("train/")) for name in rows.ids]
    assert kept[False] == list(range(20))
    assert kept[True] == sorted(set(kept[True]))
    assert len(kept[True]) == 20
    assert max(kept[True]) > 300
    assert {row % 2 for row in kept[True]} == {0, 1}  # as each second row would not have it


def test_only_rows_that_have_a_modality_are_kept() -> None:
    data = Dots(num_pictures=200, absent=0.2)
    before = data.rows("train")
    assert before is not None
    data.keep_having("train", "question")
    rows = data.rows("train")
    assert rows is not None
    assert 0 < len(rows) < len(before)
    assert (rows.index["question"] != ABSENT).all()
    assert list(rows.ids) == [before.ids[row] for row in np.flatnonzero(before.index["question"] != ABSENT)]


def test_what_the_data_lacks_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    data = Dots()
    data.connect({"image": Pixels(), "speech": Pixels()}, optional=["speech"])
    with caplog.at_level("INFO"):
        batches = [batch for split in ("train", "val") for batch in data.dataloader(split) or ()]
    assert all("speech" not in batch.inputs and not batch.present("speech").any() for batch in batches)
    assert caplog.text.count("Dots has no speech: its rows go without") == 1
