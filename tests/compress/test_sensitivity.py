"""Which layers integers harm, each alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from edgekd.compress import quantization, sensitivity
from edgekd.device import Scheme

SCHEME = Scheme(activations="u8")
SHAPE = (3, 6, 6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 5)]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def graph() -> quantization.GraphModule:
    return quantization.captured(network(), (torch.zeros(2, *SHAPE),))


def calibrated(graph: quantization.GraphModule, batch: torch.Tensor, *floats: str) -> quantization.GraphModule:
    prepared = quantization.prepare(graph, (torch.zeros(2, *SHAPE),), SCHEME, 8, floats)
    quantization.calibrate(prepared, [batch])
    return prepared


def test_the_ratio_is_that_of_the_network_in_which_only_this_layer_is_converted(graph) -> None:
    batch = torch.randn(32, *SHAPE)
    found = sensitivity.sqnr_db(calibrated(graph, batch), batch.split(20))
    assert list(found.values()) == sorted(found.values())
    assert set(found) == {"0", "2", "5"}
    exact = network()(batch).detach().double()
    for name, ratio in found.items():
        others = [other for other in found if other != name]
        answers = quantization.convert(calibrated(graph, batch, *others))(batch).detach().double()
        noise = float((answers - exact).square().sum())
        assert ratio == pytest.approx(10 * math.log10(float(exact.square().sum()) / noise), abs=0.5)


def test_nothing_is_lost_where_values_lie_on_the_grid(graph) -> None:
    zeros = torch.zeros(4, *SHAPE)
    prepared = calibrated(graph, torch.randn(8, *SHAPE))
    before = {name: tensor.clone() for name, tensor in prepared.state_dict().items()}
    prepared.get_parameter("0.bias").data.zero_()
    found = sensitivity.sqnr_db(prepared, [zeros])
    assert found["0"] == math.inf  # its input, and so its output, is zero
    assert all(
        torch.equal(before[name], tensor) for name, tensor in prepared.state_dict().items() if "bias" not in name
    )
