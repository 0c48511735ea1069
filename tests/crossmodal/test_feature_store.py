"""Legend: U inputs, N tokens, D width."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crossmodal.feature_files import DamagedShardError, Shard, entries, shard_paths
from crossmodal.feature_store import FeatureStore, ShardWriter, StoredTokens
from experts.base import ExpertTokens

WIDTH = 8


def keys_of(numbers: range) -> NDArray[np.bytes_]:
    return np.array([hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in numbers], "S16")


def tokens_of(numbers: range, *, width: int = WIDTH, num_tokens: int = 2) -> ExpertTokens:
    """The tokens of an input are a function of its number, so that any process can tell whether they are right."""
    rows = [torch.arange(num_tokens * width).float().view(num_tokens, width) + 1000 * number for number in numbers]
    return ExpertTokens(torch.stack(rows), torch.ones(len(numbers), num_tokens, dtype=torch.bool))


def ragged(lengths: list[int], dtype: torch.dtype, *, seed: int = 0) -> ExpertTokens:
    tokens_UND = torch.randn(len(lengths), max(lengths), WIDTH, generator=torch.Generator().manual_seed(seed))
    mask_UN = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return ExpertTokens(tokens_UND.masked_fill(~mask_UN.unsqueeze(-1), 0).to(dtype), mask_UN)


def equal(actual: ExpertTokens, expected: ExpertTokens) -> bool:
    return (
        actual.tokens_BND.dtype == expected.tokens_BND.dtype
        and torch.equal(actual.tokens_BND, expected.tokens_BND)
        and torch.equal(actual.mask_BN, expected.mask_BN)
    )


def take(tokens: ExpertTokens, rows: list[int]) -> ExpertTokens:
    """Some rows, padded to the longest of them."""
    mask_UN = tokens.mask_BN[rows]
    longest = int(mask_UN.sum(1).max())
    return ExpertTokens(tokens.tokens_BND[rows, :longest], mask_UN[:, :longest])


def write(folder: Path, keys: NDArray[np.bytes_], tokens: ExpertTokens) -> Path:
    before = set(shard_paths(folder))
    writer = FeatureStore(folder.parent).writer(folder.name, {"class": "Test"})
    writer.add(keys, tokens)
    writer.flush()
    (path,) = set(shard_paths(folder)) - before
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[3] * 7, [1] * 7, [3, 1, 0, 5, 2, 2, 4]], ids=["fixed", "single", "ragged"])
@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("mapped_bytes", [2**20, 0])
def test_round_trip(tmp_path: Path, dtype: torch.dtype, lengths: list[int], num_shards: int, mapped_bytes: int) -> None:
    tokens, keys = ragged(lengths, dtype), keys_of(range(7))
    writer = FeatureStore(tmp_path).writer("f", {})
    for rows in np.array_split(np.arange(7), num_shards):
        writer.add(keys[rows], ExpertTokens(tokens.tokens_BND[rows], tokens.mask_BN[rows]))
        writer.flush()
    stored = StoredTokens(tmp_path / "f", mapped_bytes=mapped_bytes)
    assert (len(stored), len(stored.shards)) == (7, num_shards)
    for rows in ([0, 1, 2, 3, 4, 5, 6], [6, 0, 3], [4, 4, 1], [5]):
        assert equal(stored.gather(stored.find(keys[rows])), take(tokens, rows))


def test_shards_are_cut_at_their_size(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, shard_bytes=3 * 2 * WIDTH * 4)
    for number in range(7):
        writer.add(keys_of(range(number, number + 1)), tokens_of(range(number, number + 1)))
    writer.flush()
    writer.flush()  # nothing is left to write
    stored = StoredTokens(tmp_path)
    assert [len(shard) for shard in stored.shards] == [3, 3, 1]
    assert equal(stored.gather(stored.find(keys_of(range(7)))), tokens_of(range(7)))


def test_nothing_is_found_in_an_empty_store(tmp_path: Path) -> None:
    stored = FeatureStore(tmp_path / "absent").open("f")
    assert len(stored) == 0
    assert stored.find(keys_of(range(3))).tolist() == [-1, -1, -1]
    assert list(entries(tmp_path / "absent", verify=True)) == []
    assert not (tmp_path / "absent").exists()


def test_missing_keys_have_no_row(tmp_path: Path) -> None:
    write(tmp_path / "f", keys_of(range(0, 10, 2)), tokens_of(range(0, 10, 2)))
    rows = FeatureStore(tmp_path).open("f").find(keys_of(range(10)))
    assert (rows >= 0).tolist() == [True, False] * 5


def test_a_key_in_two_shards_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "f", keys_of(range(5)), tokens_of(range(5)))
    write(tmp_path / "f", keys_of(range(3, 8)), tokens_of(range(3, 8)))
    stored = FeatureStore(tmp_path).open("f")
    assert len(stored.shards) == 2
    assert equal(stored.gather(stored.find(keys_of(range(8)))), tokens_of(range(8)))


def test_the_same_content_is_one_shard(tmp_path: Path) -> None:
    for _ in range(2):
        writer = FeatureStore(tmp_path).writer("f", {})
        writer.add(keys_of(range(5)), tokens_of(range(5)))
        writer.flush()
    assert len(shard_paths(tmp_path / "f")) == 1


def test_a_new_store_sees_what_was_written_later(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    early = store.open("f")
    write(tmp_path / "f", keys_of(range(3)), tokens_of(range(3)))
    assert (len(early), len(store.open("f"))) == (0, 3)


@settings(max_examples=40)
@given(data=st.data(), lengths=st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_gather_keeps_the_order_of_the_keys(data: st.DataObject, lengths: list[int]) -> None:
    raw = st.one_of(
        st.binary(min_size=16, max_size=16), st.integers(0, 255).map(lambda last: bytes(15) + bytes([last]))
    )
    keys = np.array(data.draw(st.lists(raw, min_size=len(lengths), max_size=len(lengths), unique=True)), dtype="S16")
    cuts = sorted(data.draw(st.lists(st.integers(1, len(lengths)), max_size=2)))
    asked = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=20))
    tokens = ragged(lengths, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        writer = FeatureStore(Path(folder)).writer("f", {})
        for begin, end in itertools.pairwise([0, *cuts, len(lengths)]):
            if begin < end:
                writer.add(keys[begin:end], ExpertTokens(tokens.tokens_BND[begin:end], tokens.mask_BN[begin:end]))
                writer.flush()
        stored = FeatureStore(Path(folder)).open("f")
        assert equal(stored.gather(stored.find(keys[asked])), take(tokens, asked))


def test_pickles_as_a_path(tmp_path: Path) -> None:
    write(tmp_path / "f", keys_of(range(50)), tokens_of(range(50)))
    stored = StoredTokens(tmp_path / "f", mapped_bytes=12345)
    pickled = pickle.dumps(stored)
    assert len(pickled) < 1000
    again: StoredTokens = pickle.loads(pickled)
    assert again.mapped_bytes == 12345
    assert equal(again.gather(again.find(keys_of(range(9, 4, -1)))), tokens_of(range(9, 4, -1)))


@pytest.mark.parametrize("kept", [0, 4, 8, 60, 0.5, -1], ids=str)
def test_a_truncated_shard_is_named(tmp_path: Path, kept: float) -> None:
    path = write(tmp_path / "f", keys_of(range(5)), tokens_of(range(5)))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept == 0.5 else int(kept)])
    with pytest.raises(DamagedShardError) as raised:
        FeatureStore(tmp_path).open("f")
    assert str(path) in str(raised.value)
    assert "crossmodal cache verify" in str(raised.value)
    (entry,) = entries(tmp_path)
    assert (list(entry.faults), entry.inputs) == ([path], 0)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "f", keys_of(range(5)), tokens_of(range(5)))
    other = write(tmp_path / "f", keys_of(range(5, 7)), tokens_of(range(5, 7)))
    content = path.read_bytes()
    first = 8 + int.from_bytes(content[:8], "little")
    for position in (first, (first + len(content)) // 2, len(content) - 1):
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        (entry,) = entries(tmp_path, verify=True)
        assert list(entry.faults) == [path]
    path.write_bytes(content)
    (entry,) = entries(tmp_path, verify=True)
    assert (entry.faults, entry.inputs) == ({}, 7)
    assert entry.num_bytes == path.stat().st_size + other.stat().st_size


def test_any_flipped_bit_of_the_header_is_refused_or_harmless(tmp_path: Path) -> None:
    path = write(tmp_path / "f", keys_of(range(5)), tokens_of(range(5)))
    content, expected = path.read_bytes(), Shard(path).tokens.copy()
    header_bytes = int.from_bytes(content[:8], "little")
    wrong: list[str] = []
    for position, bit in itertools.product(range(8 + header_bytes), range(8)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            shard = Shard(path)
            if shard.fault() is None and not np.array_equal(shard.tokens, expected):
                wrong.append(f"byte {position} bit {bit}: read wrongly")
        except DamagedShardError:
            continue
        except Exception as error:
            wrong.append(f"byte {position} bit {bit}: {error!r}")
    assert not wrong, f"{len(wrong)}: {wrong[:3]}"


def resident_of_files() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


def test_resident_memory_stays_below_its_limit(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, shard_bytes=16 * 2**20)
    for number in range(16):  # 64 MB in all
        keys = keys_of(range(1024 * number, 1024 * (number + 1)))
        writer.add(keys, ExpertTokens(torch.full((1024, 1, 1024), float(number)), torch.ones(1024, 1).bool()))
    writer.flush()

    stored, limit = StoredTokens(tmp_path, mapped_bytes=8 * 2**20), 16 * 2**20
    batches = np.random.default_rng(0).permutation(len(stored)).reshape(-1, 64)
    before, most = resident_of_files(), 0
    for rows in batches:
        tokens = stored.gather(rows)
        most = max(most, resident_of_files() - before)
        assert (tokens.tokens_BND[:, 0, 0].numpy() == rows // 1024).all()
    assert most < limit
    mapped = [np.memmap(path, np.uint8) for path in shard_paths(tmp_path)]
    assert sum(int(values[::4096].sum()) for values in mapped) > 0
    assert resident_of_files() - before > limit  # it is what a memory map leaves to itself takes


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    for number in range(60):
        writer = FeatureStore(tmp_path).writer("f", {})
        writer.add(keys_of(range(number, number + 1)), tokens_of(range(number, number + 1)))
        writer.flush()
    code = (
        "import pathlib, resource; from crossmodal.feature_store import StoredTokens\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        f"print(len(StoredTokens(pathlib.Path({str(tmp_path / 'f')!r}))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("60\n", "")


def test_an_expert_that_leaves_inputs_out_is_refused(tmp_path: Path) -> None:
    writer = FeatureStore(tmp_path).writer("f", {})
    with pytest.raises(ValueError, match="gave tokens for 3 inputs; it was given 4"):
        writer.add(keys_of(range(4)), tokens_of(range(3)))
    writer.flush()
    assert not shard_paths(tmp_path / "f")


@pytest.mark.parametrize("number", range(20))
def test_interrupted_at_a_random_moment_what_was_added_whole_is_stored(tmp_path: Path, number: int) -> None:
    writer = FeatureStore(tmp_path).writer("f", {})
    batch, done = tokens_of(range(2)), 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    # again and again: what is raised while an object is deleted is lost
    signal.setitimer(signal.ITIMER_REAL, random.Random(number).uniform(1e-3, 2e-2), 0.1)
    try:
        while True:
            writer.add(keys_of(range(done, done + 2)), batch)
            done += 2
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        writer.flush()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    stored = FeatureStore(tmp_path).open("f")
    assert len(stored) - done in (0, 2)
    assert (stored.find(keys_of(range(done))) >= 0).all()


# Processes that write


def write_one_shard(folder: Path, first: int, ready: multiprocessing.synchronize.Barrier) -> None:
    ready.wait()
    for start in range(first, first + 40, 10):
        write_numbers(folder, range(start, start + 10))


def write_numbers(folder: Path, numbers: range) -> None:
    writer = FeatureStore(folder.parent).writer(folder.name, {"class": "Test"})
    writer.add(keys_of(numbers), tokens_of(numbers))
    writer.flush()


def write_for_ever(folder: Path, first: int) -> None:
    writer = FeatureStore(folder.parent).writer(folder.name, {"class": "Test"})
    for start in itertools.count(first, 64):
        numbers = range(start, start + 64)
        writer.add(keys_of(numbers), tokens_of(numbers, num_tokens=1024))
        writer.flush()


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, processes: ForkServerContext) -> None:
    folder, ready = tmp_path / "f", processes.Barrier(2)
    writers = [processes.Process(target=write_one_shard, args=(folder, first, ready)) for first in (0, 30)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    stored = FeatureStore(tmp_path).open("f")
    assert equal(stored.gather(stored.find(keys_of(range(70)))), tokens_of(range(70)))
    (entry,) = entries(tmp_path, verify=True)
    assert not entry.faults
    assert not list(folder.glob(".*"))


def temporary_files(folder: Path) -> list[Path]:
    return list(folder.glob(".*.tmp"))


def make_old(files: list[Path]) -> None:
    two_hours_ago = time.time() - 7200
    for path in files:
        os.utime(path, (two_hours_ago, two_hours_ago))


@pytest.fixture
def endless(tmp_path: Path, processes: ForkServerContext) -> Iterator[BaseProcess]:
    """A process that has begun to write shards."""
    writer = processes.Process(target=write_for_ever, args=(tmp_path / "f", 0))
    writer.start()
    while not shard_paths(tmp_path / "f"):
        assert writer.is_alive()
        time.sleep(0.001)
    yield writer
    writer.kill()
    writer.join()


def check_is_valid(root: Path) -> None:
    (entry,) = entries(root, verify=True)
    assert entry.inputs > 0
    assert not entry.faults
    stored = FeatureStore(root).open("f")
    numbers = range(len(stored))
    assert equal(stored.gather(stored.find(keys_of(numbers))), tokens_of(numbers, num_tokens=1024))


@pytest.mark.parametrize("number", range(4))
def test_killed_at_a_random_moment_while_writing(tmp_path: Path, endless: BaseProcess, number: int) -> None:
    time.sleep(random.Random(number).uniform(0, 0.1))
    endless.kill()
    endless.join()
    check_is_valid(tmp_path)
    make_old(temporary_files(tmp_path / "f"))
    FeatureStore(tmp_path).writer("f", {})
    assert not temporary_files(tmp_path / "f")
    check_is_valid(tmp_path)


def test_only_what_a_killed_process_left_is_removed(tmp_path: Path, endless: BaseProcess) -> None:
    assert endless.pid is not None
    for _ in range(1000):  # until it is stopped with a half-written file
        os.kill(endless.pid, signal.SIGSTOP)
        time.sleep(0.005)
        if left := temporary_files(tmp_path / "f"):
            break
        os.kill(endless.pid, signal.SIGCONT)
        time.sleep(0.003)
    assert left
    make_old(left)
    FeatureStore(tmp_path).writer("f", {})
    assert temporary_files(tmp_path / "f") == left  # it is alive
    endless.kill()
    endless.join()
    os.utime(left[0])
    FeatureStore(tmp_path).writer("f", {})
    assert temporary_files(tmp_path / "f") == left  # another container's process may have that number
    check_is_valid(tmp_path)
    make_old(temporary_files(tmp_path / "f"))
    FeatureStore(tmp_path).writer("f", {})
    assert not temporary_files(tmp_path / "f")
    check_is_valid(tmp_path)
