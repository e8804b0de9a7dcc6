from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from compress.nets import build
from edgekd.compress import bucketing, quantization
from edgekd.compress.bucketing import BucketedWeight, bucketed
from edgekd.device import Scheme


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", [7, 256])
def test_each_value_goes_to_the_nearest_of_the_levels_of_its_bucket(bits: int, size: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 3, 4, 11)
    found = bucketed(weight, bits, size)
    assert found.shape == weight.shape
    values, given = weight.flatten().double().numpy(), found.flatten().double().numpy()
    for begin in range(0, len(values), size):
        part = values[begin : begin + size]
        levels = np.linspace(part.min(), part.max(), 2**bits)
        nearest = levels[np.abs(part[:, None] - levels).argmin(1)]
        assert np.allclose(given[begin : begin + size], nearest, atol=1e-6)
    assert torch.allclose(bucketed(found, bits, size), found, atol=1e-6)


def test_a_half_is_rounded_down_and_equal_values_stay() -> None:
    assert bucketed(torch.tensor([0.0, 0.5, 1.5, 2.5, 3.0]), 2, 5).tolist() == [0.0, 0.0, 1.0, 2.0, 3.0]
    assert bucketed(torch.full((6,), 0.3), 2, 4).tolist() == torch.full((6,), 0.3).tolist()


def test_the_gradient_is_that_at_the_quantized_weight_and_moves_the_weight_itself() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 10, requires_grad=True)
    given = BucketedWeight(2, 8)(weight)
    assert torch.allclose(given, bucketed(weight.detach(), 2, 8), atol=1e-6)
    given.square().sum().backward()
    assert torch.allclose(weight.grad, 2 * given.detach())


def test_the_compressed_size_is_that_of_the_paper_and_the_network_without_observers_is_a_float_one() -> None:
    model, x, layers = build("residual")
    prepared = quantization.prepare(model, (x[:2],), Scheme(activations="u8"))
    with torch.no_grad():
        quantization.calibrate(prepared, [x])
        plain = prepared(x)
    weights = [model.get_submodule(name).weight.numel() for name in layers]
    biases = [len(model.get_submodule(name).weight) for name in layers]
    bits = sum(2 * count + 2 * 32 * math.ceil(count / 256) for count in weights) + 32 * sum(biases)
    assert bucketing.compressed_bytes(prepared, 2, 256) == math.ceil(bits / 8)
    bucketing.put_on_grid(prepared, 8, 256)
    bare = bucketing.without_observers(prepared)
    assert not [node for node in bare.graph.nodes if node.op == "call_module"]
    for name, parameter in bare.named_parameters():
        assert parameter.dim() == 1 or torch.allclose(bucketed(parameter, 8, 256), parameter, atol=1e-6), name
    with torch.no_grad():
        assert float((bare(x) - plain).square().sum() / plain.square().sum()) < 1e-3
