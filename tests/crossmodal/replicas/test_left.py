from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossmodal.replicas.left import Left
from crossmodal.replicas.node import Memory

RUN, OTHER = "00ff", "abcd"


def memory(value: float) -> Memory:
    return Memory({"w": torch.full((2,), value)})


def test_a_round_begins_with_what_the_one_before_has_left_also_when_it_is_done_again(tmp_path: Path) -> None:
    left = Left(tmp_path)
    assert left.before(RUN, 0).left == {}
    for round_ in (0, 1, 4):
        left.keep(RUN, round_, memory(round_))
    left = Left(tmp_path)  # the process was killed
    assert left.before(RUN, 5).left["w"].tolist() == [4, 4]
    assert left.before(RUN, 4).left["w"].tolist() == [1, 1]
    assert len([*(tmp_path / RUN).iterdir()]) == 2
    left.keep(RUN, 4, memory(9.0))
    assert left.before(RUN, 5).left["w"].tolist() == [9, 9]


def test_another_run_has_nothing_left(tmp_path: Path) -> None:
    left = Left(tmp_path)
    left.keep(RUN, 3, memory(1.0))
    assert left.before(OTHER, 4).left == {}
    left.keep(OTHER, 0, memory(2.0))
    assert [path.name for path in tmp_path.iterdir()] == [OTHER]


def test_without_compression_nothing_is_written(tmp_path: Path) -> None:
    Left(tmp_path / "left").keep(RUN, 0, Memory())
    assert not (tmp_path / "left").exists()


@pytest.mark.parametrize("run", ["", "../run", "/tmp", "run", "0" * 40])
def test_a_run_names_no_path(tmp_path: Path, run: str) -> None:
    with pytest.raises(ValueError, match="no run of the name"):
        Left(tmp_path).before(run, 1)
