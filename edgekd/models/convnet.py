"""A plain convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def build(*, input_shape: Sequence[int], classes: int, width: int = 16, blocks: Sequence[int] = (1, 1)) -> nn.Module:
    """Return a network of stages of 3x3 convolutions with batch normalisation and ReLU, pooled to one vector.

    Args:
        input_shape: (channels, height, width) of one sample.
        width: channels of the first stage; each further stage halves the image and doubles the channels.
        blocks: convolutions of each stage.
    """
    layers: list[nn.Module] = []
    channels = input_shape[0]
    for stage, count in enumerate(blocks):
        for index in range(count):
            outputs = width * 2**stage
            stride = 2 if stage and not index else 1
            layers += [
                nn.Conv2d(channels, outputs, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            channels = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
