from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from crossmodal.checkpoints import CheckpointMismatchError, refuse_other_price, refuse_other_settings

ADAM = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "weight_decay": 0.0}}
MODEL = {"optimizer": ADAM, "warmup": 0.1, "objective": None, "fusion": {"init_args": {"top_k": 4}}}
MODEL["feature_store"] = "runs/features"
THEN = {"seed_everything": 0, "model": MODEL, "trainer": {"precision": "32-true", "max_epochs": 3}, "name": "dots"}


def compare(folder: Path, now: dict[str, Any]) -> None:
    began_with = folder / "config.yaml"
    began_with.write_text(yaml.safe_dump(THEN))
    refuse_other_settings(began_with, yaml.safe_dump({**THEN, **now}))


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"seed_everything": 1}, "^seed_everything was 0 and now is 1: a run goes on as it began .see .*config.yaml"),
        ({"model": {**MODEL, "warmup": 0.2}}, "^model.warmup was 0.1 and now is 0.2"),
        (
            {"model": {**MODEL, "optimizer": {**ADAM, "init_args": {"lr": 0.2}}}},
            "^model.optimizer.init_args.lr was 0.1 and now is 0.2",
        ),
        (
            {"model": {**MODEL, "optimizer": {"class_path": "torch.optim.SGD"}}},
            "^model.optimizer.class_path was torch.optim.AdamW and now is torch.optim.SGD",
        ),
        (
            {"model": {**MODEL, "objective": {"class_path": "Mine"}}},
            "^model.objective was None and now is {'class_path",
        ),
        ({"model": {**MODEL, "feature_store": None}}, "^model.feature_store was runs/features and now is None"),
        ({"trainer": {"precision": "bf16-mixed"}}, "^trainer.precision was 32-true and now is bf16-mixed"),
    ],
)
def test_a_run_goes_on_as_it_began(tmp_path: Path, now: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(tmp_path, now)


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"name": "other", "trainer": {**THEN["trainer"], "max_epochs": 9}},  # type: ignore[dict-item]
        {"model": {**MODEL, "encode_workers": 2, "feature_store": "elsewhere"}},
        {"model": {**MODEL, "optimizer": {**ADAM, "init_args": {"lr": 0.1, "weight_decay": 0.0, "new": True}}}},
    ],
)
def test_what_may_change(tmp_path: Path, now: dict[str, Any]) -> None:
    compare(tmp_path, now)


def settings_with(**selector: Any) -> dict[str, Any]:
    return {"selector": {"class_path": "crossmodal.selector.Selector", "init_args": selector}}


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ({"budget": 0.6}, {"budget": 0.3}, r"^model.selector.init_args.budget was 0.6 .* and now is 0.3: what experts"),
        ({"budget": None}, {"budget": 0.3}, r"^model.selector.init_args.budget was None"),
        ({"costs": None}, {"costs": {"a": 1.0}}, r"^model.selector.init_args.costs was None .* now is {'a': 1.0}"),
        ({"costs": {"a": 2.0}}, {"costs": {"a": 1.0}}, r"^model.selector.init_args.costs.a was 2.0 .* now is 1.0"),
        (
            {"budget": 0.6, "top_k": 0},
            {"budget": 0.6, "top_k": 1},
            r"^model.selector.init_args.top_k was 0 .* and now is 1",
        ),
        (
            {"budget": 0.6, "first": ["a"]},
            {"budget": None, "first": ["a", "b"]},
            r"^model.selector.init_args.first was \['a'\] .* and now is \['a', 'b'\]",
        ),
    ],
)
def test_what_a_price_was_not_learned_with(then: dict[str, Any], now: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=message):
        refuse_other_price(settings_with(**then), settings_with(**now))


def test_a_selector_without_settings_on_one_side() -> None:
    bare = {"selector": {"class_path": "crossmodal.selector.Selector"}}
    for then, now in ((bare, settings_with(budget=0.6)), (settings_with(budget=0.6), bare)):
        with pytest.raises(CheckpointMismatchError, match=r"^model.selector.init_args was "):
            refuse_other_price(then, now)


def test_what_a_price_does_not_depend_on() -> None:
    then = settings_with(budget=0.6, costs={"a": 1.0}, top_k=0, first=["a"], explore=0.5)
    refuse_other_price(then, then)
    refuse_other_price(then, settings_with(budget=0.6, costs={"a": 1}, top_k=0, first=["a"], explore=0.1))
    without_budget = settings_with(budget=None, costs={"a": 1}, top_k=1, first=["a"])  # the price is not asked for
    refuse_other_price(then, without_budget)
    refuse_other_price(without_budget, settings_with(budget=None, costs={"a": 1}, top_k=2, first=["a"]))
    refuse_other_price({}, then)
    refuse_other_price(then, {"selector": None})
