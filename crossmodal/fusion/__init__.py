"""Fusions, all from experts' tokens to workspace tokens, interchangeable in YAML."""

from crossmodal.fusion.associative import AssociativeFusion
from crossmodal.fusion.base import Fusion
from crossmodal.fusion.bottleneck import BottleneckFusion
from crossmodal.fusion.concat import ConcatFusion
from crossmodal.fusion.gated import GatedFusion
from crossmodal.fusion.hierarchical import HierarchicalFusion
from crossmodal.fusion.low_rank import LowRankFusion
from crossmodal.fusion.mean import MeanFusion
from crossmodal.fusion.moe import MoEFusion
from crossmodal.fusion.perceiver import PerceiverFusion
from crossmodal.fusion.workspace import WorkspaceFusion

__all__ = [
    "AssociativeFusion",
    "BottleneckFusion",
    "ConcatFusion",
    "Fusion",
    "GatedFusion",
    "HierarchicalFusion",
    "LowRankFusion",
    "MeanFusion",
    "MoEFusion",
    "PerceiverFusion",
    "WorkspaceFusion",
]
