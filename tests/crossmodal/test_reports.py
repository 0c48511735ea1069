"""What a model says of each row."""

from __future__ import annotations

import torch

from crossmodal.reports import report, reported_columns
from tests.crossmodal.mixtures import CLASSES, NAMES, a_batch, a_model


def test_of_a_mixture() -> None:
    model, batch = a_model().eval(), a_batch(lacking=True)
    names = [f"class {number}" for number in range(CLASSES)]
    heads = dict(model.heads.items())
    with torch.no_grad():
        outputs, answers = model.answer(model.encode(batch), batch)
    assert answers is not None
    said = report(heads, {"answer": names}, outputs, answers)["answer"]  # type: ignore[arg-type]
    assert said["prediction"] == [names[number] for number in outputs["answer"].argmax(1).tolist()]
    assert said["members"].keys() == {*NAMES, "fusion"}
    seen = answers.members["answer"][:, 0].argmax(1).tolist()
    there = answers.present_BE[:, 0].tolist()
    assert not all(there)
    expected = [names[number] if has else None for number, has in zip(seen, there, strict=True)]
    assert said["members"]["sees"] == expected  # who has not seen says nothing
    columns = reported_columns(heads["answer"], names, list(NAMES))  # type: ignore[arg-type]
    assert columns[CLASSES:] == ["weight/sees", "weight/guesses", "weight/fusion", "disagreement"]
    assert said["reported"].shape == (64, len(columns))
    torch.testing.assert_close(said["reported"][:, CLASSES:-1], answers.weights_BM)


def test_of_a_model_without() -> None:
    model = a_model()
    heads = dict(model.heads.items())
    said = report(heads, {"answer": list("abcd")}, {"answer": torch.eye(4)}, None)["answer"]  # type: ignore[arg-type]
    assert (said["prediction"], said["members"]) == (list("abcd"), {})
    assert reported_columns(heads["answer"], list("ab"), []) == ["probability/a", "probability/b"]  # type: ignore[arg-type]
