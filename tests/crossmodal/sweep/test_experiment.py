"""What a sweep takes from an experiment, and what it began with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from crossmodal.errors import UsageError
from crossmodal.sweep.experiment import begin, check_values, completed, own_values
from crossmodal.sweep.search import BEGUN, Choice, Interval, Search
from tests.conftest import ROOT

LR = "model.optimizer.init_args.lr"
CONFIG: dict[str, Any] = {
    "name": "dots",
    "model": {"optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": "1e-3", "weight_decay": 0}}},
    "trainer": {
        "callbacks": [
            {
                "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
                "init_args": {"monitor": "val/f1", "mode": "max"},
            }
        ]
    },
}


def test_what_is_not_given_follows_from_the_experiment() -> None:
    found = completed(Search(), CONFIG)
    assert found.parameters == {LR: Interval(1e-4, 1e-2, log=True)}  # there is no weight decay to vary
    assert (found.metric, found.goal) == ("val/f1", "maximize")
    assert own_values(found, CONFIG) == {LR: 1e-3}
    assert own_values(Search({LR: Choice((0.1, 0.2))}), CONFIG) is None
    assert completed(Search(metric="val/loss"), CONFIG).goal == "minimize"
    one = {**CONFIG, "trainer": {"callbacks": CONFIG["trainer"]["callbacks"][0]}}  # not in a list
    assert completed(Search(), one).metric == "val/f1"


@pytest.mark.parametrize(
    ("search", "message"),
    [
        (Search(metric="test/accuracy", goal="maximize"), "--metric test/accuracy: what is chosen by the test split"),
        (Search(metric="val/f2"), "--metric val/f2: say whether more is better"),
        (Search({"name": Choice(("a", "b"))}), "--search name: it changes no figure of a trial"),
        (Search({"ckpt_path": Choice(("a", "b"))}), "--search ckpt_path: it changes no figure of a trial"),
        (Search(fixed={"runs": "elsewhere"}), "--search runs: it changes no figure of a trial"),
        (Search(fixed={LR: 0.1}), r"--search: all keys have one value each \(model.optimizer.init_args.lr\)"),
    ],
)
def test_what_cannot_be_searched_is_told(search: Search, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        completed(search, CONFIG)


def test_where_runs_lie_and_are_shown_is_no_part_of_what_it_began_with(tmp_path: Path) -> None:
    search = completed(Search(), CONFIG)
    begin(tmp_path, CONFIG, search, prunes=True)
    elsewhere = {"name": "other", "runs": "elsewhere", "track": "online", "observe": False}
    begin(tmp_path, {**CONFIG, **elsewhere}, search, prunes=True)
    with pytest.raises(UsageError, match=r"began with another model.warmup \(not given, now 0.1\)"):
        begin(tmp_path, {**CONFIG, "model": {**CONFIG["model"], "warmup": 0.1}}, search, prunes=True)
    with pytest.raises(UsageError, match=rf"began with another parameters.{LR}.high \(0.01, now 0.1\)"):
        begin(tmp_path, CONFIG, completed(Search({LR: Interval(1e-4, 0.1, log=True)}), CONFIG), prunes=True)
    with pytest.raises(UsageError, match=r"began with another prune \(true, now false\)"):
        begin(tmp_path, CONFIG, search, prunes=False)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"configuration": 3}'])
def test_what_it_began_with_may_be_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / BEGUN).write_text(content)
    with pytest.raises(UsageError, match=r"search.json is damaged \(.*\): delete .*, and sweep anew"):
        begin(tmp_path, CONFIG, completed(Search(), CONFIG), prunes=True)


def test_of_several_that_begin_at_once_all_but_one_are_refused(tmp_path: Path) -> None:
    def try_with(high: float) -> bool:
        try:
            begin(tmp_path / "sweep", CONFIG, completed(Search({LR: Interval(1e-4, high)}), CONFIG), prunes=True)
        except UsageError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_with, [0.1 * number for number in range(1, 9)])) == 1


def test_arguments_of_a_class_that_is_searched_need_fit_one_of_them() -> None:
    arguments = ["--config", str(ROOT / "configs" / "easy_vqa_concat.yaml")]
    slots = {"model.fusion.init_args.slots": Choice((2, 4))}
    fusions = Choice(("crossmodal.fusion.WorkspaceFusion", "crossmodal.fusion.ConcatFusion"))
    check_values(Search({"model.fusion.class_path": fusions, **slots}), arguments)
    with pytest.raises(UsageError, match=r"--search: unknown key 'model.fusion.init_args.slots'"):
        check_values(Search(slots), arguments)
    with pytest.raises(UsageError, match=r"--search: model.fusion.init_args.slots: expected int, found str 'many'"):
        check_values(
            Search({"model.fusion.class_path": fusions, "model.fusion.init_args.slots": Choice((2, "many"))}), arguments
        )


def test_what_differs_is_named_not_what_follows_from_it(tmp_path: Path) -> None:
    first = completed(Search({LR: Choice((0.1, 0.2)), "model.warmup": Choice((0.0, 0.1))}), CONFIG)
    begin(tmp_path, CONFIG, first, prunes=True)
    with pytest.raises(
        UsageError, match=r"began with another parameters.model.warmup.values \(\[0.0, 0.1\], now not given"
    ):
        begin(tmp_path, CONFIG, completed(Search({LR: Choice((0.1, 0.2))}), CONFIG), prunes=True)
