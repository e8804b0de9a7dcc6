"""Bias correction, the empirical one (Nagel et al. 2019, arXiv:1906.04721, section 4.2).

Rounding the weights and the inputs of a layer moves the mean of what it gives, by E[W~ x~] - E[W x] for each output
channel. This is taken off its bias, layer by layer in the order of the computation: each is measured behind layers that
are corrected already. One run does it, with all samples in one batch, because each layer is corrected before its values
go on. Where no integer layer has a bias, there is nothing to correct.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgekd.compress import simulation
from edgekd.compress.prepared import Layer, layers


class _Mean:
    """The mean of each channel of a value over all batches, in float64."""

    def __init__(self, layer: Layer) -> None:
        self._axis = -1 if layer.linear else 1
        self._total, self._count = torch.zeros((), dtype=torch.float64), 0

    def __call__(self, value: Tensor) -> None:
        """Add a batch."""
        of_channels = value.movedim(self._axis, 0).flatten(1).double()
        self._total = self._total + of_channels.sum(1)
        self._count += of_channels.shape[1]

    @property
    def value(self) -> Tensor:
        return self._total / self._count


def correct_biases(prepared: GraphModule, floats: GraphModule, batches: Sequence[Tensor]) -> None:
    """Make the mean of what each layer of a calibrated graph gives that of the float network, in place.

    Args:
        floats: the graph whose floats are to be met.
        batches: calibration inputs.
    """
    corrected = [layer for layer in layers(prepared) if layer.bias is not None]
    exact = {layer.node.name: _Mean(layer) for layer in corrected}
    simulation.run(floats, batches, exact, integers=False)
    looks = {layer.node.name: partial(_corrected, layer, exact[layer.node.name].value) for layer in corrected}
    simulation.run(prepared, [torch.cat(tuple(batches))], looks, integers=True)


def _corrected(layer: Layer, expected: Tensor, value: Tensor) -> Tensor:
    """Give a layer the bias that its channels have the expected means with, and return its value with that."""
    assert layer.bias is not None
    actual = _Mean(layer)
    actual(value)
    shift = (expected - actual.value).float()
    layer.bias.add_(shift)
    return value + (shift if layer.linear else shift.view(-1, *[1] * (value.dim() - 2)))
