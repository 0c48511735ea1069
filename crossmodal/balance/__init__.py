"""How modalities are kept in balance while they train; see `docs/balance.md`."""

from crossmodal.balance.base import Balance
from crossmodal.balance.modulation import GradientModulation
from crossmodal.balance.pareto import MMPareto
from crossmodal.balance.unimodal import UnimodalLosses

__all__ = ["Balance", "GradientModulation", "MMPareto", "UnimodalLosses"]
