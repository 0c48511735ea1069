"""What is known of the members of a mixture: how they did lately on rows that they did not learn from.

Legend: B rows, M members (the experts, then their fusion).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SLOWEST = 0.02  # share of a batch in what is known, once much is
GAIN = 0.1  # share of a batch, if all its rows have the expert, in what is known of its gain


class TrackRecord(nn.Module):
    """Running loss and accuracy of each member, and how much greater the loss of the fusion is without an expert.

    Args:
        members: M.
    """

    def __init__(self, members: int) -> None:
        super().__init__()
        self.loss_M: Tensor
        self.accuracy_M: Tensor
        self.gain_M: Tensor
        self.batches_M: Tensor
        self.register_buffer("loss_M", torch.ones(members))
        self.register_buffer("accuracy_M", torch.zeros(members))
        self.register_buffer("gain_M", torch.zeros(members))
        self.register_buffer("batches_M", torch.zeros(members))

    def forward(self) -> Tensor:
        """Return of each member the likelihood, the accuracy and the gain, each -1 to 1, shape (M, 3)."""
        return torch.stack([(-self.loss_M).exp(), self.accuracy_M, self.gain_M.tanh()], dim=-1)

    @torch.no_grad()
    def note(self, losses_BM: Tensor, right_BM: Tensor, present_BM: Tensor) -> None:
        """Take into account how members did on B rows.

        Args:
            losses_BM: Anything where a member did not answer.
            right_BM: 0 to 1.
            present_BM: Whether it answered.
        """
        answered_M = present_BM.any(0)
        share_M = torch.where(answered_M, (1 / (self.batches_M + 1)).clamp_min(SLOWEST), 0.0)
        count_M = present_BM.sum(0).clamp_min(1)
        for known_M, told_BM in ((self.loss_M, losses_BM), (self.accuracy_M, right_BM)):
            known_M.lerp_(told_BM.float().masked_fill(~present_BM, 0).sum(0) / count_M, share_M)
        self.batches_M += answered_M

    @torch.no_grad()
    def note_gain(self, expert: int, gain: Tensor, share: float) -> None:
        """Take into account how much greater the loss was without an expert, on a share of a batch's rows."""
        self.gain_M[expert].lerp_(gain.float(), GAIN * share)
