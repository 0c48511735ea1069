"""What a model says of each row, as a prediction file has it.

Legend: B rows, M members (the experts, then their fusion), C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor

from crossmodal.heads import Head
from crossmodal.mixture import Answers
from crossmodal.mixture_figures import FUSION


class Prediction(TypedDict):
    """What is predicted of a task.

    Args:
        prediction: Of each row.
        members: What each member of a mixture says of each row.
        reported: The outputs as the head activates them; of a mixture the members' weights and their disagreement
            after them. Shape (B, C), (B, C + M + 1).
    """

    prediction: list[object]
    members: dict[str, list[object]]
    reported: Tensor


def report(
    heads: Mapping[str, Head],
    names: Mapping[str, list[str]],
    outputs: Mapping[str, Tensor],
    answers: Answers | None,
) -> dict[str, Prediction]:
    """Return what is predicted, by task.

    Args:
        heads: By task.
        names: By task, of its outputs.
        outputs: By task, raw, (B, C).
        answers: If a mixture gave the outputs.
    """
    predicted = {}
    for task, head in heads.items():
        reported_BC = head.activate(outputs[task])
        members = {}
        if answers is not None:
            reported_BC = torch.cat([reported_BC, answers.weights_BM, answers.disagreement[task].unsqueeze(1)], dim=1)
            for number, name in enumerate((*answers.experts, FUSION)):
                decided = head.decide(head.opinions().raw(answers.members[task][:, number]), names[task])
                there_B = answers.present_BE[:, number].tolist() if name != FUSION else [True] * len(decided)
                members[name] = [one if there else None for one, there in zip(decided, there_B, strict=True)]
        prediction = head.decide(outputs[task], names[task])
        predicted[task] = Prediction(prediction=prediction, members=members, reported=reported_BC)
    return predicted


def reported_columns(head: Head, names: list[str], experts: list[str]) -> list[str]:
    """Return the names of what is reported of a task.

    Args:
        head: Its own.
        names: Of its outputs.
        experts: Of the mixture, if there is one.
    """
    columns = [f"{head.reported}/{name}" for name in names]
    return [*columns, *(f"weight/{name}" for name in (*experts, FUSION)), "disagreement"] if experts else columns
