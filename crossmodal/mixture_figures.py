"""What is measured of a mixture: who was heard, who was right, how far they disagreed.

Legend: B rows, E experts, M members (the experts, then their fusion), C outputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from crossmodal.heads import Head
from crossmodal.mixture import Answers
from crossmodal.opinions import for_each
from crossmodal.selector import Choice

FUSION = "fusion"  # as figures and predictions name the last member


class RowMeans:
    """Means over the rows since they were last asked for."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}

    def add(self, name: str, values_B: Tensor, of_B: Tensor) -> None:
        """Take values into account, of those rows where a bool vector is true."""
        self._sums[name] = self._sums.get(name, 0.0) + values_B.detach().double().masked_fill(~of_B, 0).sum()
        self._counts[name] = self._counts.get(name, 0) + of_B.sum()

    def figures(self) -> dict[str, float]:
        """Return each mean by its name, and begin anew."""
        found = {name: float(total / self._counts[name]) for name, total in self._sums.items() if self._counts[name]}
        self._sums, self._counts = {}, {}
        return found


class MixtureFigures(RowMeans):
    """What is measured of a mixture."""

    def measure(
        self, answers: Answers, heads: Mapping[str, Head], targets: Mapping[str, Tensor], prefixes: Mapping[str, str]
    ) -> None:
        """Take B rows into account.

        Args:
            answers: Of the mixture.
            heads: By task.
            targets: Of the tasks that have any.
            prefixes: By task, of its figures' names.
        """
        every_B = torch.ones_like(answers.present_BE[:, 0])
        for number, name in enumerate((*answers.experts, FUSION)):
            self.add(f"weight/{name}", answers.weights_BM[:, number], every_B)
            self.add(f"load/{name}", (answers.weights_BM.argmax(1) == number).float(), every_B)
        self.add("weight_entropy", torch.special.entr(answers.weights_BM).sum(1), every_B)
        for number, name in enumerate(answers.experts):
            self.add(f"share/{name}", answers.shares_BE[:, number], answers.present_BE[:, number])
        present_BM = F.pad(answers.present_BE, (0, 1), value=True)
        for task, answers_BMC in answers.members.items():
            self.add(f"{prefixes[task]}disagreement", answers.disagreement[task], every_B)
            if task not in targets:
                continue
            right_BM = heads[task].opinions().right(answers_BMC, for_each(targets[task], answers_BMC.shape[1]))
            for number, name in enumerate((*answers.experts, FUSION)):
                self.add(f"{prefixes[task]}alone/{name}", right_BM[:, number], present_BM[:, number])

    def measure_choice(self, choice: Choice) -> None:
        """Take into account which experts B rows were given, and what share of the cost of all that is."""
        for name, chosen_B, available_B in zip(
            choice.costs, choice.chosen_BE.unbind(1), choice.available_BE.unbind(1), strict=True
        ):
            self.add(f"chosen/{name}", chosen_B.float(), available_B)
        cost_E = torch.tensor([*choice.costs.values()], dtype=torch.float64, device=choice.chosen_BE.device)
        self._sums["cost"] = self._sums.get("cost", 0.0) + (choice.chosen_BE * cost_E).sum()
        self._counts["cost"] = self._counts.get("cost", 0) + (choice.available_BE * cost_E).sum()
