from __future__ import annotations

import pytest
import torch

from compress.nets import NETWORKS, build
from edgekd.compress import quantization
from edgekd.compress.prepared import layers
from edgekd.device import Scheme


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_have_their_parameters_and_groups(name: str) -> None:
    model, x, names = build(name)
    prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"))
    found = list(layers(prepared))
    assert [layer.name for layer in found] == names
    for layer in found:
        module = model.get_submodule(layer.name)
        assert layer.weight.shape == module.weight.shape
        assert layer.groups == getattr(module, "groups", 1)
        assert layer.linear == isinstance(module, torch.nn.Linear)
        assert layer.bias is not None  # of a convolution without one, that of the folded BatchNorm
        assert len(layer.bias) == len(module.weight)
