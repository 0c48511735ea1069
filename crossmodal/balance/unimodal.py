"""Losses of each modality alone, so that none is left to others."""

from __future__ import annotations

from collections.abc import Sequence

from crossmodal.balance.base import Balance


class UnimodalLosses(Balance):
    """A small network for each modality, with a head for each task: its loss trains projection and expert, too.

    After the weighed unimodal losses of Wang et al., What Makes Training Multi-modal Classification Networks Hard?
    (CVPR 2020, arXiv 1905.12681), with one weight for all.

    Args:
        modalities: Their names.
        weight: Of each of the losses.

    Raises:
        ValueError: The weight is not above 0.
    """

    changes_gradients = False

    def __init__(self, modalities: Sequence[str], *, weight: float = 1.0) -> None:
        super().__init__(modalities)
        if weight <= 0:
            raise ValueError(f"model.balance: weight must be above 0, not {weight}")
        self.weight = weight
