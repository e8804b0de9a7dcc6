"""A multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def build(*, input_shape: Sequence[int], classes: int, widths: Sequence[int] = (128, 64)) -> nn.Module:
    """Return an MLP: flatten, hidden layers with ReLU, linear output.

    Args:
        input_shape: of one sample, flattened to its product.
        widths: units of the hidden layers.
    """
    sizes = [math.prod(input_shape), *widths]
    hidden: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        hidden += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], classes))
