"""Fusions, all from experts' tokens to workspace tokens, interchangeable in YAML."""

from crossmodal.fusion.base import Fusion
from crossmodal.fusion.bottleneck import BottleneckFusion
from crossmodal.fusion.concat import ConcatFusion
from crossmodal.fusion.mean import MeanFusion
from crossmodal.fusion.perceiver import PerceiverFusion
from crossmodal.fusion.workspace import WorkspaceFusion

__all__ = ["BottleneckFusion", "ConcatFusion", "Fusion", "MeanFusion", "PerceiverFusion", "WorkspaceFusion"]
