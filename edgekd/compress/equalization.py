"""Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721, section 4.1).

Where layers follow each other with nothing between them but what is positively homogeneous (ReLU, pools), a channel can
be divided by any s > 0 in the first and multiplied by it in the second: the network computes the same. Their ranges are
balanced by (eq. 11)

    s_i = sqrt(r1_i / r2_i)

with r2_i the largest weight of the second layer that meets channel i. For the paper r1_i is the largest weight of the
first layer that makes the channel; that is what counts where all its channels share one scale. Where each channel of
a weight has a scale of its own, the value between the layers is what all channels share a scale of: r1_i is then the
largest magnitude that the channel has in the calibration samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekd.compress import simulation
from edgekd.compress.prepared import Layer, layers
from edgekd.compress.pt2e import PerChannelMinMaxObserver

aten = torch.ops.aten

SWEEPS = 20
"""Over all pairs: a layer in the middle of a chain is in two of them."""
_HOMOGENEOUS = frozenset(
    {
        aten.relu.default,
        aten.relu_.default,
        aten.leaky_relu.default,
        aten.leaky_relu_.default,
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
    }
)


def equalize(prepared: GraphModule, floats: GraphModule, batches: Sequence[Tensor]) -> None:
    """Balance the ranges of channels between the layers of a graph, in place; ranges must be found again afterwards.

    Args:
        floats: the graph whose floats are to be met.
        batches: calibration inputs.
    """
    found = list(pairs(prepared))
    ranges = _ranges(floats, found, batches)
    with torch.no_grad():
        for first, second in found * SWEEPS:
            own = ranges[first.node] if first.node in ranges else first.weight.flatten(1).abs().amax(1)
            channels = second.groups, len(second.weight) // second.groups, len(own) // second.groups
            meeting = second.weight.view(*channels, -1)
            other = meeting.abs().amax((1, 3)).flatten()
            # A channel that is always zero, or that nobody listens to, has no range to be balanced.
            factor = torch.where((own > 0) & (other > 0), (own / other).sqrt(), 1.0)
            first.weight.div_(factor.view(-1, *[1] * (first.weight.dim() - 1)))
            if first.bias is not None:
                first.bias.div_(factor)
            meeting.mul_(factor.view(channels[0], 1, channels[2], 1))
            if first.node in ranges:
                own.div_(factor)


def pairs(prepared: GraphModule) -> Iterator[tuple[Layer, Layer]]:
    """Yield the layers of which the second alone takes what the first gives, with nothing but homogeneous between."""
    found = {layer.node: layer for layer in layers(prepared)}
    for first in found.values():
        end, flat = first.node, first.linear
        while len(end.users) == 1:
            user = next(iter(end.users))
            if user in found:
                if flat == found[user].linear:  # else the second layer's inputs are no channels of the first
                    yield first, found[user]
                break
            if user.target is aten.flatten.using_ints and not flat and user.args[1:] in ((1,), (1, -1)):
                flat = True
            elif user.op != "call_module" and user.target not in _HOMOGENEOUS:  # a module is an observer
                break
            end = user


def _ranges(floats: GraphModule, found: Sequence[tuple[Layer, Layer]], batches: Sequence[Tensor]) -> dict[Node, Tensor]:
    """Return the largest magnitude of each channel that the second layers are given, by the first ones' nodes.

    Only of first layers whose weights have a scale for each channel.
    """
    largest = {
        first.node: torch.zeros(len(first.weight))
        for first, _ in found
        if isinstance(first.observer, PerChannelMinMaxObserver)
    }

    looks = {
        second.source.name: partial(_follow, largest[first.node], first)
        for first, second in found
        if first.node in largest
    }
    simulation.run(floats, batches, looks, integers=False)
    return largest


def _follow(largest: Tensor, first: Layer, value: Tensor) -> None:
    """Widen the ranges of channels, (C), by a value (B, C, ...), or (B, ..., C) behind a linear layer."""
    channels_second = value.movedim(-1, 1) if first.linear else value
    seen = channels_second.abs().reshape(len(value), len(largest), -1).amax((0, 2))
    torch.maximum(largest, seen, out=largest)
