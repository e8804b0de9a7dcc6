"""Which way each weight is rounded: the objective of AdaRound (Nagel et al. 2020, arXiv:2004.10568).

The nearest integer is best for a weight alone, not for what a layer gives. Layer by layer, in the order of the
computation, E||W x - Q x~||^2 is made small over the choice of each weight of Q between the two integers around it
(eq. 25, without the activation function); x is what the float network gives the layer, and x~ what it is given behind
layers that are rounded already. This error is quadratic, so of the samples only E[x~ x~^T] and E[x x~^T] are needed.

The paper relaxes the choice and trains it by gradient descent. Here, from the nearest integers on, each output channel
turns that weight the other way whose turn lowers its error most, until no single turn does: on this objective that ends
lower than the relaxation does after a thousand steps, in a hundredth of the time, and never above the nearest integers.

The weights end up on the integers' grid, so whatever rounds them to the nearest integer later finds the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn.functional import unfold

from edgekd.compress import simulation
from edgekd.compress.prepared import Layer, argument, layers


def round_weights(prepared: GraphModule, floats: GraphModule, batches: Sequence[Tensor]) -> None:
    """Move the weights of a calibrated graph onto the integers that serve their layers best, in place.

    Args:
        floats: the graph whose floats are to be met.
        batches: calibration inputs.
    """
    for layer in layers(prepared):
        given = moments(prepared, floats, layer, batches)
        own, cross = given.own, given.cross
        if layer.bias is not None:  # which takes the mean of the error upon itself
            own = own - given.actual * given.actual.mT
            cross = cross - given.exact * given.actual.mT
        scale, _ = layer.observer.calculate_qparams()
        with torch.no_grad():
            weight = layer.weight.view(layer.groups, len(layer.weight) // layer.groups, -1)
            steps = scale.view(layer.groups, -1, 1) if len(scale) > 1 else scale.view(1, 1, 1)
            found = turned(weight, steps, own, cross, (layer.observer.quant_min, layer.observer.quant_max))
            if layer.bias is not None:
                layer.bias.add_((weight @ given.exact - found @ given.actual).flatten())
            weight.copy_(found)


@dataclass(frozen=True)
class Moments:
    """Of what a layer is given in the float network, x, and behind integers, x~: n values of it make one output.

    Args:
        exact: E[x], (groups, n, 1).
        actual: E[x~].
        own: E[x~ x~^T], (groups, n, n).
        cross: E[x x~^T].
    """

    exact: Tensor
    actual: Tensor
    own: Tensor
    cross: Tensor


def moments(prepared: GraphModule, floats: GraphModule, layer: Layer, batches: Sequence[Tensor]) -> Moments:
    """Return the moments of a layer's input over calibration samples."""
    given: list[Tensor] = []
    looks = {layer.source.name: given.append}
    sums, count = [torch.zeros(())] * 4, 0
    for batch in batches:
        given.clear()
        simulation.run(floats, [batch], looks, integers=False)
        simulation.run(prepared, [batch], looks, integers=True)
        exact, actual = (columns(layer, value) for value in given)
        more = exact.sum(2, keepdim=True), actual.sum(2, keepdim=True), actual @ actual.mT, exact @ actual.mT
        sums = [one + other for one, other in zip(sums, more, strict=True)]
        count += actual.shape[2]
    return Moments(*(one / count for one in sums))


def columns(layer: Layer, x: Tensor) -> Tensor:
    """Return the values that make each output of a layer, (groups, n, outputs of one channel), from its input."""
    if layer.linear:
        return x.flatten(0, -2).mT[None]
    kernel = tuple(layer.weight.shape[2:])
    stride, dilation = (_along(argument(layer.node, name, 1), kernel) for name in ("stride", "dilation"))
    padding = argument(layer.node, "padding", 0)
    if padding == "same":
        around = tuple(step * (length - 1) // 2 for step, length in zip(dilation, kernel, strict=True))
    else:
        around = _along(0 if padding == "valid" else padding, kernel)
    if len(kernel) == 1:  # an image of height 1
        x, kernel, stride, dilation, around = x.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation), (0, *around)
    found = unfold(x, kernel, dilation, around, stride)
    return found.view(len(x), layer.groups, -1, found.shape[2]).permute(1, 2, 0, 3).flatten(2)


def turned(weight: Tensor, scale: Tensor, own: Tensor, cross: Tensor, limits: tuple[int, int]) -> Tensor:
    """Return weights on the grid for which no single other choice has a smaller error.

    Args:
        weight: (groups, outputs, n).
        scale: of the integers; broadcasts with it.
        own, cross: of `moments`, (groups, n, n).
        limits: of the integers.
    """
    exact = weight / scale
    floor, top = exact.floor().clamp(*limits), (exact.floor() + 1).clamp(*limits)
    chosen = exact.round().clamp(*limits)
    turn = torch.where(chosen > floor, floor - chosen, top - chosen) * scale
    # The error of an output is q own q^T - 2 w cross q^T, and a turn t of weight j adds 2 t slope_j + t^2 own_jj.
    slope = (chosen * scale) @ own - weight @ cross
    curvature = own.diagonal(dim1=1, dim2=2).unsqueeze(1)
    for _ in range(weight.shape[2]):
        gain, best = (turn * (2 * slope + turn * curvature)).min(2, keepdim=True)
        taken = torch.where(gain < 0, turn.gather(2, best), 0.0)
        if not bool(taken.any()):
            break
        slope += taken * own.gather(1, best.expand(-1, -1, own.shape[2]))
        chosen.scatter_add_(2, best, (taken / scale).round())
        turn.scatter_add_(2, best, -2 * taken)
    return chosen * scale


def _along(given: int | Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Return an argument of a convolution for each axis of its kernel."""
    values = (given,) if isinstance(given, int) else tuple(given)
    return values * len(kernel) if len(values) == 1 else values
