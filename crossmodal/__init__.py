"""Train cross-modal models from pretrained unimodal experts."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Resolved when they are asked for: `crossmodal --help` must not wait for torch.
_WHERE = {
    "AssociativeFusion": "crossmodal.fusion",
    "BottleneckFusion": "crossmodal.fusion",
    "ClassificationHead": "crossmodal.heads",
    "ConcatFusion": "crossmodal.fusion",
    "CrossModalModel": "crossmodal.model",
    "CrossModalModule": "crossmodal.module",
    "FeatureStore": "crossmodal.feature_store",
    "GatedFusion": "crossmodal.fusion",
    "HierarchicalFusion": "crossmodal.fusion",
    "LowRankFusion": "crossmodal.fusion",
    "MeanFusion": "crossmodal.fusion",
    "MetaLearner": "crossmodal.meta_learner",
    "MoEFusion": "crossmodal.fusion",
    "MultiLabelHead": "crossmodal.heads",
    "PerceiverFusion": "crossmodal.fusion",
    "RegressionHead": "crossmodal.heads",
    "WorkspaceFusion": "crossmodal.fusion",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'crossmodal' has no attribute {name!r}")
