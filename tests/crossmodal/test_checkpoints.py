from __future__ import annotations

import logging
from typing import Any

import pytest

from crossmodal.checkpoints import CheckpointMismatchError, compare_settings

ADAM = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "weight_decay": 0.0}}
SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}
THEN: dict[str, Any] = {"optimizer": ADAM, "warmup": 0.1, "objective": None, "fusion": {"init_args": {"top_k": 4}}}


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"warmup": 0.2}, "^model.warmup was 0.1 and now is 0.2; a run goes on as it began"),
        ({"optimizer": {**ADAM, "init_args": {"lr": 0.2}}}, "^model.optimizer.init_args.lr was 0.1 and now is 0.2"),
        ({"optimizer": SGD}, "^model.optimizer.class_path was torch.optim.AdamW and now is torch.optim.SGD"),
        ({"objective": {"class_path": "Mine"}}, "^model.objective was None and now is {'class_path': 'Mine'}"),
        ({"fusion": {"init_args": {"top_k": 2}}}, "^model.fusion.init_args.top_k was 4 and now is 2"),
    ],
)
def test_a_run_goes_on_as_it_began(now: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointMismatchError, match=message):
        compare_settings(THEN, {**THEN, **now}, goes_on=True)


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"encode_workers": 2, "feature_store": "elsewhere"},
        {"optimizer": {**ADAM, "init_args": {**ADAM["init_args"], "new_in_this_version": 3}}},  # type: ignore[dict-item]
    ],
)
def test_a_run_may_go_on(now: dict[str, Any]) -> None:
    compare_settings(THEN, {**THEN, **now}, goes_on=True)


def test_another_fusion_is_told_where_it_is_evaluated(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        compare_settings(THEN, {**THEN, "warmup": 0.5, "fusion": {"init_args": {"top_k": 2}}}, goes_on=False)
    assert caplog.messages == ["model.fusion.init_args.top_k was 4 when the checkpoint was trained, and now is 2"]
