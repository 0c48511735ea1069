"""What methods that balance modalities have in common.

Legend: B rows, E modalities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Alone:
    """What each modality says alone of B rows, before the backward pass.

    Args:
        likelihoods_BE: Of the true answer, 0 to 1; anything where a row lacks the modality.
        present_BE: Whether the row has the modality.
        losses: By modality the loss of its own heads, weighted; of those that a row has.
        parameters: By modality what is its own and trains: its expert's parameters and its projection's.
    """

    likelihoods_BE: Tensor
    present_BE: Tensor
    losses: Mapping[str, Tensor]
    parameters: Mapping[str, Sequence[nn.Parameter]]


class Balance:
    """A way to keep one modality from being all that is learned from.

    Args:
        modalities: Their names.

    Raises:
        ValueError: There are not two.
    """

    weight = 1.0  # of the losses of the modalities' own heads
    trains_modalities = True  # whether these losses train projection and expert; else only the heads
    changes_gradients = True  # after the backward pass

    def __init__(self, modalities: Sequence[str]) -> None:
        if len(modalities) < 2:
            raise ValueError(
                f"model.balance: {type(self).__name__} balances modalities, but there is only {', '.join(modalities)}"
            )
        self.modalities = tuple(modalities)

    def before_backward(self, alone: Alone) -> None:
        """Take from the losses what is needed later; the gradients are not there yet."""

    def after_backward(self, alone: Alone, epoch: int) -> dict[str, Tensor]:
        """Change the gradients of what is a modality's own; return a factor to log for each modality.

        Args:
            alone: As before the backward pass.
            epoch: Counted from 0.
        """
        return {}

    def refuse(self, *, accumulates: bool, precision: str, devices: int) -> None:
        """Refuse what it cannot be right with.

        Args:
            accumulates: Whether several batches make one step.
            precision: Of the trainer.
            devices: That train together.

        Raises:
            ValueError: The message names the key.
        """
        if accumulates and self.changes_gradients:
            raise ValueError(
                f"model.balance: {type(self).__name__} changes the gradients of each batch, which "
                "trainer.accumulate_grad_batches would add up before: set it to 1, and data.batch_size higher"
            )
        if devices > 1 and self.changes_gradients:
            raise ValueError(
                f"model.balance: {type(self).__name__} goes by the rows of one device, so that {devices} would come to "
                "differ: set trainer.devices: 1"
            )
