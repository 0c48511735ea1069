from __future__ import annotations

import pytest
import timm
import torchaudio
from torch import nn

from experts.layers import layers_of
from tests.experts.test_base import text_expert


@pytest.mark.parametrize(
    ("network", "count", "first_of_last_block"),
    [
        (lambda: timm.create_model("mobilenetv3_small_050", num_classes=0), 7, "blocks.5."),
        (lambda: timm.create_model("test_vit"), 7, "blocks.5."),
        (lambda: timm.create_model("resnet10t", num_classes=0), 6, "layer4."),
        (lambda: timm.create_model("test_convnext"), 5, "stages.3."),
        (lambda: text_expert().network, 7, "encoder.layer.5."),
        (
            lambda: torchaudio.models.wav2vec2_model(
                "group_norm", [(8, 10, 5)], False, 16, 0.0, 4, 2, 3, 2, 0.0, 32, 0.0, 0.0, False, 0.0, None
            ),
            4,
            "encoder.transformer.layers.2.",
        ),
        (lambda: nn.Linear(2, 2), 1, "weight"),
    ],
)
def test_blocks_are_found(network: object, count: int, first_of_last_block: str) -> None:
    built = network()  # type: ignore[operator]
    layers = layers_of(built)
    assert sorted(name for layer in layers for name in layer) == sorted(name for name, _ in built.named_parameters())
    assert layers[-1][0].startswith(first_of_last_block), [layer[0] for layer in layers]
    assert len(layers) == count, [layer[0] for layer in layers]
